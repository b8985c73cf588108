"""
Time every network with every backend, interleaved in one run; writes docs/studies/speed.md, speed.csv and speed.png.

With --dataset-dir, what bf16 and int8 change in Dice comes after; with --rounds 0, alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import InputError, report_input_errors
from studies.precision_dice import tabulate_dice
from studies.speed import measure
from studies.speed_report import tabulate_ratios, write_speed
from zoo.pages import replace_section

DOCS = Path(__file__).resolve().parents[1] / "docs/studies"
EXAMPLE = "example: python scripts/benchmark.py --rounds 15 --volume-rounds 3"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--rounds", type=int, default=15, help="of one slice of 256 x 256; 0: none (%(default)s)")
    parser.add_argument("--volume-rounds", type=int, default=3, help="of a volume; 0: none (%(default)s)")
    parser.add_argument("--volume-slices", type=int, default=100, help="of 512 x 512 in a volume (%(default)s)")
    parser.add_argument("--dataset-dir", type=Path, help="KiTS folder to measure Dice on, in float32, bf16 and int8")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of speed.md")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    if not arguments.rounds and not arguments.dataset_dir:
        raise InputError("rounds: expected some, or --dataset-dir to measure Dice on, found 0 and none.")
    if not (arguments.output / "speed.md").is_file():
        raise InputError(f"{arguments.output / 'speed.md'}: expected the page that is written to, found none.")
    if arguments.rounds:
        rows, machine = measure(arguments.rounds, arguments.volume_rounds, arguments.volume_slices)
        write_speed(arguments.output, rows, machine, torch.get_num_threads())
        print(tabulate_ratios(rows, "slice"))
    if arguments.dataset_dir:
        table = tabulate_dice(arguments.dataset_dir)
        replace_section(arguments.output / "speed.md", "dice", table)
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
