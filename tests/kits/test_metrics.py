from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_surface_dice
from scipy.spatial.distance import cdist

from common.kits.metrics import (
    KITS19,
    KITS23,
    PROTOCOLS,
    PooledDice,
    Protocol,
    measure_case,
    pooled_dice,
    score_case,
    summarize,
    worst_cases,
)

NAN, INF = float("nan"), float("inf")


# Independent definitions


def dice_of_sets(prediction: np.ndarray, label: np.ndarray, labels: tuple[int, ...]) -> float:
    predicted = {where for where, value in np.ndenumerate(prediction) if value in labels}
    labelled = {where for where, value in np.ndenumerate(label) if value in labels}
    if not predicted and not labelled:
        return 1.0
    return 2 * len(predicted & labelled) / (len(predicted) + len(labelled))


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


def draw_boxes(shape: tuple[int, ...], *boxes: tuple[int, ...], label: int = 2) -> np.ndarray:
    """Label map with boxes (start, stop) x 3."""
    volume = np.zeros(shape, np.uint8)
    for x0, x1, y0, y1, z0, z1 in boxes:
        volume[x0:x1, y0:y1, z0:z1] = label
    return volume


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice(4, size=shape, p=[0.5, 0.25, 0.15, 0.1]).astype(np.uint8)


def surface_dice_uncropped(prediction: np.ndarray, label: np.ndarray, spacing_mm: tuple, tolerance: float) -> float:
    masks = [torch.from_numpy(np.pad(volume == 2, 3))[None, None] for volume in (prediction, label)]
    options = {"include_background": True, "use_subvoxels": True, "spacing": list(spacing_mm)}
    return compute_surface_dice(*masks, class_thresholds=[tolerance], **options).item()


# score_case


def test_protocols_are_found_by_name_and_every_tolerance_belongs_to_a_class():
    assert PROTOCOLS == {"kits19": KITS19, "kits23": KITS23}
    assert KITS19.tolerances_mm == {}
    assert KITS23.tolerances_mm.keys() == KITS23.classes.keys()
    # kits21/configuration/labels.py, HEC_SD_TOLERANCES_MM
    assert list(KITS23.tolerances_mm.values()) == [1.0330772532390826, 1.1328796488598762, 1.1498198361434828]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("protocol", [KITS19, KITS23], ids=lambda protocol: protocol.name)
