// NIfTI files: read as a stream through the HU window, one byte a voxel, and masks with the header forms of their image.
// The checks and their words are those of common/kits/volumes.py, the mask's header that of common/kits/masks.py.

import { NIFTI1, isNIFTI1, isNIFTI2, readHeader } from "nifti-reader-js";
import { makeWindow, orientToRas } from "./preprocessing.js";

export class InputError extends Error {}

const ARRAYS = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array, 1024: BigInt64Array, 1280: BigUint64Array,
};
const UNITS = { 1: "metres", 3: "micrometres" };
// [first byte, numbers, bytes of each] of what places an image: pixdim, units, codes, quaternion and offset, srow
const FORMS = {
  348: [[76, 8, 4], [123, 1, 1], [252, 2, 2], [256, 6, 4], [280, 12, 4]],
  540: [[104, 8, 8], [500, 1, 4], [344, 2, 4], [352, 6, 8], [400, 12, 8]],
};

// Read a CT: its voxels as bytes in file order, where they lie, and what its mask's header needs.
export async function readCt(file, huWindow, onProgress) {
  const magic = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const isGzip = magic[0] === 0x1f && magic[1] === 0x8b;
  const reader = (isGzip ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream()).getReader();
  let [found, voxels, rest] = [null, null, new Uint8Array(0)];
  try {
    // to the end of the stream, for only there gzip compares its checksum
    for (let chunk; !(chunk = await reader.read()).done; ) {
      const bytes = new Uint8Array(rest.length + chunk.value.length); // a copy, which begins at a whole voxel
      bytes.set(rest);
      bytes.set(chunk.value, rest.length);
      rest = bytes;
      if (!found && rest.length >= 544) {
        found = checkHeader(file.name, rest.buffer.slice(0, 544));
        voxels = windowVoxels(file.name, found, huWindow);
      }
      if (found && rest.length >= voxels.skip) {
        rest = voxels.add(voxels.skip ? rest.slice(voxels.skip) : rest);
        onProgress(voxels.at / voxels.bytes.length);
      }
    }
    if (voxels?.at !== voxels?.bytes.length || !found) throw new Error("it ends too early");
  } catch (error) {
    if (error instanceof InputError) throw error;
    const expected = found ? `(${found.dims.join(", ")}) voxels` : "a NIfTI image";
    throw new InputError(`${file.name}: expected ${expected}, found a truncated or damaged file (${error.message}).`);
  }
  const problem = describeRangeProblem(voxels.lowest, voxels.highest);
  if (problem) found.warnings.push(`${file.name}: ${problem}.`);
  return { ...found, bytes: voxels.bytes };
}

// Takes the voxels of a file piece by piece and keeps them as bytes, the HU window stretched over 0 to 255.
function windowVoxels(name, { dims, Voxels, offset, slope, inter, littleEndian }, huWindow) {
  const isScaled = Number.isFinite(slope) && slope !== 0 && !(slope === 1 && inter === 0);
  const toByte = makeWindow(huWindow, Voxels === Float32Array && !isScaled);
  const size = Voxels.BYTES_PER_ELEMENT;
  const state = { skip: offset, at: 0, lowest: Infinity, highest: -Infinity, add };
  state.bytes = new Uint8Array(dims[0] * dims[1] * dims[2]);
  return state;

  function add(raw) {
    state.skip = 0;
    const count = Math.min(Math.floor(raw.length / size), state.bytes.length - state.at);
    if (!littleEndian) for (let i = 0; i < count; i++) raw.subarray(i * size, (i + 1) * size).reverse();
    const values = new Voxels(raw.buffer, 0, count);
    for (let i = 0; i < count; i++) {
      const value = isScaled ? Number(values[i]) * slope + inter : Number(values[i]);
      if (!Number.isFinite(value))
        throw new InputError(`${name}: expected finite Hounsfield units, found NaN or infinity.`);
      if (value < state.lowest) state.lowest = value;
      if (value > state.highest) state.highest = value;
      state.bytes[state.at++] = toByte(value);
    }
    return state.at < state.bytes.length ? raw.slice(count * size) : new Uint8Array(0);
  }
}

function describeRangeProblem(lowest, highest) {
  const found = `found values from ${lowest} to ${highest}`;
  if (highest - lowest < 100) return `expected Hounsfield units, ${found}: constant, normalized or standardized`;
  if (lowest >= 0 && highest > 255)
    return `expected Hounsfield units with air below 0, ${found}: MR, PET, or CT without its rescale intercept`;
  return lowest < -32768 || highest > 65535 ? `expected Hounsfield units, ${found}` : "";
}

