"""Which connected pieces of a label map stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError


def check_components(keep_largest: int | None, min_volume_ml: float | None) -> None:
    """
    Raises:
        InputError: when an argument of `keep_components` is given and is not positive.
    """
    if keep_largest is not None and not (isinstance(keep_largest, int) and keep_largest > 0):
        raise InputError(f"keep_largest: expected a positive number, found {keep_largest}.")
    if min_volume_ml is not None and not (isinstance(min_volume_ml, (int, float)) and min_volume_ml > 0):
        raise InputError(f"min_volume_ml: expected a positive number, found {min_volume_ml}.")


def keep_components(
    label_map: np.ndarray,
    spacing_mm: Sequence[float],
    keep_largest: int | None = None,
    min_volume_ml: float | None = None,
) -> None:
    """
    Set connected components (26 neighbours) of kidney and tumour together to background, in place.

    Both are for whole scans: in a stack of single slices a kidney is as many components as it has slices.

    Args:
        label_map: (X, Y, Z).
        spacing_mm: size of a voxel along each axis.
        keep_largest: how many of the largest stay; None keeps all.
        min_volume_ml: components that are smaller go, too.
    """
    if keep_largest is None and min_volume_ml is None:
        return
    from scipy import ndimage  # half a second that few need wait

    found = ndimage.find_objects((label_map > 0).view(np.uint8))
    if not found:
        return
    inside = label_map[found[0]]
    components, number = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    kept = np.zeros(number + 1, bool)
    kept[1 + np.argsort(sizes)[::-1][:keep_largest]] = True
    kept[1:] &= sizes * float(np.prod(spacing_mm)) / 1000 >= (min_volume_ml or 0)
    inside[~kept[components]] = 0