def test_dice_is_that_of_sets_of_voxels(protocol, seed):
    rng = np.random.default_rng(seed)
    prediction, label = draw_noise(rng, (5, 6, 7)), draw_noise(rng, (5, 6, 7))
    scores = score_case(prediction, label, (3.0, 0.8, 0.7), protocol)
    expected = {name: dice_of_sets(prediction, label, labels) for name, labels in protocol.classes.items()}
    assert {name: scores[f"{name}_dice"] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert scores[protocol.mean_dice] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


def test_kits19_scores_two_dice_and_their_composite():
    label = draw_boxes((4, 4, 4), (0, 4, 0, 4, 0, 2), label=1)
    label[0, 0, 0] = 2
    prediction = np.where(label == 2, 1, label)  # kidney right, tumour missed
    assert score_case(prediction, label, (1, 1, 1)) == {"kidney_dice": 1.0, "tumor_dice": 0.0, "composite": 0.5}


@pytest.mark.parametrize("cyst_in", ["prediction", "label", "both"])
def test_a_cyst_is_kidney_in_kits19(cyst_in):
    kidney = draw_boxes((4, 4, 4), (1, 3, 1, 3, 1, 3), label=1)
    cyst = kidney * 3
    prediction, label = {"prediction": (cyst, kidney), "label": (kidney, cyst), "both": (cyst, cyst)}[cyst_in]
    assert score_case(prediction, label, (1, 1, 1)) == {"kidney_dice": 1.0, "tumor_dice": 1.0, "composite": 1.0}


def test_kits23_scores_two_metrics_of_three_classes_and_their_means():
    rng = np.random.default_rng(0)
    scores = score_case(draw_noise(rng, (6, 6, 6)), draw_noise(rng, (6, 6, 6)), (1, 1, 1), KITS23)
    for metric in ("dice", "surface_dice"):
        of_classes = [scores.pop(f"{name}_{metric}") for name in ("kidney_and_mass", "mass", "tumor")]
        assert scores.pop(metric) == pytest.approx(np.mean(of_classes))
    assert scores == {}


@pytest.mark.parametrize("protocol", [KITS19, KITS23], ids=lambda protocol: protocol.name)
def test_a_map_scores_one_against_itself_even_when_empty(protocol):
    for volume in (draw_noise(np.random.default_rng(0), (5, 6, 7)), np.zeros((5, 6, 7), np.uint8)):
        assert set(score_case(volume, volume, (3.0, 0.8, 0.7), protocol).values()) == {1.0}


@pytest.mark.parametrize("protocol", [KITS19, KITS23], ids=lambda protocol: protocol.name)
def test_a_class_in_one_map_only_scores_zero_and_a_class_in_neither_scores_one(protocol):
    kidney, empty = draw_boxes((5, 5, 5), (0, 2, 0, 2, 0, 2), label=1), np.zeros((5, 5, 5), np.uint8)
    for prediction, label in ((kidney, empty), (empty, kidney)):
        scores = score_case(prediction, label, (1, 1, 1), protocol)
        for name, labels in protocol.classes.items():
            for metric in ("dice", "surface_dice")[: 1 + bool(protocol.tolerances_mm)]:
                assert scores[f"{name}_{metric}"] == (0.0 if 1 in labels else 1.0)


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


def test_empty_space_around_a_case_changes_no_score():
    rng = np.random.default_rng(0)
    prediction, label = draw_noise(rng, (5, 6, 7)), draw_noise(rng, (5, 6, 7))
    padded = [np.pad(volume, ((0, 9), (4, 0), (2, 3))) for volume in (prediction, label)]
    spacing_mm = (2.5, 0.7, 0.9)
    assert score_case(*padded, spacing_mm, KITS23) == pytest.approx(score_case(prediction, label, spacing_mm, KITS23))


def test_scores_follow_the_axes_of_the_array():
    rng = np.random.default_rng(0)
    prediction, label = draw_noise(rng, (5, 6, 7)), draw_noise(rng, (5, 6, 7))
    scores = score_case(prediction, label, (2.5, 0.7, 0.9), KITS23)
    turned = score_case(prediction.transpose(2, 0, 1), label.transpose(2, 0, 1), (0.9, 2.5, 0.7), KITS23)
    assert turned["dice"] == pytest.approx(scores["dice"])
    swapped = score_case(label, prediction, (2.5, 0.7, 0.9), KITS23)
    assert swapped == pytest.approx(scores)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64])
def test_label_maps_of_any_dtype_and_memory_order_score_alike_and_stay_as_they_are(dtype):
    rng = np.random.default_rng(0)
    prediction, label = draw_noise(rng, (5, 6, 7)), draw_noise(rng, (5, 6, 7))
    expected = score_case(prediction, label, (2.5, 0.7, 0.9), KITS23)
    given = np.asfortranarray(prediction.astype(dtype))
    given.flags.writeable = False
    assert score_case(given, MetaTensor(label), (2.5, 0.7, 0.9), KITS23) == expected
    assert np.array_equal(given, prediction)


# measure_case


def test_volumes_of_boxes_are_counted_by_label_alone():
    label_map = draw_boxes((10, 10, 10), (0, 4, 0, 5, 0, 5), label=1)
    label_map[6:8, 6:8, 6:8], label_map[9, 9, 9] = 2, 3
    measures = measure_case(label_map, (5.0, 2.0, 2.0))
    assert measures["kidney_ml"] == pytest.approx(100 * 20 / 1000)
    assert measures["tumor_ml"] == pytest.approx(8 * 20 / 1000)


@pytest.mark.parametrize(
    "boxes, lesions",
    [
        ([], 0),
        ([(0, 1, 0, 1, 0, 1)], 1),
        ([(0, 1, 0, 1, 0, 1), (1, 2, 1, 2, 1, 2)], 1),  # touching at a corner
        ([(0, 1, 0, 1, 0, 1), (1, 2, 1, 2, 0, 1)], 1),  # touching along an edge
        ([(0, 1, 0, 1, 0, 1), (2, 3, 0, 1, 0, 1)], 2),
        ([(0, 2, 0, 2, 0, 2), (4, 6, 4, 6, 4, 6), (0, 2, 4, 6, 0, 1)], 3),
    ],
)
def test_lesions_are_the_26_connected_tumours(boxes, lesions):
    assert measure_case(draw_boxes((6, 6, 6), *boxes), (1, 1, 1))["lesions"] == lesions


