"""Train U-Net and SD-UNet's relatives on the 30 EM slices of ISBI 2012 and write docs/studies/isbi.md's table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import report_input_errors
from studies.isbi import FOLDS, NETWORKS, Settings, format_table, run_all
from zoo.pages import read_table, replace_section

STUDIES = Path(__file__).parents[1] / "docs/studies"
EXAMPLE = "example: python scripts/isbi.py --data isbi-em --folds 0 1 --channels 32 32 64 64 128 --side 96 --steps 200"


def main(arguments: Sequence[str] | None = None) -> int:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--data", type=Path, help="folder with image/ and label/; without it only the page is written")
    parser.add_argument("--table", type=Path, default=STUDIES / "isbi.csv", help="rows in it are not run again")
    parser.add_argument("--page", type=Path, default=STUDIES / "isbi.md")
    parser.add_argument("--cache-dir", type=Path, default=Path("eval/isbi"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--channels", type=int, nargs="+", default=list(default.channels))
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--side", type=int, default=default.side)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--bfloat16", action="store_true", help="autocast, faster on a CPU with AVX-512 BF16 or AMX")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    report_input_errors()
    if given.data:
        torch.set_num_threads(given.threads)
        keys = ("steps", "batch_size", "side", "learning_rate", "bfloat16")
        settings = Settings(channels=tuple(given.channels), **{key: getattr(given, key) for key in keys})
        run_all(given.data, given.table, given.cache_dir, given.networks, given.folds, given.seeds, settings)
    if given.page.is_file():
        replace_section(given.page, "isbi", format_table(read_table(given.table)))
        print(given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
