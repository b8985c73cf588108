"""Train a network by docs/protocol.md on crops, whole slices and slices without kidney."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.errors import InputError, report_input_errors
from studies.protocol import HOLD_OUT, INNER, VIEWS, VIEWS_PER_EPOCH, Length, train
from zoo.variants import ROWS

EXAMPLE = "example: python scripts/train.py --network kits_pocket_unet_segmentation --dataset-dir D1 D2 D3 --output O"


def main(arguments: Sequence[str] | None = None) -> int:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"{EXAMPLE}; networks: {', '.join(names)}")
    parser.add_argument("--network", required=True, nargs="+", choices=names, metavar="NETWORK")
    parser.add_argument("--dataset-dir", type=Path, nargs="+", required=True, help="KiTS folders")
    parser.add_argument("--output", type=Path, required=True, help="folder of trainings; a repeated command goes on")
    parser.add_argument("--split", choices=(HOLD_OUT, INNER), default=HOLD_OUT, help="of docs/splits")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="every network is trained with each")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, for a GPU")
    parser.add_argument("--views", type=int, default=VIEWS, help="that every network sees")
    parser.add_argument("--views-per-epoch", type=int, default=VIEWS_PER_EPOCH, help="a checkpoint an epoch")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--bfloat16", action="store_true", help="autocast, faster on a CPU with AVX-512 BF16 or AMX")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    options = {key: getattr(arguments, key) for key in ("split", "bfloat16", "start")}
    length = Length(arguments.views, arguments.views_per_epoch)
    if arguments.jobs < 1:
        raise InputError(f"jobs: expected a positive number, found {arguments.jobs}.")

    def run(name: str, seed: int) -> None:
        log = arguments.output / name / f"{arguments.split}_{seed}" / "train.log"
        print(f"{name}: log in {log}", flush=True)
        train(name, arguments.dataset_dir, arguments.output, seed=seed, length=length, **options)

    # every training is a process of its own; threads wait for them
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run, name, seed) for name in arguments.network for seed in arguments.seed]
    for done in runs:
        done.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