@pytest.mark.parametrize(
    "axial_axis, expected_mm",
    [(0, np.hypot(3 * 2.0, 4 * 3.0)), (1, np.hypot(2 * 1.0, 4 * 3.0)), (2, np.hypot(2 * 1.0, 3 * 2.0))],
)
def test_the_diameter_of_a_box_is_its_diagonal_in_the_axial_plane(axial_axis, expected_mm):
    label_map = draw_boxes((8, 8, 8), (1, 4, 2, 6, 3, 8))  # 3 x 4 x 5 voxels
    measures = measure_case(label_map, (1.0, 2.0, 3.0), axial_axis)
    assert measures["tumor_diameter_mm"] == pytest.approx(expected_mm)


@pytest.mark.parametrize(
    "boxes, expected_mm",
    [
        ([], 0.0),
        ([(3, 4, 3, 4, 3, 4)], 0.0),
        ([(3, 4, 3, 4, 0, 8)], 0.0),  # a column of single voxels across slices
        ([(0, 1, 0, 4, 0, 1)], 6.0),  # one row
        ([(0, 4, 0, 1, 0, 1)], 3.0),  # one column
        ([(0, 2, 0, 1, 0, 1), (6, 8, 0, 1, 0, 1)], 1.0),  # two lesions in one slice are not one
        ([(0, 2, 0, 1, 0, 1), (6, 8, 0, 1, 0, 1), (1, 7, 0, 1, 1, 2)], 7.0),  # unless they meet in the next slice
    ],
)
def test_the_diameter_stays_within_one_slice_and_one_lesion(boxes, expected_mm):
    measures = measure_case(draw_boxes((8, 8, 8), *boxes), (1.0, 2.0, 3.0))
    assert measures["tumor_diameter_mm"] == pytest.approx(expected_mm)


@pytest.mark.parametrize("seed", range(10))
def test_the_diameter_of_any_single_lesion_is_the_largest_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    axial_axis, spacing_mm = seed % 3, rng.uniform(0.4, 5.0, size=3)
    tumor = rng.random((6, 7, 8)) < 0.2
    tumor[tuple(3 if axis == axial_axis else slice(None) for axis in range(3))] |= rng.random() < 0.5
    label_map = tumor * np.uint8(2)
    # brute force: every voxel starts as a lesion, and two lesions are one while any of their voxels are neighbours
    lesions = [{tuple(voxel)} for voxel in np.argwhere(tumor).tolist()]
    merged = True
    while merged:
        merged = False
        for one, other in combinations(lesions, 2):
            if any(max(abs(i - j) for i, j in zip(a, b)) <= 1 for a in one for b in other):
                one |= other
                lesions.remove(other)
                merged = True
                break
    steps = (np.subtract(*pair) for lesion in lesions for pair in combinations(lesion, 2))
    longest_mm = max(np.linalg.norm(step * spacing_mm) for step in steps if step[axial_axis] == 0)
    measures = measure_case(label_map, spacing_mm, axial_axis)
    assert measures["lesions"] == len(lesions)
    assert measures["tumor_diameter_mm"] == pytest.approx(longest_mm)


# PooledDice


@pytest.mark.parametrize("protocol", ["kits19", "kits23"])
def test_pooled_dice_is_that_of_all_items_side_by_side(protocol):
    rng = np.random.default_rng(0)
    pairs = [[draw_noise(rng, (1, 4, width)) for _ in range(2)] for width in (3, 8, 5)]
    metric = PooledDice(protocol)
    for prediction, label in pairs:
        metric(torch.from_numpy(prediction)[None], torch.from_numpy(label)[None])
    together = [np.concatenate(maps, axis=2) for maps in zip(*pairs)]
    expected = [dice_of_sets(*together, labels) for labels in PROTOCOLS[protocol].classes.values()]
    assert metric.aggregate().tolist() == pytest.approx(expected, abs=1e-12)
    assert metric.get_buffer().shape == (3, len(expected), 3)
    mean = PooledDice(protocol, reduction="mean")
    mean([torch.from_numpy(prediction) for prediction, _ in pairs], [torch.from_numpy(label) for _, label in pairs])
    assert mean.aggregate().item() == pytest.approx(np.mean(expected), abs=1e-12)


