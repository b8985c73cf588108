// What stands between a CT volume and the network, and between its logits and the label map.
//
// A port of common/kits/preprocessing.py, function by function and name by name; whoever changes the one changes the
// other. Here a volume stays in its file's order, and RAS is a way to walk through it. tests/web/test_page.py holds the
// masks of both together.

// Like Python's round and numpy's rint: halves go to the even neighbour.
export function rint(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

// A function from Hounsfield units to 0 ... 255; `single` where numpy would compute in float32.
export function makeWindow([low, high], single = false) {
  const round = single ? Math.fround : (value) => value;
  const step = round(255 / (high - low));
  return (value) => rint(round(round(Math.min(Math.max(value, low), high) - low) * step));
}

// Axes of a file as they come nearest to right, anterior, superior: nibabel's io_orientation, for orthogonal axes.
// Gives for each of the three the axis of the file, whether it runs the other way, and its voxels' size in mm.
export function orientToRas(affine) {
  const sizes = [0, 1, 2].map((axis) => Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]));
  const cosines = sizes.map((size, axis) => [0, 1, 2].map((to) => affine[to][axis] / size));
  const largest = (axis) => Math.max(...cosines[axis].map(Math.abs));
  const ras = [];
  for (const axis of [0, 1, 2].sort((a, b) => largest(b) - largest(a))) {
    const free = [0, 1, 2].filter((to) => !ras[to]);
    const to = free.reduce((a, b) => (Math.abs(cosines[axis][b]) > Math.abs(cosines[axis][a]) ? b : a));
    ras[to] = { axis, flipped: cosines[axis][to] < 0, mm: sizes[axis] };
  }
  return ras;
}

// Where RAS voxel (x, y, z) of a volume in file order lies: first + x * steps[0] + y * steps[1] + z * steps[2].
export function walkRas(dims, ras) {
  const strides = [1, dims[0], dims[0] * dims[1]];
  const first = ras.reduce((sum, { axis, flipped }) => sum + (flipped ? (dims[axis] - 1) * strides[axis] : 0), 0);
  return { first, steps: ras.map(({ axis, flipped }) => (flipped ? -strides[axis] : strides[axis])) };
}

// Which inputs, with which weights, make every output of a resized axis: PyTorch's bilinear with antialias=True.
function weighAxis(length, size) {
  const scale = length / size;
  const support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, index) => {
    const centre = scale * (index + 0.5);
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const stop = Math.min(Math.trunc(centre + support + 0.5), length);
    const weights = [];
    for (let i = start; i < stop; i++) weights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / support)));
    const sum = weights.reduce((a, b) => a + b);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

// `resize_slices` of one plane: a function from (source, its first pixel, its row stride) into (target, ..., ...).
export function makeResize([height, width], [toHeight, toWidth]) {
  const rows = weighAxis(height, toHeight);
  const columns = weighAxis(width, toWidth);
  const mixed = new Float32Array(width);
  return (source, from, stride, target, to, toStride) => {
    rows.forEach(({ start, weights }, row) => {
      mixed.fill(0);
      weights.forEach((weight, i) => {
        const begin = from + (start + i) * stride;
        for (let column = 0; column < width; column++) mixed[column] += weight * source[begin + column];
      });
      for (let column = 0; column < toWidth; column++) {
        const { start: first, weights: parts } = columns[column];
        let sum = 0;
        for (let i = 0; i < parts.length; i++) sum += parts[i] * mixed[first + i];
        target[to + row * toStride + column] = sum;
      }
    });
  };
}

// `SliceGrid` for slices of one shape (height, width) with pixels of one size in mm: bytes in, classes out.
export class SliceGrid {
  constructor({ spatial_size, factor, pixel_mm, divisor }, shape, spacingMm) {
    this.shape = shape;
    const scaled = shape.map((length, i) => Math.max(1, rint(length * (factor ?? spacingMm[i] / pixel_mm))));
    this.scaled = spatial_size ?? scaled;
    this.padded = spatial_size ?? scaled.map((length) => Math.ceil(length / divisor) * divisor);
    this.shrink = makeResize(shape, this.scaled);
    this.grow = makeResize(this.scaled, shape);
    this.scale = Float32Array.from({ length: 256 }, (_, byte) => byte / 255); // scale_intensity
    this.pixels = new Float32Array(shape[0] * shape[1]);
    this.logits = null;
  }

  // A slice of bytes as the network sees it: float32, with zeros at the end of both axes.
  enter(bytes) {
    for (let i = 0; i < bytes.length; i++) this.pixels[i] = this.scale[bytes[i]];
    const seen = new Float32Array(this.padded[0] * this.padded[1]);
    this.shrink(this.pixels, 0, this.shape[1], seen, 0, this.padded[1]);
    return seen;
  }

  // Logits (classes, height, width) of it, back on its own grid, as `choose_classes` chooses: the first of equals.
  leave(logits, classes, labels) {
    const [size, plane] = [labels.length, this.padded[0] * this.padded[1]];
    this.logits ??= new Float32Array(size * classes);
    for (let c = 0; c < classes; c++)
      this.grow(logits, c * plane, this.padded[1], this.logits, c * size, this.shape[1]);
    for (let i = 0; i < size; i++) {
      labels[i] = 0;
      for (let c = 1; c < classes; c++)
        if (this.logits[c * size + i] > this.logits[labels[i] * size + i]) labels[i] = c;
    }
  }
}
