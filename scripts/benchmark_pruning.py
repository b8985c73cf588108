"""Prune and fine-tune a bundle by several amounts; Dice, size, FLOPs and latency go to a table, a plot and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.app.pruned import Finetuning, Pruning, write_pruned_bundle
from common.bundle_folder import open_bundle
from common.compression.complexity import count_nonzero_parameters, count_parameters
from common.errors import InputError, report_input_errors
from studies.pruning_report import measure_series, write_report

EXAMPLE = """example: python scripts/benchmark_pruning.py --bundle trained/kits_wp_unet_segmentation --method magnitude
  --amounts 0.5,0.8,0.9 --dataset-dir kits19 --split-file docs/folds/fold_1.json --finetune-epochs 15 --work pruned"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", type=Path, required=True, help="trained bundle, the first point of the series")
    parser.add_argument(
        "--pruned", type=Path, help="bundle pruned from it elsewhere, as train.py does, to measure alone"
    )
    parser.add_argument("--method", help="as for kits-lite prune")
    parser.add_argument("--amounts", help="such as 0.5,0.8,0.9")
    parser.add_argument("--dataset-dir", type=Path, required=True, help="KiTS folder")
    parser.add_argument("--split-file", type=Path, required=True, help="cases to fine-tune on and to score")
    parser.add_argument("--finetune-epochs", type=int, default=0, metavar="N", help="0: prune at once, do not train")
    parser.add_argument("--coarse-epochs", type=int, default=0, metavar="N", help="before, at half the slice size")
    parser.add_argument("--importance", default="l1", help="of channels, as for kits-lite prune")
    parser.add_argument("--learning-rate", type=float, help="of the fine-tuning; by default train.json's")
    parser.add_argument("--work", type=Path, required=True, help="folder of the pruned bundles; those there are kept")
    parser.add_argument("--output", type=Path, default=Path("docs/studies"), help="folder of pruning.md")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    series, bundles = compare_two(arguments) if arguments.pruned else prune_series(arguments)
    rows = measure_series(series, bundles, arguments.dataset_dir, arguments.split_file, arguments.work)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_report(arguments.output, rows)
    return 0


def compare_two(arguments: argparse.Namespace) -> tuple[str, dict[float, Path]]:
    """Two bundles that are there; the amount is the share of the first one's parameters that are gone or zero."""
    bundles = [arguments.bundle, arguments.pruned]
    before, after = (open_bundle(bundle).get_parsed_content("network") for bundle in bundles)
    gone = round(1 - count_nonzero_parameters(after) / count_parameters(before), 3)
    return " and ".join(map(read_title, bundles)), dict(zip((0.0, gone), bundles))


def prune_series(arguments: argparse.Namespace) -> tuple[str, dict[float, Path]]:
    """The bundle, and bundles pruned from it by several amounts, fine-tuned where epochs are given."""
    if not (arguments.method and arguments.amounts):
        raise InputError("--method: expected it and --amounts, or --pruned, found neither.")
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
    length = f"{coarse} + {epochs}" if coarse else f"{epochs}"
    return f"{read_title(arguments.bundle)}, {arguments.method}, {length} epochs", bundles


def read_title(bundle: Path) -> str:
    """What people call a bundle's network."""
    return json.loads((bundle / "configs/metadata.json").read_text())["name"].removesuffix(", pruned")


if __name__ == "__main__":
    sys.exit(main())
