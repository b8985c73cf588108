// What a label map amounts to: the port of `measure_case` in common/kits/metrics.py.

const TUMOR = 2;

// Volumes in ml, lesions (26-connected), and the largest distance in mm between two voxel centres of one lesion in one
// axial slice; and the centre of that lesion, in voxels of RAS. `ras` and `walk` as orientToRas and walkRas give them.
export function measure(mask, dims, ras, { first, steps }) {
  const shape = ras.map(({ axis }) => dims[axis]);
  const voxelMl = ras.reduce((product, { mm }) => product * mm, 1) / 1000;
  let kidney = 0;
  const tumor = new Set(); // voxels of RAS numbers that no lesion has claimed
  for (let z = 0, number = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++)
      for (let x = 0; x < shape[0]; x++, number++) {
        const label = mask[first + x * steps[0] + y * steps[1] + z * steps[2]];
        if (label === 1) kidney++;
        if (label === TUMOR) tumor.add(number);
      }
  const found = { kidney_ml: kidney * voxelMl, tumor_ml: tumor.size * voxelMl, lesions: 0, tumor_diameter_mm: 0 };
  for (const seed of tumor) {
    found.lesions++;
    const lesion = takeLesion(tumor, seed, shape);
    const diameter = Math.max(...rowEnds(lesion, ras).map(farthest));
    if (found.centre && diameter <= found.tumor_diameter_mm) continue;
    found.tumor_diameter_mm = diameter;
    found.centre = [0, 1, 2].map((i) => lesion.reduce((sum, voxel) => sum + voxel[i], 0) / lesion.length);
  }
  return found;
}

// The voxels (x, y, z) that hang together with one; they leave the set.
function takeLesion(free, seed, [width, height]) {
  const lesion = [seed];
  free.delete(seed);
  for (let i = 0; i < lesion.length; i++) {
    const [x, y, z] = place(lesion[i]);
    for (let dz = -1; dz <= 1; dz++)
      for (let dy = -1; dy <= 1; dy++)
        for (let dx = -1; dx <= 1; dx++) {
          if (x + dx < 0 || x + dx >= width || y + dy < 0 || y + dy >= height) continue;
          const next = x + dx + width * (y + dy + height * (z + dz));
          if (free.delete(next)) lesion.push(next);
        }
  }
  return lesion.map(place);

  function place(number) {
    return [number % width, Math.floor(number / width) % height, Math.floor(number / (width * height))];
  }
}

// In each slice the first and the last voxel of every row, in mm: among them are the two that lie farthest apart.
function rowEnds(voxels, ras) {
  const slices = new Map();
  for (const [x, y, z] of voxels) {
    if (!slices.has(z)) slices.set(z, new Map());
    const [low, high] = slices.get(z).get(y) ?? [x, x];
    slices.get(z).set(y, [Math.min(low, x), Math.max(high, x)]);
  }
  return [...slices.values()].map((rows) =>
    [...rows].flatMap(([y, ends]) => ends.map((x) => [x * ras[0].mm, y * ras[1].mm])),
  );
}

function farthest(points) {
  let longest = 0;
  for (const [x, y] of points) for (const [u, v] of points) longest = Math.max(longest, Math.hypot(x - u, y - v));
  return longest;
}
