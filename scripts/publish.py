"""Take over what train.py made: predictions and curves into docs/, scores and weights into the bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from studies.publishing import publish
from zoo.rendering import BUNDLES, write_bundle
from zoo.variants import BASELINES, VARIANTS

EXAMPLE = "example: python scripts/publish.py --network kits_pocket_unet_segmentation --dataset-dir D --trainings O"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--network", required=True, choices=[row.name for row in (*VARIANTS, *BASELINES)])
    parser.add_argument("--dataset-dir", type=Path, required=True, help="KiTS folder that it was trained on")
    parser.add_argument("--trainings", type=Path, required=True, help="output folder of train.py")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    record = publish(arguments.network, arguments.dataset_dir, arguments.trainings)
    for variant in VARIANTS:
        if variant.name == arguments.network:
            write_bundle(variant, BUNDLES)
    for key in ("cross_validation", "shipped_weights"):
        if key in record:
            print(f"{key}: " + ", ".join(f"{k} {v}" for k, v in record[key].items() if k != "folds"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
