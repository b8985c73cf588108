"""Scores of many cases: label maps in pairs, one row a case, and what the rows amount to."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import voxel_sizes

from ..errors import InputError
from ..files import NAMES, PathLike, write_whole
from .cases import find_case_folders, name_case, read_case_folder
from .metrics import KITS19, PooledDice, Protocol, pooled_dice, score_case, summarize, worst_cases
from .volumes import NIFTI_SUFFIXES, check_same_grid, open_volume, read_label


def score_label_maps(
    case: str, prediction: np.ndarray, label: np.ndarray, spacing_mm: Sequence[float], protocol: Protocol
) -> tuple[dict[str, object], torch.Tensor]:
    """
    Score one case.

    Args:
        prediction: label map (X, Y, Z), see `score_case`.
        label: label map on the same grid.

    Returns:
        the row of the case, "case" and its scores; its voxel counts (1, classes, 3) for `summarize_cases`.
    """
    counts = PooledDice(protocol.name)(
        *(torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (prediction, label))
    )
    return {"case": case, **score_case(prediction, label, spacing_mm, protocol)}, counts


def summarize_cases(
    rows: Sequence[Mapping[str, object]], counts: Sequence[torch.Tensor], protocol: Protocol
) -> dict[str, object]:
    """Mean, median and 95 % bootstrap interval over cases, Dice pooled over all voxels, and the five worst cases."""
    pooled = pooled_dice(torch.cat(tuple(counts))).tolist()
    return {
        "protocol": protocol.name,
        "cases": len(rows),
        "pooled": {f"{name}_dice": dice for name, dice in zip(protocol.classes, pooled)},
        "per_case": summarize(rows),
        "worst": worst_cases(rows, protocol.mean_dice),
    }


def describe_summary(summary: Mapping) -> list[str]:
    """What `summarize_cases` found, as lines to print."""
    lines = [
        f"{name}: mean {column['mean']:.4f} (95 % {column['ci95_low']:.3f} to {column['ci95_high']:.3f}),"
        f" median {column['median']:.4f}, {summary['cases']} cases"
        for name, column in summary["per_case"].items()
    ]
    pooled = "  ".join(f"{name} {dice:.4f}" for name, dice in summary["pooled"].items())
    return [*lines, f"pooled over all voxels: {pooled}", f"worst cases: {', '.join(summary['worst'])}"]


def write_table(rows: Sequence[Mapping[str, object]], path: PathLike) -> None:
    """Write rows that share their columns as CSV, in one piece."""
    with write_whole(path) as temporary, temporary.open("w", newline="", **NAMES) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def find_label_maps(folder: PathLike) -> dict[str, Path]:
    """
    The label maps of a folder by case: `<case>.nii.gz` and `.nii` files, or a KiTS folder's segmentations.

    Raises:
        InputError: when there are none, or two for one case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of label maps, found none.")
    files = [f for f in sorted(folder.iterdir()) if f.name.lower().endswith(NIFTI_SUFFIXES) and f.name[0] != "."]
    found = (read_case_folder(case) for case in find_case_folders(folder)[1])
    files += [Path(case["label"]) for case in found if "label" in case]
    maps = {name_case(file): file for file in files}
    if not maps:
        raise InputError(f"{folder}: expected <case>.nii.gz files or a KiTS folder with labels, found neither.")
    if len(maps) < len(files):
        raise InputError(f"{folder}: expected one label map a case, found {len(files)} for {len(maps)} cases.")
    return maps


def pair_label_maps(labels: PathLike, predictions: PathLike) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """
    Pair the label maps of two folders by case.

    Returns:
        (label, prediction) of every case that both have; a line for every case that only one of them has.

    Raises:
        InputError: when there is no pair; see `find_label_maps` also.
    """
    expected, found = find_label_maps(labels), find_label_maps(predictions)
    problems = [
        f"{predictions}: expected a prediction for {case}, found none." for case in sorted(expected.keys() - found)
    ]
    problems += [
        f"{predictions}: found {case}, for which {labels} has no label." for case in sorted(found.keys() - expected)
    ]
    pairs = {case: (expected[case], found[case]) for case in sorted(expected.keys() & found)}
    if not pairs:
        raise InputError("\n".join(problems))
    return pairs, problems


def score_files(
    case: str, label: PathLike, prediction: PathLike, protocol: Protocol = KITS19
) -> tuple[dict[str, object], torch.Tensor]:
    """
    Score one case from its files, on the label's own grid; see `score_label_maps`.

    Raises:
        InputError: when a file is bad, or their shapes or affines differ.
    """
    found, expected = open_volume(prediction), open_volume(label)
    check_same_grid(expected, found, "label")
    maps = (read_label(image, keep_cysts=protocol is not KITS19) for image in (found, expected))
    return score_label_maps(case, *maps, voxel_sizes(expected.affine), protocol)
