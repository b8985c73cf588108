"""
Official KiTS scores, measurements of a label map, and what a table of cases amounts to.

Scores: KiTS19 (Heller et al. 2021, https://doi.org/10.1016/j.media.2020.101821) and the hierarchical evaluation
classes of KiTS21 and KiTS23 (https://github.com/neheller/kits21), both on the ORIGINAL grid of a case.
Label maps hold 0 background, 1 kidney, 2 tumour, 3 cyst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import get_code_to_measure_table
from monai.utils import convert_to_tensor
from scipy import ndimage, spatial

from ..errors import InputError


@dataclass(frozen=True)
class Protocol:
    """What a challenge scores: its classes as labels, their Surface Dice tolerances, and its name for the mean Dice."""

    name: str
    classes: dict[str, tuple[int, ...]]
    tolerances_mm: dict[str, float]
    mean_dice: str = "dice"


KITS19 = Protocol("kits19", {"kidney": (1, 2, 3), "tumor": (2,)}, {}, mean_dice="composite")  # cysts are kidney
KITS23 = Protocol(
    "kits23",
    {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)},
    {"kidney_and_mass": 1.0330772532390826, "mass": 1.1328796488598762, "tumor": 1.1498198361434828},
)
PROTOCOLS = {protocol.name: protocol for protocol in (KITS19, KITS23)}


def find_protocol(name: str) -> Protocol:
    """
    Raises:
        InputError: when there is none of this name.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {name}.")
    return PROTOCOLS[name]


def score_case(
    prediction: np.ndarray, label: np.ndarray, spacing_mm: Sequence[float], protocol: Protocol = KITS19
) -> dict[str, float]:
    """
    Score one case as its challenge does: 1 where a class is empty in both maps, 0 where in exactly one.

    Surface Dice is the share of both surfaces, by area, that lies within the tolerance of the other surface
    (Nikolov et al., https://arxiv.org/abs/1809.04430), with surface elements between voxel centres.

    Args:
        prediction, label: label maps of one shape (X, Y, Z), axes in any order.
        spacing_mm: voxel size along the three array axes.

    Returns:
        `<class>_dice` and, where the class has a tolerance, `<class>_surface_dice`; then the means over classes:
        "composite" for KiTS19, "dice" and "surface_dice" for KiTS23.

    Raises:
        ValueError: when a map is not 3-D, of another shape or holds other labels, or the spacing is not positive.

    Example:
        >>> label = np.zeros((4, 4, 4), np.uint8)
        >>> label[:2], label[0, 0] = 1, 2
        >>> prediction = np.minimum(label, 1)
        >>> score_case(prediction, label, (1, 1, 1))
        {'kidney_dice': 1.0, 'tumor_dice': 0.0, 'composite': 0.5}
    """
    prediction, label = _check_label_map("prediction", prediction), _check_label_map("label", label)
    spacing_mm = _check_spacing(spacing_mm)
    if prediction.shape != label.shape:
        raise ValueError(f"prediction and label must have one shape, got {prediction.shape} and {label.shape}.")
    box = _bounding_box(np.logical_or(prediction, label))
    prediction, label = prediction[box], label[box]
    scores = {}
    for name, labels in protocol.classes.items():
        masks = np.isin(prediction, labels), np.isin(label, labels)
        counts = [np.count_nonzero(mask) for mask in (masks[0] & masks[1], *masks)]
        scores[f"{name}_dice"] = pooled_dice(torch.tensor([[counts]])).item()
        if name in protocol.tolerances_mm:
            scores[f"{name}_surface_dice"] = _surface_dice(*masks, spacing_mm, protocol.tolerances_mm[name])
    means = {protocol.mean_dice: float(np.mean([scores[f"{name}_dice"] for name in protocol.classes]))}
    if protocol.tolerances_mm:
        means["surface_dice"] = float(np.mean([scores[f"{name}_surface_dice"] for name in protocol.tolerances_mm]))
    return scores | means


