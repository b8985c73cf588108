"""Which connected pieces of a label map stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError

AUTO = "auto"
# what has so many slices over such a height is a whole scan: it shows kidneys as one piece each, and there are two
WHOLE_SCAN_SLICES, WHOLE_SCAN_MM, KIDNEYS = 16, 100, 2
TOLD_ML = 1


def check_components(keep_largest: int | str | None, min_volume_ml: float | None) -> None:
    """
    Raises:
        InputError: when an argument is not one that `keep_components` takes.
    """
    if keep_largest not in (None, AUTO) and not (isinstance(keep_largest, int) and keep_largest >= 0):
        raise InputError(f"keep_largest: expected {AUTO}, 0 or a positive number, found {keep_largest}.")
    if min_volume_ml is not None and not (isinstance(min_volume_ml, (int, float)) and min_volume_ml > 0):
        raise InputError(f"min_volume_ml: expected a positive number, found {min_volume_ml}.")


def keep_components(
    label_map: np.ndarray,
    spacing_mm: Sequence[float],
    keep_largest: int | str | None = None,
    min_volume_ml: float | None = None,
) -> float:
    """
    Set connected components (26 neighbours) of kidney and tumour together to background, in place.

    Args:
        label_map: (X, Y, Z), Z across axial slices.
        spacing_mm: size of a voxel along each axis.
        keep_largest: how many of the largest stay; None or 0 keeps all; "auto" keeps two in a whole scan, and all in
            what is shorter than `WHOLE_SCAN_MM` or has fewer slices than `WHOLE_SCAN_SLICES`, since in a stack of
            single slices a kidney is as many components as it has slices.
        min_volume_ml: components that are smaller go, too.

    Returns:
        ml of what went.
    """
    if keep_largest == AUTO:
        slices = label_map.shape[2]
        keep_largest = KIDNEYS if slices >= WHOLE_SCAN_SLICES and slices * spacing_mm[2] >= WHOLE_SCAN_MM else None
    if not keep_largest and min_volume_ml is None:
        return 0.0
    from scipy import ndimage  # half a second that few need wait

    found = ndimage.find_objects((label_map > 0).view(np.uint8))
    if not found:
        return 0.0
    inside = label_map[found[0]]
    components, number = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    kept = np.zeros(number + 1, bool)
    kept[1 + np.argsort(sizes)[::-1][: keep_largest or None]] = True
    volumes_ml = sizes * float(np.prod(spacing_mm)) / 1000
    kept[1:] &= volumes_ml >= (min_volume_ml or 0)
    inside[~kept[components]] = 0
    return float(volumes_ml[~kept[1:]].sum())


def describe_removed(removed_ml: float) -> str | None:
    """What a user is told of pieces that went; None where they are too small to be told of."""
    if removed_ml < TOLD_ML:
        return None
    return f"left out {removed_ml:.0f} ml apart from the largest pieces; keep_largest 0 keeps them"
