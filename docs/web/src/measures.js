// What a label map amounts to: the port of `measure_case` in common/kits/metrics.py; and what stays of it.

const [KIDNEY, TUMOR] = [1, 2];
const [WHOLE_SCAN_SLICES, WHOLE_SCAN_MM, KIDNEYS] = [16, 100, 2];

// Volumes in ml, lesions (26-connected), and the largest distance in mm between two voxel centres of one lesion in one
// axial slice; and the centre of that lesion, in voxels of RAS. `ras` and `walk` as orientToRas and walkRas give them.
export function measure(mask, dims, ras, walk) {
  const shape = ras.map(({ axis }) => dims[axis]);
  const voxelMl = ras.reduce((product, { mm }) => product * mm, 1) / 1000;
  const kidney = mask.reduce((count, label) => count + (label === KIDNEY), 0);
  const found = { kidney_ml: kidney * voxelMl, tumor_ml: 0, lesions: 0, tumor_diameter_mm: 0 };
  for (const piece of takePieces(mask, shape, walk, (label) => label === TUMOR)) {
    const lesion = piece.map((number) => place(number, shape));
    found.lesions++;
    found.tumor_ml += lesion.length * voxelMl;
    const diameter = Math.max(...rowEnds(lesion, ras).map(farthest));
    if (found.centre && diameter <= found.tumor_diameter_mm) continue;
    found.tumor_diameter_mm = diameter;
    found.centre = [0, 1, 2].map((i) => lesion.reduce((sum, voxel) => sum + voxel[i], 0) / lesion.length);
  }
  return found;
}

// Of a whole scan only the two largest pieces stay in the mask, of anything shorter all: the port of `keep_components` in
// common/kits/components.py. Gives the ml that went.
export function keepLargest(mask, dims, ras, walk) {
  const shape = ras.map(({ axis }) => dims[axis]);
  if (shape[2] < WHOLE_SCAN_SLICES || shape[2] * ras[2].mm < WHOLE_SCAN_MM) return 0;
  const pieces = [...takePieces(mask, shape, walk, (label) => label > 0)].sort((a, b) => b.length - a.length);
  let gone = 0;
  for (const piece of pieces.slice(KIDNEYS)) {
    for (const number of piece) mask[locate(place(number, shape), walk)] = 0;
    gone += piece.length;
  }
  return (gone * ras.reduce((product, { mm }) => product * mm, 1)) / 1000;
}

function place(number, [width, height]) {
  return [number % width, Math.floor(number / width) % height, Math.floor(number / (width * height))];
}

function locate([x, y, z], { first, steps }) {
  return first + x * steps[0] + y * steps[1] + z * steps[2];
}

// Which voxels of RAS hang together (26 neighbours), a list of their numbers for every piece.
function* takePieces(mask, [width, height, depth], walk, belongs) {
  const free = new Uint8Array(width * height * depth);
  for (let z = 0, number = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, number++) free[number] = belongs(mask[locate([x, y, z], walk)]);
  for (let seed = free.indexOf(1); seed >= 0; seed = free.indexOf(1, seed)) {
    const piece = [seed];
    free[seed] = 0;
    for (let i = 0; i < piece.length; i++) {
      const [x, y, z] = place(piece[i], [width, height]);
      for (let dz = -1; dz <= 1; dz++)
        for (let dy = -1; dy <= 1; dy++)
          for (let dx = -1; dx <= 1; dx++) {
            if (x + dx < 0 || x + dx >= width || y + dy < 0 || y + dy >= height) continue;
            const next = x + dx + width * (y + dy + height * (z + dz));
            if (free[next]) {
              free[next] = 0;
              piece.push(next);
            }
          }
    }
    yield piece;
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
