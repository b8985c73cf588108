"""Score label maps by an official KiTS protocol: one row a case, then means, intervals and the worst cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from common.errors import report_input_errors, report_warnings, tell_failure
from common.files import check_output_file
from common.kits.metrics import PROTOCOLS
from common.kits.scores import describe_summary, pair_label_maps, score_files, summarize_cases, write_table

EXAMPLE = "example: python scripts/score.py --labels kits19 --predictions out --protocol kits19 --output scores.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--labels", type=Path, required=True, help="KiTS folder, or folder of <case>.nii.gz")
    parser.add_argument("--predictions", type=Path, required=True, help="the same")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="kits19")
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the scores of every case")
    parser.add_argument("--debug", action="store_true", help="print where every error came from")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    report_warnings()
    protocol = PROTOCOLS[arguments.protocol]
    pairs, problems = pair_label_maps(arguments.labels, arguments.predictions)
    check_output_file(arguments.output, [arguments.labels, arguments.predictions, *sum(pairs.values(), ())])
    scored = []
    for case, paths in tqdm(pairs.items(), unit="case", disable=None):
        try:
            scored.append(score_files(case, *paths, protocol))
        except Exception as error:
            problems.append(tell_failure(case, error, arguments.debug))
    if scored:
        rows, counts = zip(*scored)
        write_table(rows, arguments.output)
        print("\n".join(describe_summary(summarize_cases(rows, counts, protocol))))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
