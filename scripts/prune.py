"""Prune a bundle's network, fine-tune it where asked, and write a complete new bundle around it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.compression.channels import IMPORTANCES
from common.compression.zeros import METHODS
from common.errors import InputError, report_input_errors
from zoo.pruned import Finetuning, PrunedBundle, Pruning, write_pruned_bundle

EXAMPLE = """example: python scripts/prune.py --bundle bundles/kits_unet_segmentation --method channel --amount 0.5
  --output pruned/kits_unet_half_segmentation --finetune-epochs 20 --dataset_dir kits19"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder with weights")
    parser.add_argument("--method", required=True, help=f"{', '.join(METHODS)} or channel")
    parser.add_argument("--amount", type=float, help="share of weights or channels; for sigma, deviations")
    parser.add_argument("--channels", help="width of every level, such as 16,32,64,128,256, in place of --amount")
    parser.add_argument("--signed", action="store_true", help="sigma: compare as the paper prints it")
    parser.add_argument("--importance", default="l1", help=f"channel: {', '.join(IMPORTANCES)}")
    parser.add_argument("--output", type=Path, required=True, help="new bundle folder, ending in _segmentation")
    parser.add_argument("--finetune-epochs", type=int, default=0, metavar="N", help="prune while training so long")
    parser.add_argument("--coarse-epochs", type=int, default=0, metavar="N", help="before, at half the slice size")
    parser.add_argument("--dataset_dir", type=Path, help="KiTS folder to fine-tune on")
    parser.add_argument("--split_file", help="cases to train and validate on")
    parser.add_argument("--learning_rate", type=float, help="of the fine-tuning; by default train.json's")
    arguments = parser.parse_args(arguments)
    report_input_errors()

    epochs, coarse = arguments.finetune_epochs, arguments.coarse_epochs
    pruned = write_pruned_bundle(
        arguments.bundle,
        arguments.output,
        read_pruning(arguments),
        Finetuning(epochs, coarse) if epochs else None,
        arguments.dataset_dir,
        {key: getattr(arguments, key) for key in ("split_file", "learning_rate") if getattr(arguments, key)},
    )
    print_table(pruned)
    return 0


def read_pruning(arguments: argparse.Namespace) -> Pruning:
    if (arguments.amount is None) == (arguments.channels is None):
        raise InputError("expected --amount or, for method channel, --channels; found both or neither.")
    if arguments.channels is None:
        return Pruning(arguments.method, arguments.amount, arguments.signed, arguments.importance)
    try:
        channels = [int(width) for width in arguments.channels.split(",")]
    except ValueError as error:
        raise InputError(f"--channels: expected numbers with commas between, found {arguments.channels}.") from error
    return Pruning(arguments.method, importance=arguments.importance, channels=channels)


def print_table(pruned: PrunedBundle) -> None:
    for layer in pruned.layers:
        print(f"{layer.name:32}{layer.zeros:>14,} of {layer.weights:>12,} zero{layer.sparsity:>9.1%}")
    print(f"\n{'':24}{'original':>18}{'before':>18}{'after':>18}")
    costs = (pruned.before, pruned.after)
    rows = {
        "parameters": [f"{value:,}" for value in (pruned.original["parameters"], *(c.parameters for c in costs))],
        "non-zero parameters": ["", *(f"{c.nonzero_parameters:,}" for c in costs)],
        "zeros": ["", *(f"{1 - c.nonzero_parameters / c.parameters:.1%}" for c in costs)],
        "FLOPs": [f"{value:,}" for value in (pruned.original["flops"], *(c.flops for c in costs))],
        "bytes of the weights": ["", *(f"{c.file_bytes:,}" for c in costs)],
    }
    for name, cells in rows.items():
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"\n{pruned.folder}")


if __name__ == "__main__":
    sys.exit(main())
