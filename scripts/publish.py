"""Take over what train.py made: curves into docs/, scores and weights into the bundle; or score its weights anew."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from studies.publishing import publish
from zoo.variants import VARIANTS

EXAMPLE = "example: python scripts/publish.py --network kits_pocket_unet_segmentation --dataset-dir D1 D2 D3"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--network", required=True, choices=[row.name for row in VARIANTS])
    parser.add_argument(
        "--dataset-dir", type=Path, nargs="+", required=True, help="KiTS folders: held-out patients, whole scan"
    )
    parser.add_argument("--training", type=Path, help="folder of the training; without it what ships is scored")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    record = publish(arguments.network, arguments.dataset_dir, arguments.training)
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
