"""The scores that the papers print, case by case, so that a number of ours can stand beside one of theirs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from .evaluation import CaseScores
from .scores import write_table

logger = logging.getLogger(__name__)

CLASSES = {"background": 0, "kidney": 1, "tumor": 2}


def score_as_papers(prediction: np.ndarray, label: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """
    Score one case by what the papers call it.

    Args:
        prediction, label: label maps of one shape (X, Y, Z); cysts count as kidney.
        spacing_mm: voxel size along the three axes.

    Returns:
        pixel_accuracy: share of the voxels of the right class (UNet-PWP, WP-UNet and SD-UNet print it as accuracy);
        mean_iou: mean over background, kidney and tumour, as Keras's MeanIoU has it (WP-UNet, SD-UNet);
        mean_dice: mean over kidney without tumour, and tumour (WP-UNet, SD-UNet, PocketNet);
        hausdorff_mm, surface_distance_mm: largest and mean distance of the surfaces, of the worse of the two classes,
        by MONAI (PocketNet); infinite where a class is in one map alone. A class that is in neither counts for nothing.

    Example:
        >>> label = np.zeros((4, 4, 4), np.uint8)
        >>> label[1:3, 1:3, 1:3] = 1
        >>> score_as_papers(label, label, (1, 1, 1))["pixel_accuracy"]
        1.0
    """
    maps = [np.where(label_map == 3, 1, label_map).astype(np.int64) for label_map in (prediction, label)]
    counts = np.bincount((len(CLASSES) * maps[1] + maps[0]).ravel(), minlength=len(CLASSES) ** 2)
    confusion = counts.reshape(len(CLASSES), len(CLASSES))
    both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    present = either > 0
    scores = {
        "pixel_accuracy": float(both.sum() / confusion.sum()),
        "mean_iou": float((both[present] / (either - both)[present]).mean()),
        "mean_dice": float((2 * both / np.maximum(either, 1))[1:][present[1:]].mean()) if present[1:].any() else 1.0,
    }
    worst = {"hausdorff_mm": 0.0, "surface_distance_mm": 0.0}
    for number in np.flatnonzero(present[1:]) + 1:
        masks = [torch.from_numpy(_crop(*(m == number for m in order))) for order in (maps, maps[::-1])]
        distances = _measure_distances(masks[0], masks[1], spacing_mm)
        worst = {name: max(value, distances[name]) for name, value in worst.items()}
    return scores | worst


def _crop(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A mask in the box around both, with a border; (1, 1, ...)."""
    where = [np.flatnonzero((mask | other).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(found[0], found[-1] + 1) for found in where)
    return np.pad(mask[box], 1)[None, None]


def _measure_distances(a: torch.Tensor, b: torch.Tensor, spacing_mm: Sequence[float]) -> dict[str, float]:
    if not a.any() or not b.any():
        return {"hausdorff_mm": float("inf"), "surface_distance_mm": float("inf")}
    how = {"include_background": True, "spacing": [float(length) for length in spacing_mm]}
    return {
        "hausdorff_mm": compute_hausdorff_distance(a, b, **how).item(),
        "surface_distance_mm": compute_average_surface_distance(a, b, symmetric=True, **how).item(),
    }


class PaperScores(CaseScores):
    """
    Writes `paper_metrics.csv`, one row a case, see `score_as_papers`, and logs the means.

    Args:
        output_dir: folder of the table.
    """

    def __init__(self, output_dir: str | os.PathLike) -> None:
        super().__init__(output_dir)

    def handle_case(self, case: str, volumes: dict[str, np.ndarray], spacing_mm: tuple[float, ...]) -> None:
        row = {"case": case, **score_as_papers(volumes["pred"], volumes["label"], spacing_mm)}
        self.scored.append((row, torch.empty(0)))

    def complete(self, engine: Engine) -> None:
        """Write the table of all cases of all processes."""
        rows = [row for row, _ in self._gather()]
        if engine.state.rank > 0 or not rows:
            return
        write_table(rows, self.output_dir / "paper_metrics.csv")
        for name in ("pixel_accuracy", "mean_iou", "mean_dice"):
            logger.info(f"{name}: mean {np.mean([row[name] for row in rows]):.4f}, {len(rows)} cases")
