"""Findings of a label map: kidneys by side, lesions with their place in the kidney."""

from __future__ import annotations

import numpy as np
import pytest

from common.kits.findings import describe_findings, find_midline

SHAPE, SPACING_MM = (80, 40, 40), (4.0, 4.0, 5.0)  # 0.08 ml a voxel
MIDLINE = 39.5
RIGHT, LEFT = (slice(55, 67), slice(10, 24), slice(8, 30)), (slice(13, 25), slice(10, 24), slice(8, 30))


def make(*boxes: tuple, tumors: tuple = ()) -> np.ndarray:
    label_map = np.zeros(SHAPE, np.uint8)
    for number, places in ((1, boxes), (2, tumors)):
        for place in places:
            label_map[place] = number
    return label_map


def describe(label_map: np.ndarray) -> dict:
    return describe_findings(label_map, SPACING_MM, MIDLINE)


@pytest.mark.parametrize(
    ("boxes", "kidneys"),
    [
        ((RIGHT, LEFT), "both"),
        ((RIGHT,), "right only"),
        ((LEFT,), "left only"),
        ((), "none"),
        (((slice(0, 3), slice(0, 3), slice(0, 3)),), "none"),
        ((RIGHT, LEFT, (slice(13, 67), slice(14, 18), slice(8, 12))), "one across the midline"),
    ],
)
def test_kidneys_are_named_by_where_they_are(boxes, kidneys):
    assert describe(make(*boxes))["kidneys"] == kidneys


def test_volumes_of_the_sides_add_up():
    found = describe(make(RIGHT, LEFT, tumors=((slice(55, 58), slice(10, 12), slice(8, 10)),)))
    for name in ("kidney_ml", "tumor_ml"):
        assert found["right"][name] + found["left"][name] == pytest.approx(found[name])
    assert found["right"]["tumor_ml"] == pytest.approx(12 * 0.08) and found["left"]["tumor_ml"] == 0


def test_what_hangs_on_no_kidney_lies_elsewhere():
    found = describe(make(RIGHT, LEFT, tumors=((slice(40, 45), slice(30, 35), slice(35, 40)),)))
    assert found["elsewhere_ml"] == pytest.approx(125 * 0.08)
    (lesion,) = found["lesion_list"]
    assert not lesion["in_kidney"] and "exophytic_share" not in lesion


@pytest.mark.parametrize(
    ("tumor", "share"),
    [
        ((slice(58, 62), slice(14, 18), slice(15, 19)), 0.0),
        ((slice(67, 71), slice(14, 18), slice(15, 19)), 1.0),
        ((slice(64, 70), slice(14, 18), slice(15, 19)), 0.5),
    ],
    ids=["inside", "on it", "half in it"],
)
def test_the_share_outside_of_the_kidney_s_outline_is_exophytic(tumor, share):
    (lesion,) = describe(make(RIGHT, tumors=(tumor,)))["lesion_list"]
    assert lesion["in_kidney"] and lesion["exophytic_share"] == pytest.approx(share)


def test_the_way_to_the_poles_goes_from_the_lesion_s_own_ends():
    (lesion,) = describe(make(RIGHT, tumors=((slice(58, 62), slice(14, 18), slice(10, 14)),)))["lesion_list"]
    assert (lesion["lower_pole_mm"], lesion["upper_pole_mm"]) == (2 * 5, 16 * 5)
    assert lesion["slices"] == [11, 14] and lesion["side"] == "right"
    (beyond,) = describe(make(RIGHT, tumors=((slice(58, 62), slice(14, 18), slice(28, 33)),)))["lesion_list"]
    assert beyond["upper_pole_mm"] == -3 * 5


def test_lesions_are_listed_from_the_largest():
    small, large = (slice(55, 57), slice(10, 12), slice(8, 9)), (slice(13, 18), slice(12, 16), slice(12, 20))
    lesions = describe(make(RIGHT, LEFT, tumors=(small, large)))["lesion_list"]
    assert [lesion["side"] for lesion in lesions] == ["left", "right"]
    assert lesions[0]["tumor_diameter_mm"] == pytest.approx(np.hypot(16, 12))


def test_a_kidney_of_one_slice_has_no_outline():
    flat = (slice(45, 75), slice(5, 35), slice(8, 9))
    (lesion,) = describe(make(flat, tumors=((slice(50, 55), slice(10, 12), slice(8, 9)),)))["lesion_list"]
    assert lesion["exophytic_share"] is None and lesion["lower_pole_mm"] == 0


def test_the_midline_is_that_of_the_body_where_the_kidneys_are():
    image = np.zeros(SHAPE, np.uint8)
    image[20:70, 5:35, :30] = 120
    image[:10, :, 30:] = 120  # an arm, say, above the kidneys
    assert find_midline(image, make(RIGHT)) == pytest.approx(44, abs=1)
    assert find_midline(np.zeros(SHAPE, np.uint8), make(RIGHT)) == (SHAPE[0] - 1) / 2
