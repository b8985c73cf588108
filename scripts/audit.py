"""Write the tables of docs/studies/audit.md: what the five papers claim, and what arithmetic on our networks gives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import report_input_errors
from studies.audit import write_audit

PAGE = Path(__file__).resolve().parents[1] / "docs/studies/audit.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/audit.py")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with places for the tables")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    write_audit(arguments.page)
    print(arguments.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
