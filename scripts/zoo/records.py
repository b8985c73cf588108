"""
What was measured of a bundle's network by the protocol, and where it stands: `docs/cross_validation/`.

    <bundle>/<case>.nii.gz   what the fold's network made of a held-out case
    <bundle>.json            the record: Dice of those, and of the weights that ship
    <bundle>.csv             loss and Dice of every training, epoch by epoch

`metadata.json` takes its scores from the record, `zoo.verification` computes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.app.segmenter import Segmenter
from common.files import replace_file
from common.kits.cases import read_split, select_labelled
from common.kits.metrics import KITS19, pooled_dice
from common.kits.scores import score_files, score_label_maps
from common.kits.volumes import open_volume, read_label

REPOSITORY = Path(__file__).parents[2]
RECORDS = REPOSITORY / "docs/cross_validation"
# the metadata's names of the KiTS19 classes
CLASSES = {"kidney_and_tumor": "kidney", "tumor": "tumor"}


def read_record(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The record of a bundle; empty where there is none."""
    path = (folder or RECORDS) / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_record(name: str, record: Mapping[str, Any]) -> None:
    """Write the record of a bundle in one piece."""
    with replace_file(RECORDS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def pool_dice(counts: Iterable[torch.Tensor]) -> dict[str, float]:
    """Dice pooled over all voxels of some cases, of kidney and tumour together and of tumour."""
    return _name_dice(pooled_dice(torch.cat(tuple(counts))))


def score_counts(counts: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Dice of some cases: pooled over all their voxels, and "per_case", the mean of the cases' own."""
    per_case = torch.stack([pooled_dice(case) for case in counts]).mean(dim=0)
    return {"cases": len(counts), **pool_dice(counts), "per_case": _name_dice(per_case)}


def _name_dice(values: torch.Tensor) -> dict[str, float]:
    found = dict(zip(KITS19.classes, values.tolist()))
    return {name: round(found[kits_name], 6) for name, kits_name in CLASSES.items()}


def count_predictions(predictions: Path, cases: Sequence[Mapping[str, str]], split_file: Path) -> list[torch.Tensor]:
    """Voxel counts, see `pool_dice`, of the predictions for the cases that a split file holds out."""
    held_out = select_labelled(cases, read_split(split_file)["validation"])
    return [score_files(case["case"], case["label"], predictions / f"{case['case']}.nii.gz")[1] for case in held_out]


def count_segmentations(segmenter: Segmenter, cases: Sequence[Mapping[str, str]]) -> list[torch.Tensor]:
    """Voxel counts, see `pool_dice`, of cases segmented now."""
    counts = []
    for case in cases:
        label_map, label = segmenter.segment(case).label_map, read_label(open_volume(case["label"]))
        counts.append(score_label_maps(case["case"], label_map, label, (1, 1, 1), KITS19)[1])
    return counts


def score_folds(
    predictions: Path, cases: Sequence[Mapping[str, str]], split_files: Iterable[str], root: Path | None = None
) -> dict[str, Any]:
    """
    Cross-validated Dice: of the held-out cases of all folds together, the mean of the folds', and of every fold.

    Args:
        predictions: folder of `<case>.nii.gz`, each by the network of the fold that holds the case out.
        split_files: of the folds, relative to `root`, by default the repository.
    """
    counts = {file: count_predictions(predictions, cases, (root or REPOSITORY) / file) for file in split_files}
    folds = [{"split_file": file, **score_counts(fold)} for file, fold in counts.items()]
    mean = {name: round(sum(fold[name] for fold in folds) / len(folds), 6) for name in CLASSES}
    return {**score_counts(sum(counts.values(), [])), "mean_of_folds": mean, "folds": folds}
