"""Check that what bundle folders say of themselves is true; prints every problem and what could not be checked."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import report_input_errors
from zoo.verification import verify_bundle

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
EXAMPLE = "example: python scripts/verify_bundles.py --dataset-dir kits19-crops kits19-fullslices kits19-scan"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="bundle folder; all of bundles/")
    parser.add_argument(
        "--dataset-dir", type=Path, nargs="+", help="KiTS folders: held-out patients, scan; else no score is recomputed"
    )
    parser.add_argument("--json", action="store_true", help="print every check of every bundle as JSON instead")
    arguments = parser.parse_args(arguments)
    report_input_errors()

    outcomes = {}
    for bundle in arguments.bundles or sorted(path for path in BUNDLES.iterdir() if path.is_dir()):
        outcomes[str(bundle)] = verify_bundle(bundle, arguments.dataset_dir and [*map(str, arguments.dataset_dir)])
        if arguments.json:
            continue
        name, counts = bundle.resolve().name, Counter(outcome.status for outcome in outcomes[str(bundle)])
        for outcome in outcomes[str(bundle)]:
            if outcome.status == "problem":
                print(f"{name}: {outcome.detail}")
            elif outcome.status != "ok":
                print(f"{name}: {outcome.name}: {outcome.status}: {outcome.detail}")
        print(f"{name}: {', '.join(f'{count} {status}' for status, count in counts.items())}", flush=True)
    if arguments.json:
        print(json.dumps({bundle: [asdict(o) for o in found] for bundle, found in outcomes.items()}, indent=1))
    return int(any(outcome.status == "problem" for found in outcomes.values() for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