def test_pooling_differs_from_the_mean_of_items_but_equals_it_for_one():
    label = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 1]]])
    prediction = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 1, 0]]])
    metric = PooledDice()
    counts = metric(prediction, label)
    assert counts.tolist() == [[[4, 4, 4], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]]]
    assert counts.dtype == torch.int64
    assert [pooled_dice(item[None])[0].item() for item in counts] == [1.0, 0.0]
    assert metric.aggregate().tolist() == [0.8, 1.0]


def test_pooled_dice_does_not_round_at_the_size_of_a_data_set():
    # sums beyond 2**31: int32 would overflow, float32 lose the odd voxels
    counts = torch.tensor([[[2**30 + 1, 2**30 + 2, 2**30 + 1]]] * 4)
    assert pooled_dice(counts).item() == (2**31 + 2) / (2**31 + 3)


def test_a_case_scores_the_same_pooled_as_alone():
    rng = np.random.default_rng(0)
    prediction, label = draw_noise(rng, (5, 6, 7)), draw_noise(rng, (5, 6, 7))
    metric = PooledDice()
    metric(torch.from_numpy(prediction)[:, None], torch.from_numpy(label)[:, None])  # slice by slice
    scores = score_case(prediction, label, (1, 1, 1))
    assert metric.aggregate().tolist() == pytest.approx([scores["kidney_dice"], scores["tumor_dice"]], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64, torch.float16, torch.float32])
def test_pooled_dice_takes_metatensors_and_any_dtype(dtype):
    label = torch.tensor([[[0, 1, 2, 3]]])
    prediction = torch.tensor([[[0, 1, 2, 2]]])
    metric = PooledDice("kits23")
    counts = metric(MetaTensor(prediction.to(dtype)), MetaTensor(label.float()))
    assert not isinstance(counts, MetaTensor)
    assert metric.aggregate().tolist() == pytest.approx([1.0, 1.0, 2 / 3])


def test_pooled_dice_can_be_reduced_to_the_scalar_of_one_class():
    prediction, label = torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 2, 1]]])
    for name, expected in (("kidney", 1.0), ("tumor", 2 / 3)):
        metric = PooledDice(reduction=name)
        metric(prediction, label)
        assert metric.aggregate().item() == pytest.approx(expected)


def test_reset_forgets_all_items():
    metric, label = PooledDice(), torch.ones(1, 1, 4, 4)
    metric(torch.zeros(1, 1, 4, 4), label)
    assert metric.aggregate().tolist() == [0.0, 1.0]
    metric.reset()
    metric(label, label)
    assert metric.aggregate().tolist() == [1.0, 1.0]


# summarize, worst_cases

ROWS = [
    {"case": "case_00002", "dice": 0.9, "lesions": 2},
    {"case": "case_00003", "dice": 0.5, "lesions": 6},
    {"case": "case_00001", "dice": 0.5, "lesions": 1},
]


def test_a_summary_holds_the_statistics_of_each_numeric_column():
    summary = summarize(ROWS)
    assert summary.keys() == {"dice", "lesions"}
    assert {name: summary["lesions"][name] for name in ("mean", "median", "n")} == {"mean": 3.0, "median": 2.0, "n": 3}
    for numbers in summary.values():
        assert numbers["ci95_low"] < numbers["mean"] < numbers["ci95_high"]
    assert json.loads(json.dumps(summary)) == summary


def test_a_summary_depends_on_its_seed_alone():
    assert summarize(ROWS, seed=3) == summarize(ROWS, seed=3)
    only_dice = [{"dice": row["dice"]} for row in ROWS]
    assert summarize(only_dice, seed=3)["dice"] == summarize(ROWS, seed=3)["dice"]


def test_the_interval_covers_what_the_normal_approximation_does():
    values = np.random.default_rng(0).normal(0.8, 0.1, size=200)
    numbers = summarize([{"dice": value} for value in values])["dice"]
    half = 1.96 * values.std() / np.sqrt(200)
    assert [numbers["ci95_low"], numbers["ci95_high"]] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.1 * half
    )


