"""Draw docs/whole_scans.png: the label of the whole scan and what every bundle makes of it, seen from the front."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.app.segmenter import Segmenter
from common.errors import report_input_errors
from common.kits.cases import find_cases
from studies.pictures import draw_scan
from zoo.held_out import read_label_in_ras
from zoo.rendering import BUNDLES
from zoo.variants import VARIANTS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python scripts/draw_scan.py --dataset-dir D")
    parser.add_argument("--dataset-dir", type=Path, required=True, help="KiTS folder with the whole scan alone")
    parser.add_argument("--output", type=Path, default=BUNDLES.parent / "docs/whole_scans.png")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    case = find_cases(arguments.dataset_dir, labelled=True)[0]
    label_maps = {"label": read_label_in_ras(case)[0]}
    for variant in VARIANTS:
        segmentation = Segmenter(BUNDLES / variant.name).segment(case)
        label_maps[variant.title] = segmentation.prediction
    draw_scan(arguments.output, segmentation.image, label_maps, segmentation.spacing_mm)
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
