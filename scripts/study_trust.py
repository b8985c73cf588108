"""Measure what doubt and warnings are worth on held-out patients; writes common/app/doubt.json and a page's tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.app.doubt import CALIBRATION
from common.errors import report_input_errors
from studies.trust import study, write_study
from zoo.records import HOLD_OUT, find_labelled
from zoo.rendering import BUNDLES
from zoo.variants import VARIANTS

PAGE = BUNDLES.parent / "docs/explanation/warnings.md"
RECORD = BUNDLES.parent / "docs/studies/trust.json"
EXAMPLE = "example: python scripts/study_trust.py --dataset-dir kits19-crops kits19-fullslices kits19-scan"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--dataset-dir", type=Path, nargs="+", required=True, help="held-out slices, and the scan")
    parser.add_argument("--bundle", nargs="+", default=[variant.name for variant in VARIANTS], help="names in bundles/")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    cases = find_labelled(arguments.dataset_dir)
    for name in arguments.bundle:
        write_study(name, study(BUNDLES / name, cases, BUNDLES.parent / HOLD_OUT), RECORD, CALIBRATION, PAGE)
        print(f"{name}: {RECORD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
