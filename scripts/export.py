"""Export the network of a bundle, with its weights, to TorchScript, torch.export, ONNX or OpenVINO."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from common.runtimes.export import FORMATS, export_bundle
from common.runtimes.quantize import INT8, check_int8, export_int8

EXAMPLE = "example: python scripts/export.py --bundle bundles/kits_unet_pwp_segmentation --format onnx --output ."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", required=True, help="bundle folder with weights")
    parser.add_argument("--format", required=True, help=", ".join(FORMATS))
    parser.add_argument("--output", type=Path, required=True, help="folder for <bundle>.ts, .pt2, .onnx or .xml")
    parser.add_argument("--precision", default="f32", help="f32, or int8 with openvino: <bundle>_int8.xml")
    parser.add_argument("--dataset_dir", help="KiTS folder or folder of images, without labels, to calibrate int8 with")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    check_int8(arguments.format, arguments.precision, arguments.dataset_dir)
    if arguments.precision == INT8:
        print(export_int8(arguments.bundle, arguments.dataset_dir, arguments.output))
    else:
        print(export_bundle(arguments.bundle, arguments.format, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
