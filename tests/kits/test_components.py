"""Which connected pieces of a label map stay."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import error_message

from common.kits.components import AUTO, check_components, describe_removed, keep_components

VOXEL_MM = (10, 10, 10)  # of 1 ml


@pytest.fixture
def label_map() -> np.ndarray:
    label_map = np.zeros((9, 9, 9), np.uint8)
    label_map[:2, :2, :2] = 1
    label_map[2, 2, 2] = 2  # touches the first at a corner: 9 ml
    label_map[5:9, 5:9, 5:9] = 2  # 64 ml
    label_map[0, 8, 8] = 1  # 1 ml
    return label_map


@pytest.mark.parametrize(
    "settings, volume",
    [
        ({"keep_largest": 1}, 64),
        ({"keep_largest": 2}, 73),
        ({"keep_largest": 9}, 74),
        ({"keep_largest": 0}, 74),
        ({"keep_largest": "auto"}, 74),  # of nine slices: no whole scan
        ({"min_volume_ml": 1}, 74),
        ({"min_volume_ml": 1.5}, 73),
        ({"min_volume_ml": 9.5}, 64),
        ({"min_volume_ml": 100}, 0),
        ({"keep_largest": 2, "min_volume_ml": 10}, 64),
        ({}, 74),
    ],
)
def test_the_largest_stay_and_the_small_go(label_map, settings, volume):
    before = label_map.copy()
    removed_ml = keep_components(label_map, VOXEL_MM, **settings)
    assert np.count_nonzero(label_map) == volume and removed_ml == np.count_nonzero(before) - volume
    assert np.array_equal(label_map[label_map > 0], before[label_map > 0])


def test_where_nothing_is_nothing_stays():
    empty = np.zeros((3, 3, 3), np.uint8)
    keep_components(empty, VOXEL_MM, keep_largest=1)
    assert not empty.any()


@pytest.mark.parametrize(("slices", "slice_mm", "volume"), [(16, 10, 73), (15, 10, 74), (16, 6, 74), (40, 2.5, 73)])
def test_two_pieces_stay_of_a_whole_scan_and_all_of_a_few_slices(label_map, slices, slice_mm, volume):
    scan = np.pad(label_map, [(0, 0), (0, 0), (0, slices - 9)])
    keep_components(scan, (10, 10, slice_mm), AUTO)
    assert np.count_nonzero(scan) == volume


def test_a_user_is_told_of_what_went_unless_it_is_next_to_nothing():
    assert describe_removed(0.4) is None
    assert describe_removed(62.6) == "left out 63 ml apart from the largest pieces; keep_largest 0 keeps them"


@pytest.mark.parametrize("name", ["keep_largest", "min_volume_ml"])
@pytest.mark.parametrize("value", [-1, "two"])
def test_what_is_no_number_from_0_on_is_refused(name, value):
    settings = {"keep_largest": None, "min_volume_ml": None} | {name: value}
    expected = {"keep_largest": "auto, 0 or a positive number", "min_volume_ml": "a positive number"}[name]
    assert error_message(lambda: check_components(**settings)) == f"{name}: expected {expected}, found {value}."
