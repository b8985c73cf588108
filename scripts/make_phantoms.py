"""Write synthetic CT cases in KiTS19's layout; cases that are there already are left alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.kits.cases import find_cases
from common.kits.phantom import write_phantom_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python scripts/make_phantoms.py --output phantoms --count 10"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the cases")
    parser.add_argument("--count", type=int, default=10, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(arguments)
    if arguments.output.is_dir() and len(list(arguments.output.iterdir())) >= arguments.count:
        print(f"{len(find_cases(arguments.output))} synthetic cases are in {arguments.output}")
        return 0
    print(f"writing {arguments.count} synthetic cases to {arguments.output}")
    write_phantom_dataset(arguments.output, arguments.count, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
