"""Write the files of a release, a zip a bundle with checksums and a catalog; or check zips without unpacking them.

With --for, write instead what Hugging Face or MONAI's model zoo takes: a folder per bundle, to be uploaded by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, report_input_errors
from zoo.hub import TARGETS, write_for_hub
from zoo.packaging import package_bundles
from zoo.variants import VARIANTS_3D
from zoo.zip_check import check_zip

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/package.py --output dist")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, help="folder to write; replaced where this script wrote it")
    task.add_argument("--check", type=Path, nargs="+", metavar="ZIP", help="zips to check, one line each")
    parser.add_argument(
        "--bundle", type=Path, nargs="+", help="folders, or names in bundles/; by default all with weights"
    )
    parser.add_argument("--base-url", help="where the zips will be downloaded from; by default the output folder")
    parser.add_argument("--for", dest="target", choices=[*TARGETS], help="folders for a hub in place of zips")
    parser.add_argument("--repository", help="address of this repository, for the cards of a hub")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    if arguments.check:
        return 0 if all([check(path) for path in arguments.check]) else 1  # a list: every zip is checked
    without_weights = {variant.name for variant in VARIANTS_3D}
    found = sorted(path for path in BUNDLES.glob("[!.]*") if path.is_dir() and path.name not in without_weights)
    given = arguments.bundle or found
    bundles = [path if path.is_dir() else BUNDLES / path for path in given]
    if arguments.target:
        for folder in write_for_hub(
            arguments.target, bundles, arguments.output, arguments.base_url, arguments.repository
        ):
            print(folder)
        return 0
    for card in package_bundles(bundles, arguments.output, arguments.base_url):
        print(f"{arguments.output / card['zip']}: {card['bytes']:,} bytes, sha256 {card['sha256']}")
    return 0


def check(path: Path) -> bool:
    try:
        print(f"{path}: {check_zip(path)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