def measure_case(label_map: np.ndarray, spacing_mm: Sequence[float], axial_axis: int = 2) -> dict[str, float]:
    """
    Measure the kidneys and tumours of one label map of shape (X, Y, Z).

    Args:
        spacing_mm: voxel size along the three array axes.
        axial_axis: the array axis along which axial slices are stacked; 0 in KiTS's own files.

    Returns:
        kidney_ml, tumor_ml: volumes of label 1 alone (no tumours, no cysts) and of label 2.
        lesions: number of 26-connected components of label 2, however small.
        tumor_diameter_mm: largest distance between two voxel centres of one lesion in one axial slice, 0 if none.

    Raises:
        ValueError: as `score_case`, or when axial_axis is not 0, 1 or 2.
    """
    label_map, spacing_mm = _check_label_map("label_map", label_map), _check_spacing(spacing_mm)
    if axial_axis not in (0, 1, 2):
        raise ValueError(f"axial_axis must be 0, 1 or 2, got axial_axis={axial_axis}.")
    voxel_ml = np.prod(spacing_mm) / 1000
    tumor = label_map == 2
    components, lesions = ndimage.label(tumor[_bounding_box(tumor)], structure=np.ones((3, 3, 3)))
    diameters_mm = [
        _diameter(axial_slice, np.delete(spacing_mm, axial_axis))
        for lesion, where in enumerate(ndimage.find_objects(components), start=1)
        for axial_slice in np.moveaxis(components[where] == lesion, axial_axis, 0)
    ]
    return {
        "kidney_ml": float(np.count_nonzero(label_map == 1) * voxel_ml),
        "tumor_ml": float(np.count_nonzero(tumor) * voxel_ml),
        "lesions": lesions,
        "tumor_diameter_mm": max(diameters_mm, default=0.0),
    }


def pooled_dice(counts: torch.Tensor) -> torch.Tensor:
    """
    Dice (classes,) of all items taken as one, 1 where both are empty: float64, and so on the CPU.

    Counts are voxels (items, classes, 3 = intersection, predicted, labelled).
    """
    intersection, predicted, labelled = counts.sum(dim=0).cpu().double().unbind(dim=-1)
    total = predicted + labelled
    return torch.where(total > 0, 2 * intersection / total.clamp(min=1), 1.0)


class PooledDice(CumulativeIterationMetric):
    """
    Dice per class pooled over all items since `reset`, of label maps (B, 1, ...) of any dtype and size.

    It suits slices, most of which hold no tumour; the official mean over cases is another number (`score_case`).
    Labels that the protocol does not name are background.

    Args:
        protocol: "kits19" or "kits23".
        reduction: "none" aggregates to (classes,); "mean" or the name of a class to a scalar, as a key metric must be.
    """

    def __init__(self, protocol: str = "kits19", reduction: str = "none") -> None:
        super().__init__()
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {list(PROTOCOLS)}, got protocol={protocol!r}.")
        self.classes = PROTOCOLS[protocol].classes
        if reduction not in ("none", "mean", *self.classes):
            raise ValueError(f"reduction must be one of none, mean, {', '.join(self.classes)}, got {reduction=}.")
        self.reduction = reduction

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """Count per item: int64, (B, classes, 3) = intersection, predicted, labelled."""
        if y_pred.shape != y.shape or y_pred.ndim < 3 or y_pred.shape[1] != 1:
            raise ValueError(f"y_pred and y must be (B, 1, ...), got {tuple(y_pred.shape)} and {tuple(y.shape)}.")
        maps = [convert_to_tensor(m, dtype=torch.uint8, device=y_pred.device).flatten(1) for m in (y_pred, y)]
        counts = []
        for labels in self.classes.values():
            masks = [torch.isin(m, torch.tensor(labels, dtype=m.dtype, device=m.device)) for m in maps]
            counts.append(torch.stack([mask.sum(dim=1) for mask in (masks[0] & masks[1], *masks)], dim=1))
        return torch.stack(counts, dim=1)

    def aggregate(self) -> torch.Tensor:
        """Pooled Dice of the items of all processes: float64 on the CPU, (classes,) or a scalar."""
        if len(self) == 0:
            raise ValueError("PooledDice must be called before aggregate(), got no items.")
        dice = pooled_dice(self.get_buffer())
        scalars = {"mean": dice.mean(), **dict(zip(self.classes, dice))}
        return scalars.get(self.reduction, dice)


