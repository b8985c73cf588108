// One HTML file that needs no server: the network, its settings and all WebAssembly stand in it as gzip in base64.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

// writes model/, by the exporter of the command line: PYTHON is one in which this repository is installed
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
execFileSync(process.env.PYTHON ?? "python", [here("../../scripts/web_model.py"), "--output", here("model")]);

const packed = {
  name: "packed",
  enforce: "pre",
  load(id) {
    const [file, query] = id.split("?");
    if (query === "packed") return `export default "${gzipSync(readFileSync(file), { level: 9 }).toString("base64")}"`;
  },
  transform(code, id) {
    // the runtimes are given their WebAssembly; Vite would embed what they look for beside them once more
    if (/onnxruntime-web|dcm2niix/.test(id))
      return code.replace(/new URL\(("[^"]+\.wasm"), ?import\.meta\.url\)\.href/g, "$1").replace('await import("module")', "{}");
  },
};

export default defineConfig({
  base: "./",
  plugins: [packed, viteSingleFile()],
  worker: { format: "iife", plugins: () => [packed] },
  build: { target: "es2022", chunkSizeWarningLimit: Infinity, reportCompressedSize: false },
});
