"""Write the five bundle folders from common/, or check that they are what would be written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.zoo.bundling import find_drift, write_bundle  # noqa: E402
from common.zoo.variants import VARIANTS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/build_bundles.py --check")
    parser.add_argument("--bundles", type=Path, default=ROOT / "bundles", help="folder of the bundle folders")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a bundle has drifted")
    arguments = parser.parse_args()
    if arguments.check:
        problems = find_drift(arguments.bundles)
        print("\n".join([*problems, "bundles have drifted; remedy: python scripts/build_bundles.py"] if problems else ["ok"]))
        return 1 if problems else 0
    for variant in VARIANTS:
        print(write_bundle(variant, arguments.bundles))
    return 0


if __name__ == "__main__":
    sys.exit(main())
