"""Which connected pieces of a label map stay."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import error_message

from common.kits.components import check_components, keep_components

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
    keep_components(label_map, VOXEL_MM, **settings)
    assert np.count_nonzero(label_map) == volume
    assert np.array_equal(label_map[label_map > 0], before[label_map > 0])


def test_where_nothing_is_nothing_stays():
    empty = np.zeros((3, 3, 3), np.uint8)
    keep_components(empty, VOXEL_MM, keep_largest=1)
    assert not empty.any()


@pytest.mark.parametrize("name", ["keep_largest", "min_volume_ml"])
@pytest.mark.parametrize("value", [0, -1, "two"])
def test_what_is_not_positive_is_refused(name, value):
    settings = {"keep_largest": None, "min_volume_ml": None} | {name: value}
    assert error_message(lambda: check_components(**settings)) == f"{name}: expected a positive number, found {value}."
