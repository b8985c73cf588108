"""Write the bundle folders from common/, or check that they are what would be written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.rendering import REMEDY, find_drift, write_bundle
from zoo.variants import VARIANTS, VARIANTS_3D

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/build_bundles.py --check")
    parser.add_argument("--bundles", type=Path, default=BUNDLES, help="folder of the bundle folders")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a bundle has drifted")
    arguments = parser.parse_args(arguments)
    if not arguments.check:
        for variant in (*VARIANTS, *VARIANTS_3D):
            print(write_bundle(variant, arguments.bundles))
        return 0
    problems = find_drift(arguments.bundles)
    print("\n".join([*problems, REMEDY]) if problems else "no drift")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
