// What is drawn. A whole scan takes gigabytes of a graphics card, so it is drawn coarser; it is saved as it is.

const VOXELS = 2 ** 24;

// Image and mask on a grid that is coarser by whole numbers where it has to be: means of the image, the highest label.
export function makePreview(image, mask, dims, affine) {
  const mm = [0, 1, 2].map((axis) => Math.hypot(...affine.map((row) => row[axis])));
  const step = [1, 1, 1];
  const count = () => dims.map((length, axis) => Math.ceil(length / step[axis]));
  while (count().reduce((a, b) => a * b) > VOXELS) {
    const size = mm.map((length, axis) => length * step[axis]);
    step[size.indexOf(Math.min(...size))] *= 2;
  }
  const shape = count();
  const [means, labels] = [0, 1].map(() => new Uint8Array(shape[0] * shape[1] * shape[2]));
  for (let z = 0, i = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++)
      for (let x = 0; x < shape[0]; x++, i++) {
        let [sum, voxels] = [0, 0];
        for (let w = z * step[2]; w < Math.min((z + 1) * step[2], dims[2]); w++)
          for (let v = y * step[1]; v < Math.min((y + 1) * step[1], dims[1]); v++)
            for (let u = x * step[0]; u < Math.min((x + 1) * step[0], dims[0]); u++, voxels++) {
              const at = u + dims[0] * (v + dims[1] * w);
              sum += image[at];
              if (mask[at] > labels[i]) labels[i] = mask[at];
            }
        means[i] = sum / voxels;
      }
  const grid = affine.map((row) => {
    const shift = step.reduce((total, n, axis) => total + (row[axis] * (n - 1)) / 2, row[3]);
    return [...step.map((n, axis) => row[axis] * n), shift];
  });
  return { image: means, mask: labels, dims: shape, affine: grid };
}
