"""Write models/model.onnx of bundles, with which they segment without PyTorch; of the dense U-Net on demand alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from zoo.rendering import BUNDLES
from zoo.shipped import SMALL, write_shipped

EXAMPLE = "example: python scripts/ship_onnx.py"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="bundle folder; the small ones")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    for bundle in arguments.bundles or [BUNDLES / name for name in SMALL]:
        print(write_shipped(bundle))
    return 0


if __name__ == "__main__":
    sys.exit(main())
