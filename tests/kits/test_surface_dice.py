"""Surface Dice: against surfaces measured by hand, and against MONAI on the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from label_maps import draw_boxes
from monai.metrics import compute_surface_dice
from scipy.spatial.distance import cdist

from common.kits.metrics import Protocol, score_case


def box_surface(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """
    Positions and areas of the surface elements of separate axis-aligned boxes, from marching cubes by hand.

    A cell between 2 x 2 x 2 voxel centres is cut through the midpoints of its edges: by a rectangle parallel to a face
    on a face of the box, by one of width hypot(a, b) / 2 on an edge, by a triangle on a corner.
    """
    padded = np.pad(mask, 1)
    points, areas = [], []
    for where in np.ndindex(*(size - 1 for size in padded.shape)):
        cell = padded[tuple(slice(start, start + 2) for start in where)]
        if cell.all() or not cell.any():
            continue
        cut = [axis for axis in range(3) if (np.take(cell, 0, axis) != np.take(cell, 1, axis)).any()]
        assert cell.sum() == 2 ** (3 - len(cut)), "not a face, edge or corner of a box"
        along = np.prod([spacing_mm[axis] for axis in range(3) if axis not in cut])
        if len(cut) == 1:
            area = along
        elif len(cut) == 2:
            area = along * np.hypot(*(spacing_mm[axis] / 2 for axis in cut))
        else:
            corners = np.diag(spacing_mm) / 2
            area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0])) / 2
        points.append(where)
        areas.append(area)
    return np.array(points) * spacing_mm, np.array(areas)


def box_surface_dice(prediction: np.ndarray, label: np.ndarray, spacing_mm: tuple, tolerance: float) -> float:
    predicted, predicted_areas = box_surface(prediction, spacing_mm)
    labelled, labelled_areas = box_surface(label, spacing_mm)
    distances = cdist(predicted, labelled)
    close = predicted_areas[distances.min(1) <= tolerance].sum() + labelled_areas[distances.min(0) <= tolerance].sum()
    return close / (predicted_areas.sum() + labelled_areas.sum())


def tumor_protocol(tolerance_mm: float) -> Protocol:
    return Protocol("test", {"tumor": (2,)}, {"tumor": tolerance_mm})


def surface_dice_uncropped(prediction: np.ndarray, label: np.ndarray, spacing_mm: tuple, tolerance: float) -> float:
    masks = [torch.from_numpy(np.pad(volume == 2, 3))[None, None] for volume in (prediction, label)]
    options = {"include_background": True, "use_subvoxels": True, "spacing": list(spacing_mm)}
    return compute_surface_dice(*masks, class_thresholds=[tolerance], **options).item()


# Eight equal triangles enclose a voxel; voxels that are neighbours along x share four of them.
@pytest.mark.parametrize(
    "shift, spacing_mm, tolerance_mm, expected",
    [
        ((1, 0, 0), (1.0, 1.0, 1.0), 0.9, 0.5),
        ((1, 0, 0), (1.0, 1.0, 1.0), 1.0, 1.0),
        ((2, 0, 0), (1.0, 1.0, 1.0), 0.9, 0.0),
        ((2, 0, 0), (1.0, 1.0, 1.0), 1.0, 0.5),
        ((1, 1, 0), (1.0, 1.0, 1.0), 0.9, 0.25),
        ((1, 1, 0), (1.0, 1.0, 1.0), 1.0, 0.75),
        ((1, 1, 1), (1.0, 1.0, 1.0), 0.0, 0.125),
        ((1, 0, 0), (5.0, 1.0, 1.0), 4.9, 0.5),
        ((0, 1, 0), (5.0, 1.0, 1.0), 1.0, 1.0),
        ((0, 0, 2), (5.0, 1.0, 0.4), 0.39, 0.0),
        ((0, 0, 2), (5.0, 1.0, 0.4), 0.41, 0.5),
    ],
)
def test_surface_dice_of_two_single_voxels(shift, spacing_mm, tolerance_mm, expected):
    prediction, label = np.zeros((2, 4, 4, 4), np.uint8)
    label[1, 1, 1] = prediction[tuple(np.add(1, shift))] = 2
    scores = score_case(prediction, label, spacing_mm, tumor_protocol(tolerance_mm))
    assert scores["tumor_surface_dice"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shift_voxels", [1, 2, 3])
def test_faces_of_a_shifted_plate_count_when_the_shift_is_within_tolerance(shift_voxels):
    # a plate one voxel thick: each element lies on one of its two sides
    label = draw_boxes((6, 9, 9), (1, 2, 0, 9, 0, 9))
    prediction = np.roll(label, shift_voxels, axis=0)
    spacing_mm = (1.5, 1.0, 1.0)
    distance_mm = 1.5 * shift_voxels
    # the sides that look at each other are nearer by the thickness: they coincide for a shift of one voxel
    nearest_mm = distance_mm - 1.5
    for tolerance_mm, expected in ((nearest_mm - 0.1, 0.0), (nearest_mm + 0.1, 0.5), (distance_mm + 0.1, 1.0)):
        if tolerance_mm >= 0:
            score = score_case(prediction, label, spacing_mm, tumor_protocol(tolerance_mm))["tumor_surface_dice"]
            assert score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7), (0.5, 5.0, 1.04)])
@pytest.mark.parametrize("tolerance_mm", [0.0, 0.75, 1.1498198361434828, 3.3])
@pytest.mark.parametrize(
    "prediction_boxes, label_boxes",
    [
        ([(2, 5, 2, 6, 2, 7)], [(2, 5, 3, 7, 1, 6)]),
        ([(0, 3, 0, 4, 0, 5)], [(1, 4, 0, 4, 0, 4)]),  # in a corner of the volume
        ([(5, 8, 5, 9, 5, 10)], [(4, 8, 6, 9, 7, 10)]),  # in the opposite corner
        ([(0, 8, 0, 9, 0, 10)], [(0, 8, 0, 9, 0, 9)]),  # all of the volume
        ([(3, 4, 3, 4, 3, 4)], [(2, 5, 2, 5, 2, 5)]),  # a voxel inside a cube
        ([(1, 3, 1, 3, 1, 3), (6, 8, 6, 9, 7, 8)], [(1, 4, 1, 3, 1, 3)]),  # and a false lesion
        ([(0, 1, 0, 1, 0, 1)], [(7, 8, 8, 9, 9, 10)]),  # far apart
    ],
)
def test_surface_dice_of_boxes_is_that_of_hand_written_areas(prediction_boxes, label_boxes, spacing_mm, tolerance_mm):
    prediction, label = draw_boxes((8, 9, 10), *prediction_boxes), draw_boxes((8, 9, 10), *label_boxes)
    score = score_case(prediction, label, spacing_mm, tumor_protocol(tolerance_mm))["tumor_surface_dice"]
    assert score == pytest.approx(box_surface_dice(prediction == 2, label == 2, spacing_mm, tolerance_mm), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_cropping_and_counting_change_nothing_against_monai_on_the_whole_padded_volume(seed):
    rng = np.random.default_rng(seed)
    prediction, label = np.zeros((2, 12, 20, 16), np.uint8)
    start = rng.integers(0, 7, size=3)
    inside = tuple(slice(first, first + size) for first, size in zip(start, (5, 9, 8)))
    density = (0.15, 0.5, 0.9)[seed % 3]
    prediction[inside], label[inside] = 2 * (rng.random((2, 5, 9, 8)) < density)
    if seed % 2:  # a stray voxel on the border
        prediction[tuple(rng.choice([0, -1], size=3))] = 2
    if seed > 5:  # masks that touch every border
        prediction, label = 2 * (rng.random((2, *label.shape)) < density)
    score = score_case(prediction, label, (2.5, 0.7, 0.9), tumor_protocol(0.8))["tumor_surface_dice"]
    assert 0 < score < 1
    assert score == pytest.approx(surface_dice_uncropped(prediction, label, (2.5, 0.7, 0.9), 0.8), abs=1e-6)
