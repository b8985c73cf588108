"""Train a bundle by docs/protocol.md: on every fold, segmenting its held-out cases, and on all cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from studies.protocol import ALL, FOLDS, segment_held_out, train
from zoo.variants import BASELINES, VARIANTS

EXAMPLE = "example: python scripts/train.py --network kits_pocket_unet_segmentation --dataset-dir D --output O"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--network", required=True, choices=[row.name for row in (*VARIANTS, *BASELINES)])
    parser.add_argument("--dataset-dir", type=Path, required=True, help="KiTS folder with the cases of the folds")
    parser.add_argument("--output", type=Path, required=True, help="folder of trainings; a repeated command goes on")
    parser.add_argument("--folds", nargs="+", choices=(*FOLDS, ALL), default=[*FOLDS, ALL], help="all by default")
    parser.add_argument("--bfloat16", action="store_true", help="autocast, faster on a CPU with AMX")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    name, output = arguments.network, arguments.output
    for fold in arguments.folds:
        print(f"{name}, {fold}: log in {output / name / fold / 'train.log'}", flush=True)
        folder = train(name, fold, arguments.dataset_dir, output, arguments.bfloat16)
        if fold != ALL:
            segment_held_out(folder, fold, arguments.dataset_dir, output / name / "predictions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