function checkHeader(name, buffer) {
  const refuse = (expected, actual) => {
    throw new InputError(`${name}: expected ${expected}, found ${actual}.`);
  };
  const version = isNIFTI1(buffer) ? 348 : isNIFTI2(buffer) ? 540 : 0;
  if (!version) refuse("a NIfTI image", "another kind of file");
  const header = readHeader(buffer.slice(0, version + 4));
  const shape = header.dims.slice(1, header.dims[0] + 1);
  while (shape.length > 3 && shape.at(-1) === 1) shape.pop();
  if (shape.length !== 3 || Math.min(...shape) < 1) refuse("a 3-D image", `shape (${shape.join(", ")})`);
  const Voxels = ARRAYS[header.datatypeCode];
  if (!Voxels) refuse("real numbers", `voxels of type ${header.getDatatypeCodeString(header.datatypeCode)}`);
  const affines = readAffines(header, shape, new DataView(buffer));
  const affine = affines.sform ?? affines.qform ?? affines.neither;
  const lengths = [0, 1, 2].map((axis) => Math.hypot(...affine.map((row) => row[axis])));
  if (!affine.flat().every(Number.isFinite) || Math.min(...lengths) === 0)
    refuse("an invertible affine", JSON.stringify(affine));
  for (const [a, b] of [[0, 1], [0, 2], [1, 2]])
    if (Math.abs(affine.reduce((sum, row) => sum + row[a] * row[b], 0)) > 0.01 * lengths[a] * lengths[b])
      refuse("orthogonal axes", `a sheared affine ${JSON.stringify(affine)}`);
  if (UNITS[header.xyzt_units & 7]) refuse("millimetres in xyzt_units", UNITS[header.xyzt_units & 7]);
  const warnings = [];
  if (affines.neither) warnings.push(`${name}: expected an sform or a qform, found neither: left and right are a guess.`);
  if (affines.sform && affines.qform && axcodes(affines.sform) !== axcodes(affines.qform))
    warnings.push(`${name}: expected one orientation of sform and qform, found two: took the sform.`);
  return {
    dims: shape, affine, warnings, Voxels, version, littleEndian: header.littleEndian, block: buffer,
    offset: header.vox_offset, slope: header.scl_slope, inter: header.scl_inter,
  };
}

function axcodes(affine) {
  return orientToRas(affine).map(({ axis, flipped }) => `${axis}${flipped}`).join();
}

// What sform and qform say, where their codes say that they count; otherwise what nibabel makes of the sizes alone.
function readAffines(header, shape, view) {
  const mm = header.pixDims.slice(1, 4).map(Math.abs);
  if (header.sform_code <= 0 && header.qform_code <= 0) {
    const steps = [-mm[0], mm[1], mm[2]];
    return { neither: steps.map((step, i) => [...[0, 1, 2].map((j) => (i === j ? step : 0)), (-step * (shape[i] - 1)) / 2]) };
  }
  const affines = {};
  if (header.sform_code > 0) {
    // not header.affine, which is the qform where its code is larger
    const get = header instanceof NIFTI1
      ? (i) => view.getFloat32(280 + 4 * i, header.littleEndian)
      : (i) => view.getFloat64(400 + 8 * i, header.littleEndian);
    affines.sform = [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => get(4 * row + column)));
  }
  if (header.qform_code > 0) {
    const { quatern_b: b, quatern_c: c, quatern_d: d } = header;
    const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
    const turn = [
      [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
      [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
      [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    if (header.pixDims[0] < 0) mm[2] *= -1;
    const origin = [header.qoffset_x, header.qoffset_y, header.qoffset_z];
    affines.qform = turn.map((row, i) => [...row.map((value, j) => value * mm[j]), origin[i]]);
  }
  return affines;
}

// The header of a mask: sform, qform, their codes and the units as its image has them, bit by bit, little-endian.
export function makeMaskHeader({ block, version, littleEndian, dims }, description) {
  const header = new Uint8Array(version + 4);
  const view = new DataView(header.buffer);
  for (const [start, count, size] of FORMS[version])
    for (let i = 0; i < count; i++) {
      const number = new Uint8Array(block.slice(start + i * size, start + (i + 1) * size));
      header.set(littleEndian ? number : number.reverse(), start + i * size);
    }
  const isFirst = version === 348;
  const text = (value, at) => header.set(new TextEncoder().encode(value), at);
  const real = (value, at) => (isFirst ? view.setFloat32(at, value, true) : view.setFloat64(at, value, true));
  view.setInt32(0, version, true);
  text(isFirst ? "n+1\0" : "n+2\0\r\n\x1a\n", isFirst ? 344 : 4);
  [3, ...dims, 1, 1, 1, 1].forEach((length, i) =>
    isFirst ? view.setInt16(40 + 2 * i, length, true) : view.setBigInt64(16 + 8 * i, BigInt(length), true),
  );
  view.setInt16(isFirst ? 70 : 12, 2, true); // uint8
  view.setInt16(isFirst ? 72 : 14, 8, true);
  if (isFirst) view.setFloat32(108, 352, true);
  else view.setBigInt64(168, 544n, true);
  real(1, isFirst ? 112 : 176); // slope
  for (let i = 4; i < 8; i++) real(1, isFirst ? 76 + 4 * i : 104 + 8 * i);
  text(description.slice(0, 79), isFirst ? 148 : 240);
  return header;
}
