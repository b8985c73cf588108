"""
What a label map holds, for a report that a program reads: kidneys by side, and every lesion with its place.

The descriptors of a lesion are near to those of the R.E.N.A.L. nephrometry score (Kutikov and Uzzo 2009,
https://doi.org/10.1016/j.juro.2009.05.035) where a label map holds what they need: the size, the share outside of the
kidney's outline, and the way to its poles. Nearness to the collecting system and the polar lines need the renal sinus,
which no label of KiTS shows, so that there is no score here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage, spatial

from .metrics import measure_case
from .volumes import LABELS

KIDNEY_ML = 30  # smaller pieces are no kidney: half of an atrophic adult's
CROSSING = 0.15  # share of a piece on the other side of the midline from which it is one kidney across it
LESIONS = 50  # listed at most, the largest first
NEIGHBOURS = np.ones((3, 3, 3))
SIDES = ("right", "left")


def find_midline(image: np.ndarray, label_map: np.ndarray) -> float:
    """
    Index along X of the middle of the body, in the slices with kidney or tumour, else in all.

    Args:
        image: uint8 HU window (X, Y, Z) in RAS; air is 0.
        label_map: on the same grid.
    """
    slices = np.flatnonzero(label_map.any(axis=(0, 1)))
    low, high = (slices[0], slices[-1] + 1) if slices.size else (0, image.shape[2])
    columns = np.count_nonzero(image[..., low:high], axis=(1, 2)).cumsum()
    return float(np.searchsorted(columns, columns[-1] / 2)) if columns[-1] else (image.shape[0] - 1) / 2


def describe_findings(label_map: np.ndarray, spacing_mm: Sequence[float], midline: float) -> dict[str, object]:
    """
    Volumes, kidneys by side, and lesions of a label map (X, Y, Z) in RAS.

    Args:
        spacing_mm: voxel size along X, Y, Z.
        midline: index along X, see `find_midline`; what lies above it is right.

    Returns:
        what `measure_case` gives, and
        kidneys: "both", "left only", "right only", "one across the midline" or "none";
        right, left: `kidney_ml` and `tumor_ml` on this side of the midline;
        elsewhere_ml: foreground in pieces that are no kidney, see `split_kidneys`;
        lesion_list: see `_describe_lesion`, the largest first.

    Example:
        >>> label_map = np.zeros((40, 10, 20), np.uint8)
        >>> label_map[25:35, :, 5:15], label_map[28:31, 2:5, 10:12] = 1, 2
        >>> found = describe_findings(label_map, (4.0, 4.0, 4.0), 20)
        >>> found["kidneys"], found["lesion_list"][0]["side"]
        ('right only', 'right')
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    where = (ndimage.find_objects((label_map > 0).view(np.uint8)) or [(slice(0, 1),) * 3])[0]
    box, offset = label_map[where], where[0].start
    right = np.arange(box.shape[0]) + offset > midline
    kidneys, kind = split_kidneys(box, voxel_ml, right)
    volumes = {
        side: {
            f"{name}_ml": float(np.count_nonzero(box[there] == LABELS[name]) * voxel_ml) for name in ("kidney", "tumor")
        }
        for side, there in zip(SIDES, (right, ~right))
    }
    lesions, _ = ndimage.label(box == LABELS["tumor"], structure=NEIGHBOURS)
    sizes = np.bincount(lesions.ravel(), minlength=1)[1:]
    places = ndimage.find_objects(lesions)
    order = np.argsort(-sizes, kind="stable")[:LESIONS]
    measures = measure_case(label_map, spacing_mm)
    outlines = {number: _outline(box, kidneys, number, spacing_mm) for number in np.unique(kidneys[kidneys > 0])}
    elsewhere_ml = float(np.count_nonzero((box > 0) & (kidneys == 0)) * voxel_ml)
    return measures | {
        "kidneys": kind,
        **volumes,
        "elsewhere_ml": elsewhere_ml,
        "lesion_list": [
            _describe_lesion(lesions, i + 1, places[i], kidneys, outlines, spacing_mm, right, where[2].start)
            for i in order
        ],
    }


