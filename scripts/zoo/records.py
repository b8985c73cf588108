"""
What was measured of a network, and where it stands: `docs/results/`.

    <name>.json   the record: what the weights were trained on, and their scores, see `zoo.held_out`
    <name>.csv    loss and Dice of the training, epoch by epoch

`metadata.json` takes its scores from the record, `zoo.verification` computes them anew from the weights that ship.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.app.segmenter import Segmenter
from common.errors import InputError
from common.files import write_whole
from common.kits.cases import find_cases, read_split

from .held_out import score_held_out, score_scan

REPOSITORY = Path(__file__).parents[2]
RECORDS = REPOSITORY / "docs/results"
HOLD_OUT = "docs/splits/hold_out.json"
# before what metadata name and a downloaded bundle has not; the repository has no address of its own that would stay
ELSEWHERE = "in the source repository: "
# the patient whose whole scan is measured and never trained on
SCAN = "case_00001"


def read_record(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The record of a network; empty where there is none."""
    path = (folder or RECORDS) / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_record(name: str, record: Mapping[str, Any]) -> None:
    """Write the record of a network in one piece."""
    with write_whole(RECORDS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def select_held_out(cases: Sequence[Mapping[str, str]], split_file: Path) -> list[Mapping[str, str]]:
    """All files of the patients that a split file holds out, whatever folder they are in."""
    held_out = set(read_split(split_file)["validation"])
    return [case for case in cases if case["case"] in held_out]


def score_bundle(
    bundle: Path, cases: Sequence[Mapping[str, str]], split_file: Path, scan: str = SCAN
) -> dict[str, Any]:
    """
    The scores of a bundle's weights, as `inference.json` segments.

    Args:
        cases: of the data folders, with labels.
        scan: the case that is one whole scan.

    Raises:
        InputError: when the held-out patients or the scan are not among the cases.
    """
    segmenter, of_all_pieces = (Segmenter(bundle, backend="torch", keep_largest=value) for value in (None, 0))
    held_out, scans = select_held_out(cases, split_file), [case for case in cases if case["case"] == scan]
    for what, found in (("the patients that are held out", held_out), (f"the whole scan {scan}", scans)):
        if not found:
            raise InputError(f"dataset_dir: expected {what}, found none of their cases.")

    def predict(case: Mapping[str, str]):  # noqa: ANN202
        return segmenter.segment(case).prediction

    def predict_all(case: Mapping[str, str]):  # noqa: ANN202
        return of_all_pieces.segment(case).prediction

    scores = score_scan(predict_all, scans[0], segmenter.chosen["keep_largest"])
    return {**score_held_out(predict, held_out), "scan": scores}


def find_labelled(folders: Sequence[Path]) -> list[dict[str, str]]:
    """The labelled cases of several KiTS folders."""
    return find_cases([str(folder) for folder in folders], labelled=True)
