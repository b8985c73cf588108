// Segments one image: a message in, with the files, the network and the runtimes; messages of progress and a result out.

import * as onWasm from "onnxruntime-web/wasm";
import * as onGpu from "onnxruntime-web/jspi";
import { convertDicom } from "./dicom.js";
import { keepLargest, measure } from "./measures.js";
import { InputError, makeMaskHeader, readCt } from "./nifti.js";
import { makePreview } from "./preview.js";
import { SliceGrid, orientToRas, walkRas } from "./preprocessing.js";

const LOGITS = 1e-2; // that a graphics card may be off the processor

self.onmessage = async ({ data }) => {
  try {
    const result = await segment(data);
    self.postMessage({ result }, [result.mask.buffer]);
  } catch (error) {
    const told = error instanceof InputError ? error.message : `expected to segment it, found: ${error.message ?? error}`;
    self.postMessage({ error: told });
  }
};

function tell(step, share) {
  self.postMessage({ step, share });
}

async function segment({ files, name, settings, model, dcm2niix, runtime, useGpu }) {
  let file = files[0];
  if (files.length > 1 || !/\.nii(\.gz)?$/i.test(file.name)) {
    tell("Reading DICOM", 0);
    file = await convertDicom(files, name, await unpack(dcm2niix));
  }
  const ct = await readCt(file, settings.hu_window, (share) => tell("Reading", share));
  ct.warnings.forEach((warning) => self.postMessage({ warning }));
  const ras = orientToRas(ct.affine);
  const walk = walkRas(ct.dims, ras);
  const shape = ras.map(({ axis }) => ct.dims[axis]);
  const grid = new SliceGrid(settings.grid, shape.slice(0, 2), [ras[0].mm, ras[1].mm]);
  const network = await openNetwork(await unpack(model), await unpack(runtime), useGpu, grid.padded, () =>
    grid.enter(takeSlice(ct.bytes, shape, walk, shape[2] >> 1, new Uint8Array(shape[0] * shape[1]))),
  );
  const mask = new Uint8Array(ct.bytes.length);
  const [bytes, labels] = [0, 1].map(() => new Uint8Array(shape[0] * shape[1]));
  for (let z = 0; z < shape[2]; z++) {
    const { data, dims } = await network.run(grid.enter(takeSlice(ct.bytes, shape, walk, z, bytes)));
    grid.leave(data, dims[1], labels);
    putSlice(mask, shape, walk, z, labels);
    tell(`Slice ${z + 1} of ${shape[2]}`, (z + 1) / shape[2]);
  }
  const gone = keepLargest(mask, ct.dims, ras, walk);
  if (gone >= 1) self.postMessage({ warning: `Left out ${gone.toFixed(0)} ml apart from the largest pieces.` });
  const header = makeMaskHeader(ct, `kits-lite web ${settings.version}, weights ${settings.weights_sha256.slice(0, 12)}`);
  const { device } = network;
  const measures = measure(mask, ct.dims, ras, walk);
  return { mask, header, shape, device, measures, preview: makePreview(ct.bytes, mask, ct.dims, ct.affine) };
}

function takeSlice(bytes, [width, height], { first, steps }, z, slice) {
  for (let x = 0, i = 0; x < width; x++)
    for (let y = 0; y < height; y++, i++) slice[i] = bytes[first + x * steps[0] + y * steps[1] + z * steps[2]];
  return slice;
}

function putSlice(mask, [width, height], { first, steps }, z, slice) {
  for (let x = 0, i = 0; x < width; x++)
    for (let y = 0; y < height; y++, i++) mask[first + x * steps[0] + y * steps[1] + z * steps[2]] = slice[i];
}

// The network on the graphics card where it computes there what the processor computes on one slice, else on the processor.
async function openNetwork(model, runtime, useGpu, size, makeExample) {
  const ort = useGpu ? onGpu : onWasm;
  Object.assign(ort.env.wasm, { wasmBinary: runtime, numThreads: 1 }); // threads need headers that a file has not
  ort.env.logLevel = "error";
  const open = async (device) => {
    const session = await ort.InferenceSession.create(model, { executionProviders: [device] });
    const run = async (pixels) => (await session.run({ image: new ort.Tensor("float32", pixels, [1, 1, ...size]) })).pred;
    return { device, run };
  };
  const processor = await open("wasm");
  if (!useGpu) return processor;
  try {
    const card = await open("webgpu");
    const example = makeExample();
    const [expected, found] = [await processor.run(example), await card.run(example)];
    if (found.data.every((value, i) => Math.abs(value - expected.data[i]) < LOGITS)) return card;
    self.postMessage({ warning: "WebGPU: expected the processor's logits, found others: the processor computes." });
  } catch (error) {
    self.postMessage({ warning: `WebGPU: expected a network to run, found: ${error.message}: the processor computes.` });
  }
  return processor;
}

// What the build embedded: gzip as base64.
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
