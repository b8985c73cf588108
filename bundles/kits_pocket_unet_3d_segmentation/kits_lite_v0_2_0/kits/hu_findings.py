"""What the values of a CT say of its making: saturated windows, a scale that is off, inverted gray values, crops."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation
from scipy.ndimage import gaussian_filter1d

from .volumes import iterate_slabs

RANGE_HU = (-1100, 2000)
# where the two peaks of a body lie on every CT, whatever the phase and the tube voltage
FAT_HU, SOFT_TISSUE_HU = (-140, -60), (0, 120)
AIR_HU = -300
# a narrower window than the networks look at
SATURATED_HU = (-150, 400)
STEP = 3  # every third voxel along each axis of a slice says as much as all


def find_hu_problems(image: nib.Nifti1Image) -> list[str]:
    """
    What is unusual about the values of a CT, a sentence each; none for a whole CT in Hounsfield units.

    Found are values that are cut within the networks' window, fat or soft tissue at the wrong HU (a CT that was
    rescaled, or guessed from pictures), gray values that are inverted as in MONOCHROME1, and slices that are cut out
    of larger ones. All are warnings: such an image can be segmented, but the networks were not scored on its like.

    Args:
        image: 3-D CT, any orientation, see `open_volume`.

    Raises:
        InputError: when the file is damaged.
    """
    low, high = RANGE_HU
    histogram, border, centre = np.zeros(high - low + 1, np.int64), [], []
    through = int(np.flatnonzero(io_orientation(image.affine)[:, 0] == 2)[0])
    for where, slab in iterate_slabs(image):
        values = np.clip(np.nan_to_num(slab[::STEP, ::STEP]), low, high).round().astype(np.int64)
        histogram += np.bincount((values - low).ravel(), minlength=len(histogram))
        edges = _find_edges(image.shape, through, where)[::STEP, ::STEP]
        border.append(values[edges])
        centre.append(values[~edges])
    border, centre = np.concatenate(border), np.concatenate(centre)
    found = np.flatnonzero(histogram) + low
    problems = _describe_saturation(histogram, found[0], found[-1])
    if len(border) and np.median(border) > np.median(centre) + 300:
        return [*problems, "gray values look inverted: the border of the slices is brighter than their middle"]
    if not problems:
        problems += _describe_peaks(histogram)
    if len(border) and (border < max(AIR_HU, found[0] + 1)).mean() < 0.2:
        problems.append("slices look cut out of larger ones: there is hardly any air along their edges")
    return problems


def _find_edges(shape: Sequence[int], through: int, where: slice) -> np.ndarray:
    """Which voxels of a slab, a piece of the last axis, lie within a fiftieth of the edges of an axial slice."""
    edges = np.zeros((*shape[:2], len(range(*where.indices(shape[2])))), bool)
    for axis, length in enumerate(shape):
        if axis == through:
            continue
        positions = np.arange(length)[where] if axis == 2 else np.arange(length)
        margin = max(1, length // 50)
        near = (positions < margin) | (positions >= length - margin)
        edges |= near.reshape([-1 if i == axis else 1 for i in range(3)])
    return edges


def _describe_saturation(histogram: np.ndarray, lowest: int, highest: int) -> list[str]:
    total, problems = histogram.sum(), []
    darkest, brightest = (histogram[value - RANGE_HU[0]] / total for value in (lowest, highest))
    if lowest > SATURATED_HU[0] and darkest > 0.05:
        problems.append(f"values below {lowest} HU are cut: {darkest:.0%} of the voxels have that value")
    if highest < SATURATED_HU[1] and brightest > 0.002:
        problems.append(f"values above {highest} HU are cut: {brightest:.1%} of the voxels have that value")
    return problems


def _describe_peaks(histogram: np.ndarray) -> list[str]:
    """Where soft tissue and fat peak, and should not; a head may have no peak of fat."""
    low = RANGE_HU[0]
    histogram = histogram.astype(float)
    histogram[np.flatnonzero(histogram)[[0, -1]]] = 0  # what was cut heaps up there
    smooth, inside = gaussian_filter1d(histogram, 8), range(-400 - low, 400 - low)
    least = 0.1 * smooth[inside.start : inside.stop].max()
    peaks = [i + low for i in inside if smooth[i] == smooth[i - 20 : i + 21].max() and smooth[i] > least]
    told = f"found peaks at {', '.join(map(str, peaks))} HU: is this CT rescaled?"
    problems = []
    if peaks and not any(SOFT_TISSUE_HU[0] <= peak <= SOFT_TISSUE_HU[1] for peak in peaks):
        problems.append(f"no peak of soft tissue from {SOFT_TISSUE_HU[0]} to {SOFT_TISSUE_HU[1]} HU, {told}")
    dark = [peak for peak in peaks if peak < SOFT_TISSUE_HU[0]]
    if dark and not any(FAT_HU[0] <= peak <= FAT_HU[1] for peak in dark):
        problems.append(f"no peak of fat from {FAT_HU[0]} to {FAT_HU[1]} HU, {told}")
    return problems
