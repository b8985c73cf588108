"""Export the network of a bundle, with its weights, to TorchScript, torch.export, ONNX or OpenVINO."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from common.exporting import FORMATS, export_bundle

EXAMPLE = "example: python scripts/export.py --bundle bundles/kits_unet_pwp_segmentation --format onnx --output ."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", required=True, help="bundle folder with weights")
    parser.add_argument("--format", required=True, help=", ".join(FORMATS))
    parser.add_argument("--output", type=Path, required=True, help="folder for <bundle>.ts, .pt2, .onnx or .xml")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    print(export_bundle(arguments.bundle, arguments.format, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
