// A DICOM series as NIfTI, by dcm2niix.

import Dcm2niix from "../node_modules/@niivue/dcm2niix/dist/dcm2niix.jpeg.js";
import { InputError } from "./nifti.js";

// One volume of all files; what dcm2niix had to resample or tell apart is refused, for the command line refuses it too.
export async function convertDicom(files, name, wasmBinary) {
  const said = [];
  const print = (line) => said.push(line);
  const module = await Dcm2niix({ wasmBinary, noInitialRun: true, print, printErr: print });
  module.FS.mkdir("/in");
  module.FS.mkdir("/out");
  for (const [index, file] of files.entries())
    module.FS.createDataFile("/in", `${index}`, new Uint8Array(await file.arrayBuffer()), true, false);
  module.callMain(["-z", "n", "-b", "n", "-f", "series_%s", "-o", "/out", "/in"]);
  const names = module.FS.readdir("/out").filter((name) => name.endsWith(".nii"));
  if (!names.length) throw new InputError(`${name}: expected a NIfTI file or a DICOM series, found neither.`);
  // a tilt that no tag tells is put into one volume, whose affine does not know of it
  if (said.some((line) => /gantry tilt/i.test(line)))
    throw new InputError(`${name}: expected slices straight above each other, found those of a tilted gantry.`);
  if (names.length > 1)
    throw new InputError(`${name}: expected one evenly spaced DICOM series, found ${names.sort().join(", ")}.`);
  return new File([module.FS.readFile(`/out/${names[0]}`)], `${name}.nii`);
}
