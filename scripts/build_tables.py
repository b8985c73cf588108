"""Write README's table of networks, the scores of docs/whole_scans.md, the plots and the reference of commands anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from studies.tables import write_tables

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    report_input_errors()
    write_tables(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
