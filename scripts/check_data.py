"""Check cases before training or segmenting: files whole, pairs alike, labels known, values like Hounsfield units."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from common.errors import InputError, report_input_errors
from common.kits.cases import find_cases, read_case, read_image


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/check_data.py --input kits19")
    parser.add_argument("--input", required=True, help="image, folder of images, KiTS folder or DICOM series folder")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    cases = find_cases(arguments.input)
    labelled = any("label" in case for case in cases)
    problems = []
    for case in tqdm(cases, unit="case"):
        try:
            read_case(case) if labelled else read_image(case)
        except InputError as error:
            problems.append(f"error: {error}")
    print("\n".join([*problems, f"{len(cases)} cases, {len(problems)} bad"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
