// The page: takes files, starts a worker for each image, and shows what it found.

import { NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import dcm2niix from "/node_modules/@niivue/dcm2niix/dist/dcm2niix.jpeg.wasm?packed";
import onGpu from "/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.jspi.wasm?packed";
import onWasm from "/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm?packed";
import model from "/model/model.onnx?packed";
import settings from "/model/settings.json";
import SegmentWorker from "./worker.js?worker&inline";

const UINT8 = 2; // of NIfTI
const OPACITY = 0.5;
const DEVICES = { wasm: "WebAssembly", webgpu: "WebGPU" };
const COLORS = { R: [0, 76, 229], G: [0, 155, 72], B: [0, 232, 61], A: [0, 255, 255], I: [0, 1, 2] };
const UNITS = { kidney_ml: " ml", tumor_ml: " ml", lesions: "", tumor_diameter_mm: " mm" };
const by = (id) => document.getElementById(id);
const sliders = [...document.querySelectorAll("[data-axis]")];
const gpu = hasGpu();
let worker, viewer, save;

by("network").textContent = `${settings.name} ${settings.version} (weights ${settings.weights_sha256.slice(0, 12)})`;
for (const button of document.querySelectorAll("[data-opens]")) {
  const input = by(button.dataset.opens);
  button.onclick = () => input.click();
  input.onchange = () => {
    start([...input.files]);
    input.value = "";
  };
}
addEventListener("dragover", (event) => {
  event.preventDefault();
  by("drop").classList.add("over");
});
addEventListener("dragleave", () => by("drop").classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  // all at once, for the items are gone after the first await
  const dropped = [...event.dataTransfer.items].filter(({ kind }) => kind === "file").map(openItem);
  start((await Promise.all(dropped)).flat());
});

// The files of what was dropped; handles where there are any, for entries of a page on disk cannot be read.
async function openItem(item) {
  const file = item.getAsFile();
  const handle = (await item.getAsFileSystemHandle?.()) ?? null;
  return handle?.kind === "directory" ? listFolder(handle, handle.name) : [file];
}

async function listFolder(handle, folder) {
  const files = [];
  for await (const entry of handle.values())
    if (entry.kind === "directory") files.push(...(await listFolder(entry, folder)));
    else files.push(Object.assign(await entry.getFile(), { folder }));
  return files;
}

async function start(files) {
  worker?.terminate(); // and its memory with it
  by("error").textContent = by("done").textContent = "";
  by("warnings").replaceChildren();
  by("result").hidden = true;
  if (!files.length) return fail("scan: expected a NIfTI file or the folder of a DICOM series, found no file.");
  const began = performance.now();
  const useGpu = await gpu;
  worker?.terminate(); // of a choice made in the meantime
  worker = new SegmentWorker();
  worker.onerror = (event) => fail(event.message);
  worker.onmessage = async ({ data: { step, share, warning, error, result } }) => {
    if (step) showProgress(step, share);
    if (warning) warn(warning);
    if (error) fail(error);
    if (result) {
      worker.terminate();
      by("progress").hidden = true;
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      by("done").textContent = `${nameScan(files)}: ${seconds} s (${DEVICES[result.device]})`;
      await show(result, files);
    }
  };
  showProgress("Starting", 0);
  worker.postMessage({ files, name: nameScan(files), settings, model, dcm2niix, runtime: useGpu ? onGpu : onWasm, useGpu });
}

// A real graphics card in a browser whose WebAssembly can wait for it; #wasm in the address says no.
async function hasGpu() {
  if (location.hash === "#wasm" || !("Suspending" in WebAssembly)) return false;
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !adapter.info?.isFallbackAdapter;
}

function showProgress(step, share) {
  by("progress").hidden = false;
  by("step").textContent = step;
  by("bar").value = share;
}

function warn(message) {
  by("warnings").append(Object.assign(document.createElement("li"), { textContent: message }));
}

// The folder that was chosen or dropped, or the file.
function nameScan([file]) {
  return file.folder || file.webkitRelativePath?.split("/")[0] || file.name;
}

function fail(message) {
  worker?.terminate();
  by("progress").hidden = true;
  by("error").textContent = message;
}

async function show({ mask, header, shape, measures, preview }, files) {
  for (const [name, unit] of Object.entries(UNITS))
    by(name).textContent = `${unit ? measures[name].toFixed(1) : measures[name]}${unit}`;
  if (!measures.kidney_ml && !measures.tumor_ml) warn("Found no kidney.");
  by("result").hidden = false;
  save = async () => {
    const stream = new Blob([header, mask]).stream().pipeThrough(new CompressionStream("gzip"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await new Response(stream).blob());
    link.download = `${nameScan(files).replace(/\.nii(\.gz)?$/i, "")}_mask.nii.gz`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  try {
    await draw(preview);
    sliders.forEach((slider) => Object.assign(slider, { min: 1, max: shape[slider.dataset.axis] }));
    sliders.forEach((slider) => moveTo(slider, (measures.centre?.[slider.dataset.axis] ?? slider.max / 2) + 1));
  } catch (error) {
    fail(`view: expected to draw it, found: ${error.message}; the mask can be saved all the same.`);
  }
}

by("save").onclick = () => save();
by("shown").onchange = () => viewer.setOpacity(1, by("shown").checked ? OPACITY : 0);
for (const slider of sliders) slider.oninput = () => moveTo(slider, slider.value);

function moveTo(slider, number) {
  slider.value = number;
  slider.nextElementSibling.textContent = `${slider.value} of ${slider.max}`;
  viewer.scene.crosshairPos[slider.dataset.axis] = (slider.value - 0.5) / slider.max;
  viewer.drawScene();
}

async function draw({ image, mask, dims, affine }) {
  if (!viewer) {
    viewer = new Niivue({
      dragAndDropEnabled: false, loadingText: "", logLevel: "silent", crosshairColor: [1, 1, 1, 0.4], crosshairWidth: 1, isRadiologicalConvention: true,
      multiplanarShowRender: SHOW_RENDER.NEVER, sliceType: SLICE_TYPE.MULTIPLANAR, show3Dcrosshair: false,
    });
    await viewer.attachTo("canvas");
    viewer.onLocationChange = ({ frac }) =>
      sliders.forEach((slider) => moveTo(slider, Math.round(frac[slider.dataset.axis] * slider.max + 0.5)));
  }
  const mm = [0, 1, 2].map((axis) => Math.hypot(...affine.map((row) => row[axis])));
  const load = (bytes, name, opacity) => {
    const file = NVImage.createNiftiArray(dims, mm, [...affine.flat(), 0, 0, 0, 1], UINT8, bytes);
    return NVImage.new(file.buffer, name, "gray", opacity);
  };
  viewer.back = await load(image, "image.nii", 1);
  viewer.overlays = [await load(mask, "mask.nii", by("shown").checked ? OPACITY : 0)];
  viewer.overlays[0].setColormapLabel(COLORS);
  viewer.volumes = [viewer.back, ...viewer.overlays]; // not addVolume, which draws all of them for each
  viewer.updateGLVolume();
}
