"""
Is a scan, and what a network made of it, like what the networks were trained and scored on?

Every warning has a code, for programs, and a sentence. How often each is raised on patients where it should not be is
counted in docs/explanation/warnings.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .findings import SIDES
from .volumes import LABELS

# of all 210 labelled KiTS19 scans: https://doi.org/10.1016/j.media.2020.101821
THICKNESS_MM, PIXEL_MM = (0.5, 5.0), (0.4375, 1.041)
TOLERANCE = 0.01
# kidney tissue of one side without tumour: an adult's has 100 to 250 ml, one in compensation up to 400
PLAUSIBLE_ML = (40, 450)
# the middle half of kidney tissue, median HU: that of KiTS19, late arterial, with a margin; see the page
PHASE_HU = (50, 260)
ELSEWHERE_SHARE, ELSEWHERE_ML = 0.05, 5
# the liver: soft tissue, so far from all else, and the largest organ of an axial slice from the kidneys' lower poles to
# this far above the upper ones; from this area on, and twice that of any on the other side, it tells the sides
LIVER_HU, LIVER_EDGE_MM, ABOVE_MM, LIVER_CM2 = (30, 200), 8, 50, 50
COARSE_MM = 3
CUT_MM2 = 100  # a kidney's area in an outermost slice or column from which it goes on beyond
FEW_VOXELS = 500


@dataclass(frozen=True)
class ScanWarning:
    """Something that a reader should look at: a code and a sentence."""

    code: str
    text: str


def find_scan_warnings(
    image: np.ndarray,
    label_map: np.ndarray,
    spacing_mm: Sequence[float],
    findings: Mapping[str, object],
    hu_window: Sequence[float],
) -> list[ScanWarning]:
    """
    What is unusual about a segmented scan.

    Args:
        image: uint8 HU window (X, Y, Z) in RAS.
        label_map: prediction on the same grid.
        spacing_mm: voxel size along X, Y, Z.
        findings: see `describe_findings`.
        hu_window: what 0 and 255 of the image stand for.
    """
    found = [*_find_grid_warnings(spacing_mm), *_find_kidney_warnings(findings)]
    if findings["kidneys"] != "none":
        found += [*_find_cuts(label_map, spacing_mm), *_find_phase_warnings(image, label_map, hu_window)]
        if is_liver_on_the_left(image, label_map, spacing_mm, hu_window):
            text = "the largest organ beside and above the kidneys lies on the left: are right and left exchanged?"
            found.append(ScanWarning("sides", text))
    return found


def _find_grid_warnings(spacing_mm: Sequence[float]) -> list[ScanWarning]:
    *pixel, thickness = spacing_mm
    found = []
    for code, sizes, (low, high), what in (
        ("slice_distance", [thickness], THICKNESS_MM, "slices are {:.3g} mm apart"),
        ("pixel_size", pixel, PIXEL_MM, "pixels have {:.3g} mm"),
    ):
        odd = [size for size in sizes if not low * (1 - TOLERANCE) <= size <= high * (1 + TOLERANCE)]
        if odd:
            text = f"{what.format(odd[0])}, in training {low:g} to {high:g} mm"
            found.append(ScanWarning(code, text))
    return found


def _find_kidney_warnings(findings: Mapping) -> list[ScanWarning]:
    kidneys, found = findings["kidneys"], []
    if kidneys == "none":
        return [ScanWarning("no_kidney", "no piece is large enough for a kidney")]
    if kidneys == "one across the midline":
        text = "kidney tissue goes across the midline in one piece: a horseshoe kidney, or a false finding between two"
        found.append(ScanWarning("across_midline", text))
    elif kidneys != "both":
        side = kidneys.removesuffix(" only")
        found.append(ScanWarning("one_kidney", f"a kidney on the {side} alone: is the other one missing, or missed?"))
    low, high = PLAUSIBLE_ML
    for side in SIDES:
        volume = findings[side]["kidney_ml"]
        if kidneys in ("both", f"{side} only") and not low <= volume <= high:
            text = f"{volume:.0f} ml of kidney tissue on the {side}, expected {low} to {high} ml"
            found.append(ScanWarning("kidney_volume", text))
    elsewhere = findings["elsewhere_ml"]
    if elsewhere > max(ELSEWHERE_ML, ELSEWHERE_SHARE * (findings["kidney_ml"] + findings["tumor_ml"])):
        text = f"{elsewhere:.0f} ml of the findings lie in pieces that are no kidney: most such pieces are false"
        found.append(ScanWarning("elsewhere", text))
    return found


def _find_cuts(label_map: np.ndarray, spacing_mm: Sequence[float]) -> list[ScanWarning]:
    names = ("right or left", "front or back", "lower or upper")
    found = []
    for axis, name in enumerate(names):
        area = float(np.prod(np.delete(spacing_mm, axis)))
        ends = (label_map.take(end, axis=axis) for end in (0, -1))
        if max(np.count_nonzero(end) for end in ends) * area > CUT_MM2:
            text = f"a kidney or tumour reaches the {name} end of the scan: volumes and diameters are those of a part"
            found.append(ScanWarning("cut_off", text))
    return found


def measure_kidney_hu(image: np.ndarray, label_map: np.ndarray, hu_window: Sequence[float]) -> float | None:
    """Median HU of kidney tissue, a pixel off all else where so much is left; None where there is hardly any."""
    where = ndimage.find_objects((label_map == LABELS["kidney"]).view(np.uint8))
    if not where:
        return None
    mask = label_map[where[0]] == LABELS["kidney"]
    inner = ndimage.binary_erosion(mask, np.ones((3, 3, 1)))
    values = image[where[0]][inner if np.count_nonzero(inner) >= FEW_VOXELS else mask]
    if values.size < FEW_VOXELS:
        return None
    low, high = hu_window
    return float(low + np.median(values) / 255 * (high - low))


def _find_phase_warnings(image: np.ndarray, label_map: np.ndarray, hu_window: Sequence[float]) -> list[ScanWarning]:
    median, (low, high) = measure_kidney_hu(image, label_map, hu_window), PHASE_HU
    if median is None or low <= median <= high:
        return []
    guess = "no contrast agent, or early" if median < low else "another scale of HU, or a late phase"
    text = f"kidney tissue has a median of {median:.0f} HU, in training (late arterial) {low} to {high} HU: {guess}"
    return [ScanWarning("contrast_phase", text)]


def is_liver_on_the_left(
    image: np.ndarray, label_map: np.ndarray, spacing_mm: Sequence[float], hu_window: Sequence[float]
) -> bool:
    """
    Whether what looks like the liver lies on the patient's left; False where nothing large does.

    In every axial slice the largest connected area of soft tissue counts, 3 mm pixels, eroded, without the kidneys.

    Args:
        image, label_map, spacing_mm, hu_window: see `find_scan_warnings`.
    """
    slices = np.flatnonzero(label_map.any(axis=(0, 1)))
    if not slices.size:
        return False
    low, high = hu_window
    factors = [max(1, round(COARSE_MM / size)) for size in spacing_mm[:2]]
    pixel_cm2 = np.prod(spacing_mm[:2]) * np.prod(factors) / 100
    edge = max(1, round(LIVER_EDGE_MM / (factors[0] * spacing_mm[0])))
    largest = [0.0, 0.0]  # on the right, on the left
    for index in range(slices[0], min(slices[-1] + 1 + round(ABOVE_MM / spacing_mm[2]), image.shape[2])):
        hu = low + _merge(image[..., index], factors) / 255 * (high - low)
        soft = (hu > LIVER_HU[0]) & (hu < LIVER_HU[1]) & (_merge(label_map[..., index], factors) == 0)
        areas, count = ndimage.label(ndimage.binary_erosion(soft, iterations=edge))
        columns = np.count_nonzero(hu > low, axis=1).cumsum()
        if not count or not columns[-1]:
            continue
        sizes = np.bincount(areas.ravel())[1:]
        organ = areas == sizes.argmax() + 1
        right = np.count_nonzero(organ[np.searchsorted(columns, columns[-1] / 2) + 1 :]) / sizes.max()
        for side, share in enumerate((right, 1 - right)):
            if share > 0.8:
                largest[side] = max(largest[side], sizes.max() * pixel_cm2)
    return largest[1] > max(LIVER_CM2, 2 * largest[0])


def _merge(axial: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of pixels (X, Y); an incomplete block at the end is left out."""
    (a, b), (rows, columns) = factors, axial.shape
    return axial[: rows // a * a, : columns // b * b].reshape(rows // a, a, columns // b, b).mean(axis=(1, 3))