def summarize(rows: Sequence[Mapping[str, float]], seed: int = 0) -> dict[str, dict[str, float]]:
    """
    Mean, median, ci95_low, ci95_high (percentile bootstrap of the mean) and n of each column of a table of cases.

    Columns of strings, like "case", are passed over; rows must not hold NaN or infinity.
    """
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"rows must be at least one, all with the same columns, got {[*map(list, rows)]}.")
    # not scipy.stats.bootstrap: it refuses a single case, whose interval is a point here
    resamples = np.random.default_rng(seed).integers(len(rows), size=(2000, len(rows)))
    summary = {}
    for column in (name for name, value in rows[0].items() if isinstance(value, Real)):
        values = np.array([row[column] for row in rows], dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"rows must hold finite numbers, got {column}={values[~np.isfinite(values)][0]}.")
        low, high = np.percentile(values[resamples].mean(axis=1), [2.5, 97.5]).tolist()
        summary[column] = {"mean": float(values.mean()), "median": float(np.median(values))}
        summary[column] |= {"ci95_low": low, "ci95_high": high, "n": len(values)}
    return summary


def worst_cases(rows: Sequence[Mapping[str, float]], key: str, count: int = 5) -> list[str]:
    """Names (column "case") of the cases lowest in column `key`, worst first, ties by name."""
    return [row["case"] for row in sorted(rows, key=lambda row: (row[key], row["case"]))[:count]]


def _check_label_map(name: str, values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values)  # a NIfTI file's own order makes what follows ten times slower
    if values.ndim != 3:
        raise ValueError(f"{name} must be 3-D, got {name}.shape={values.shape}.")
    with np.errstate(invalid="ignore"):  # a value that the cast changes is found below
        label_map = values.astype(np.uint8, copy=False)
    for slab, original in zip(label_map, values):
        foreign = original[(slab > 3) | (slab != original)]
        if foreign.size:
            raise ValueError(f"{name} must hold labels 0, 1, 2 and 3 only, got {foreign[0]}.")
    return label_map


def _check_spacing(spacing_mm: Sequence[float]) -> list[float]:
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise ValueError(f"spacing_mm must be three positive numbers, got spacing_mm={spacing_mm}.")
    return spacing.tolist()


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around every true voxel; the first voxel when there is none, as SciPy wants at least one."""
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0] or (slice(0, 1),) * 3


def _surface_dice(prediction: np.ndarray, label: np.ndarray, spacing_mm: list[float], tolerance_mm: float) -> float:
    """MONAI's `compute_surface_dice(use_subvoxels=True)` without its 140 bytes a voxel (largest scan: some 40 GB)."""
    if not prediction.any() or not label.any():
        return float(prediction.any() == label.any())
    box = _bounding_box(prediction | label)
    surfaces = [_find_surface(mask[box], spacing_mm) for mask in (prediction, label)]
    close_mm2 = 0.0
    for (points, areas), (other_points, _) in (surfaces, surfaces[::-1]):
        # the bound spares the search for distances that are out of tolerance anyway
        distances_mm = spatial.KDTree(other_points).query(points, distance_upper_bound=tolerance_mm + 1)[0]
        close_mm2 += areas[distances_mm <= tolerance_mm].sum()
    return float(close_mm2 / sum(areas.sum() for _, areas in surfaces))


def _find_surface(mask: np.ndarray, spacing_mm: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Surface elements of a boolean mask: positions in mm (n, 3), areas in square mm (n,)."""
    areas_mm2, corner_codes = get_code_to_measure_table(spacing_mm)
    padded = np.pad(mask, 1).view(np.uint8)  # closes surfaces at the border
    depth, height, width = (size - 1 for size in padded.shape)
    codes = np.zeros((depth, height, width), np.uint8)  # one bit for each of the 2 x 2 x 2 voxels around an element
    for z, y, x in np.ndindex(2, 2, 2):
        codes += padded[z : z + depth, y : y + height, x : x + width] * np.uint8(corner_codes[0, 0, z, y, x])
    where = np.nonzero((codes > 0) & (codes < 255))
    return np.stack(where, axis=1) * spacing_mm, areas_mm2.double().numpy()[codes[where]]


def _diameter(mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    # the farthest two voxels are corners of the convex hull, and such a corner is the first or the last of its row
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    return float(spatial.distance.pdist(np.concatenate([np.c_[rows, first], np.c_[rows, last]]) * spacing_mm).max())
