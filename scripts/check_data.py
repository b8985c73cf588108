"""Check cases before training or segmenting: files whole, pairs alike, labels known, values like Hounsfield units."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from common.errors import report_input_errors, report_warnings, tell_failure
from common.kits.cases import find_cases, read_case, read_image


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/check_data.py --input kits19")
    parser.add_argument("--input", required=True, help="image, folder of images, KiTS folder or DICOM series folder")
    parser.add_argument("--debug", action="store_true", help="print where every error came from")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    report_warnings()
    cases = find_cases(arguments.input)
    unlabelled = [case for case in cases if "label" not in case]
    problems = []
    for case in tqdm(cases, unit="case", disable=None):
        try:
            read_case(case) if "label" in case else read_image(case)
        except Exception as error:
            problems.append(f"error: {tell_failure(case['case'], error, arguments.debug)}")
    # KiTS19 has 210 cases with a label and 90 without
    without = f", {len(unlabelled)} without a label" if 0 < len(unlabelled) < len(cases) else ""
    print("\n".join([*problems, f"{len(cases)} cases, {len(problems)} bad{without}"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
