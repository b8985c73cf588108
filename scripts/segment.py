"""Segment kidneys and kidney tumours in CT: NIfTI, NRRD, a KiTS folder or a DICOM series."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from common.app.report import write_index
from common.app.segmenter import Segmenter, measure_file, segment_to_folder
from common.errors import report_input_errors, report_warnings, tell_failure
from common.kits.cases import check_output, find_cases
from common.runtimes.run import BACKENDS, PRECISIONS, choose_backend

OPTIONS = ("device", "series", "keep_largest", "backend", "exported", "precision")
EXAMPLE = "example: python scripts/segment.py --bundle bundles/kits_pocket_unet_segmentation --input scans --output out"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", required=True, help="bundle folder with weights")
    parser.add_argument("--input", required=True, help="image, folder of images, KiTS folder or DICOM series folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for <case>.nii.gz")
    parser.add_argument("--report", action="store_true", help="write <case>.html for every case, and index.html")
    parser.add_argument("--keep-largest", type=int, metavar="N", help="keep the N largest components of the foreground")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--backend", help=f"what computes: {', '.join(BACKENDS)}; by default openvino on a CPU, torch on a GPU"
    )
    parser.add_argument("--exported", metavar="FILE", help="what export.py wrote; by default exported at need")
    parser.add_argument(
        "--precision", default="f32", help=f"{' or '.join(PRECISIONS)}, of backend openvino, where not int8"
    )
    parser.add_argument("--series", help="UID of the DICOM series, where the folder holds several")
    parser.add_argument("--debug", action="store_true", help="print where every error came from")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    report_warnings()

    arguments.backend = arguments.backend or choose_backend(arguments.device, arguments.exported)
    cases = find_cases(arguments.input)
    check_output(arguments.output, arguments.input, cases)
    segmenter = Segmenter(arguments.bundle, **{name: getattr(arguments, name) for name in OPTIONS})
    rows, problems = [], []
    for case in tqdm(cases, unit="case", disable=None):
        name = case["case"]
        try:
            segment_to_folder(segmenter, case, arguments.output, arguments.report)
            measures = measure_file(arguments.output / f"{name}.nii.gz")
        except Exception as error:
            problems.append(tell_failure(name, error, arguments.debug))
        else:
            rows.append({"case": name, "report": f"{name}.html", **measures})
    if arguments.report and rows:
        write_index(arguments.output / "index.html", rows)
    print(f"{len(rows)} of {len(cases)} cases segmented to {arguments.output}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
