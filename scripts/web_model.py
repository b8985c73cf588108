"""Write what the web page computes with: a bundle's network as model.onnx, its preprocessing as settings.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.bundle_folder import open_bundle, read_slice_size
from common.errors import InputError, report_input_errors
from common.files import hash_file, write_whole
from common.runtimes.export import export_bundle
from zoo.rendering import BUNDLES

WEB = BUNDLES.parent / "docs/web"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/web_model.py")
    parser.add_argument("--bundle", type=Path, default=BUNDLES / "kits_pocket_unet_segmentation")
    parser.add_argument("--output", type=Path, default=WEB / "model")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    config = open_bundle(arguments.bundle)
    if len(read_slice_size(arguments.bundle)) != 2:
        raise InputError(f"{arguments.bundle}: expected a network of slices, as the page computes, found a 3-D one.")
    metadata = json.loads((arguments.bundle / "configs/metadata.json").read_text())
    settings = {key: metadata[key] for key in ("name", "version")} | {
        "weights_sha256": hash_file(config.get_parsed_content("weights")),
        "hu_window": config["hu_window"],
        "grid": asdict(config.get_parsed_content("grid")),
    }
    os.replace(export_bundle(arguments.bundle, "onnx", arguments.output), arguments.output / "model.onnx")
    with write_whole(arguments.output / "settings.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=4) + "\n")
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
