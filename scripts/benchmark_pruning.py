"""Prune and fine-tune a bundle by several amounts; Dice, size, FLOPs and latency go to a table, a plot and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, report_input_errors
from common.zoo.benchmarks.pruning_report import measure_series, write_report
from common.zoo.pruned import Finetuning, Pruning, write_pruned_bundle

EXAMPLE = """example: python scripts/benchmark_pruning.py --bundle trained/kits_wp_unet_segmentation --method magnitude
  --amounts 0.5,0.8,0.9 --dataset_dir kits19 --split_file docs/folds/fold_1.json --finetune-epochs 15 --work pruned"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", type=Path, required=True, help="trained bundle, the first point of the series")
    parser.add_argument("--method", required=True, help="as for prune.py")
    parser.add_argument("--amounts", required=True, help="such as 0.5,0.8,0.9")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="KiTS folder")
    parser.add_argument("--split_file", type=Path, required=True, help="cases to fine-tune on and to score")
    parser.add_argument("--finetune-epochs", type=int, default=0, metavar="N", help="0: prune at once, do not train")
    parser.add_argument("--coarse-epochs", type=int, default=0, metavar="N", help="before, at half the slice size")
    parser.add_argument("--importance", default="l1", help="of channels, as for prune.py")
    parser.add_argument("--learning_rate", type=float, help="of the fine-tuning; by default train.json's")
    parser.add_argument("--work", type=Path, required=True, help="folder of the pruned bundles; those there are kept")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of pruning.md; also .csv and .png")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    try:
        amounts = [float(amount) for amount in arguments.amounts.split(",")]
    except ValueError as error:
        raise InputError(f"--amounts: expected numbers with commas between, found {arguments.amounts}.") from error

    epochs, coarse = arguments.finetune_epochs, arguments.coarse_epochs
    finetuning = Finetuning(epochs, coarse) if epochs else None
    options = {"split_file": arguments.split_file.resolve(), "learning_rate": arguments.learning_rate}
    options = {key: value for key, value in options.items() if value is not None}
    bundles = {0.0: arguments.bundle}
    for amount in amounts:
        name = f"{arguments.bundle.name}_{arguments.method}_{amount:g}_{coarse}_{epochs}"
        bundles[amount] = arguments.work / name
        if not bundles[amount].exists():
            pruning = Pruning(arguments.method, amount, importance=arguments.importance)
            write_pruned_bundle(arguments.bundle, bundles[amount], pruning, finetuning, arguments.dataset_dir, options)
    title = json.loads((arguments.bundle / "configs/metadata.json").read_text())["name"].removesuffix(", pruned")
    length = f"{coarse} + {epochs}" if coarse else f"{epochs}"
    series = f"{title}, {arguments.method}, {length} epochs"
    rows = measure_series(series, bundles, arguments.dataset_dir, arguments.split_file, arguments.work)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_report(arguments.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