def split_kidneys(label_map: np.ndarray, voxel_ml: float, right: np.ndarray) -> tuple[np.ndarray, str]:
    """
    Which voxels belong to a kidney, with its tumours.

    A kidney is the largest connected piece of foreground on its side that holds `KIDNEY_ML` of kidney. All else lies
    elsewhere: a false finding, mostly, or a piece that the network tore off.

    Args:
        right: (X,), whether a column lies on the patient's right.

    Returns:
        uint8 map: 0 no kidney, 1 the right, 2 the left one, 3 one across the midline; which there are, in words.
    """
    pieces, count = ndimage.label(label_map > 0, structure=NEIGHBOURS)
    kidney_ml = np.bincount(pieces[label_map == LABELS["kidney"]], minlength=count + 1) * voxel_ml
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    on_right = np.bincount(pieces[right].ravel(), minlength=count + 1) / np.maximum(sizes, 1)
    found = np.zeros(count + 1, np.uint8)
    large = [piece for piece in np.argsort(-sizes) if piece and kidney_ml[piece] >= KIDNEY_ML]
    for piece in large:
        if CROSSING < on_right[piece] < 1 - CROSSING and not found.any():
            found[piece] = 3
            return found[pieces], "one across the midline"
        number = 1 if on_right[piece] >= 0.5 else 2
        if number not in found:
            found[piece] = number
    kinds = {(True, True): "both", (True, False): "right only", (False, True): "left only", (False, False): "none"}
    return found[pieces], kinds[1 in found, 2 in found]


def _describe_lesion(
    lesions: np.ndarray,
    number: int,
    place: tuple[slice, ...],
    kidneys: np.ndarray,
    outlines: Mapping[int, tuple],
    spacing_mm: Sequence[float],
    right: np.ndarray,
    first_slice: int,
) -> dict[str, object]:
    """
    One lesion.

    Returns:
        volume_ml; tumor_diameter_mm, the longest within one axial slice; side; slices, the first and the last, from 1
        at the lowest; in_kidney, whether it is part of a kidney; and where it is, exophytic_share, the part of its
        volume outside of the convex hull of the kidney's own voxels, and upper_pole_mm and lower_pole_mm, from its
        nearer end to that end of these voxels, below 0 where it goes beyond.
    """
    mask = lesions[place] == number
    measures = measure_case(np.where(mask, LABELS["tumor"], 0), spacing_mm)
    own = int(np.bincount(kidneys[place][mask]).argmax())
    low, high = place[2].start, place[2].stop
    side = SIDES[0] if right[place[0]] @ mask.sum(axis=(1, 2)) * 2 >= mask.sum() else SIDES[1]
    lesion = {
        "volume_ml": measures["tumor_ml"],
        "tumor_diameter_mm": measures["tumor_diameter_mm"],
        "side": side,
        "slices": [first_slice + low + 1, first_slice + high],
        "in_kidney": own > 0,
    }
    if own:
        planes, first, last = outlines[own]
        points = (np.argwhere(mask) + [axis.start for axis in place]) * spacing_mm
        lesion["exophytic_share"] = None if planes is None else _share_outside(points, planes)
        lesion["upper_pole_mm"] = float((last + 1 - high) * spacing_mm[2])
        lesion["lower_pole_mm"] = float((low - first) * spacing_mm[2])
    return lesion


def _outline(
    label_map: np.ndarray, kidneys: np.ndarray, number: int, spacing_mm: Sequence[float]
) -> tuple[np.ndarray | None, int, int]:
    """Of a kidney's own voxels: planes (n, 4) of the convex hull, None where they lie in one; first and last slice."""
    tissue = (kidneys == number) & (label_map == LABELS["kidney"])
    slices = np.flatnonzero(tissue.any(axis=(0, 1)))
    try:
        planes = spatial.ConvexHull(_find_ends(tissue) * spacing_mm).equations
    except (spatial.QhullError, ValueError):
        planes = None
    return planes, int(slices[0]), int(slices[-1])


def _find_ends(mask: np.ndarray) -> np.ndarray:
    """The first and last voxel (n, 3) of every row along X: among them are all corners of the convex hull."""
    rows = np.argwhere(mask.any(axis=0))
    first, last = mask.argmax(axis=0), mask.shape[0] - 1 - mask[::-1].argmax(axis=0)
    return np.concatenate([np.c_[end[tuple(rows.T)], rows] for end in (first, last)])


def _share_outside(points: np.ndarray, planes: np.ndarray) -> float:
    """The share of points (n, 3) outside of a convex hull."""
    outside = np.zeros(len(points), bool)
    for *normal, offset in planes:
        outside |= points @ normal + offset > 1e-6
    return float(outside.mean())