def test_the_interval_of_one_case_is_a_point_and_of_two_spans_both():
    assert summarize(ROWS[:1])["dice"] == {"mean": 0.9, "median": 0.9, "ci95_low": 0.9, "ci95_high": 0.9, "n": 1}
    two = summarize(ROWS[:2])["dice"]
    assert (two["ci95_low"], two["ci95_high"]) == pytest.approx((0.5, 0.9))


def test_the_worst_cases_come_first_and_ties_by_name():
    assert worst_cases(ROWS, "dice") == ["case_00001", "case_00003", "case_00002"]
    assert worst_cases(ROWS, "dice", count=2) == ["case_00001", "case_00003"]
    assert worst_cases(ROWS, "lesions", count=1) == ["case_00001"]


# Wrong input

GOOD = np.zeros((3, 4, 5), np.uint8)
MASK = torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: score_case(GOOD, GOOD[1:], (1, 1, 1)), r"one shape, got \(3, 4, 5\) and \(2, 4, 5\)"),
        (lambda: score_case(GOOD[0], GOOD[0], (1, 1, 1)), r"prediction must be 3-D, got prediction.shape=\(4, 5\)"),
        (lambda: score_case(GOOD, GOOD[None], (1, 1, 1)), r"label must be 3-D, got label.shape=\(1, 3, 4, 5\)"),
        (lambda: score_case(GOOD + 4, GOOD, (1, 1, 1)), r"prediction must hold labels 0, 1, 2 and 3 only, got 4\."),
        (lambda: score_case(GOOD, GOOD - np.int16(1), (1, 1, 1)), r"label must hold .*, got -1\."),
        (lambda: score_case(GOOD, GOOD + np.int64(256), (1, 1, 1)), r"label must hold .*, got 256\."),
        (lambda: score_case(GOOD + 0.5, GOOD, (1, 1, 1)), r"prediction must hold .*, got 0\.5\."),
        (lambda: score_case(GOOD + NAN, GOOD, (1, 1, 1)), r"prediction must hold .*, got nan\."),
        (lambda: score_case(GOOD, GOOD, (1, 1)), r"spacing_mm must be three positive numbers, got spacing_mm=\(1, 1\)"),
        (lambda: score_case(GOOD, GOOD, (1, 0, 1)), r"spacing_mm must be .* got spacing_mm=\(1, 0, 1\)"),
        (lambda: score_case(GOOD, GOOD, (1, -2, 1)), r"spacing_mm must be .* got spacing_mm=\(1, -2, 1\)"),
        (lambda: score_case(GOOD, GOOD, (1, NAN, 1)), r"spacing_mm must be .* got spacing_mm=\(1, nan, 1\)"),
        (lambda: score_case(GOOD, GOOD, (1, INF, 1)), r"spacing_mm must be .* got spacing_mm=\(1, inf, 1\)"),
        (lambda: score_case(GOOD, GOOD, 1.0), r"spacing_mm must be .* got spacing_mm=1\.0"),
        (lambda: measure_case(GOOD + 7, (1, 1, 1)), r"label_map must hold .*, got 7\."),
        (lambda: measure_case(GOOD, (1, 1)), r"spacing_mm must be three positive numbers"),
        (lambda: measure_case(GOOD, (1, 1, 1), axial_axis=3), r"axial_axis must be 0, 1 or 2, got axial_axis=3"),
        (lambda: PooledDice("kits20"), r"protocol must be one of \['kits19', 'kits23'\], got protocol='kits20'"),
        (lambda: PooledDice(reduction="mass"), r"must be one of none, mean, kidney, tumor, got reduction='mass'"),
        (lambda: PooledDice()(MASK, MASK[:1]), r"must be \(B, 1, ...\), got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"),
        (lambda: PooledDice()(MASK.expand(2, 3, 4, 4), MASK.expand(2, 3, 4, 4)), r"must be \(B, 1, ...\), got \(2, 3"),
        (lambda: PooledDice().aggregate(), "must be called before aggregate"),
        (lambda: summarize([]), "rows must be at least one"),
        (lambda: summarize([{"dice": 1.0}, {"other": 1.0}]), r"same columns, got \[\['dice'\], \['other'\]\]"),
        (lambda: summarize([{"dice": 1.0}, {"dice": NAN}]), "rows must hold finite numbers, got dice=nan"),
    ],
)
def test_wrong_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
