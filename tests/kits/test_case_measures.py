"""Volumes, lesions and diameters of a case; the statistics of many cases, and the worst of them."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from label_maps import draw_boxes

from common.kits.metrics import measure_case, summarize, worst_cases

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
