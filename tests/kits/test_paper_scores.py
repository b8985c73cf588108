"""The scores that the papers print, against arithmetic on small label maps."""

from __future__ import annotations

import numpy as np
import pytest

from common.kits.paper_scores import score_as_papers


def make_maps() -> tuple[np.ndarray, np.ndarray]:
    """A kidney of 4 x 4 x 4 with a tumour of 2 x 2 x 2; the prediction is shifted by a voxel along the first axis."""
    label = np.zeros((12, 10, 8), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    label[3:5, 3:5, 3:5] = 2
    return np.roll(label, 1, axis=0), label


def test_scores_are_those_of_the_confusion_of_three_classes():
    prediction, label = make_maps()
    scores = score_as_papers(prediction, label, (2.0, 1.0, 1.0))
    ious, dices = [], []
    for number in range(3):
        p, q = prediction == number, label == number
        ious.append((p & q).sum() / (p | q).sum())
        dices.append(2 * (p & q).sum() / (p.sum() + q.sum()))
    assert scores["pixel_accuracy"] == pytest.approx((prediction == label).mean())
    assert scores["mean_iou"] == pytest.approx(np.mean(ious))
    assert scores["mean_dice"] == pytest.approx(np.mean(dices[1:]))
    # one voxel of 2 mm
    assert scores["hausdorff_mm"] == pytest.approx(2.0)
    assert 0 < scores["surface_distance_mm"] < 2.0


def test_a_network_that_sees_background_everywhere_is_accurate_and_nothing_else():
    _, label = make_maps()
    scores = score_as_papers(np.zeros_like(label), label, (1, 1, 1))
    assert scores["pixel_accuracy"] > 0.93 and scores["mean_iou"] < 0.35 and scores["mean_dice"] == 0
    assert scores["hausdorff_mm"] == scores["surface_distance_mm"] == float("inf")


def test_equal_maps_are_perfect_cysts_count_as_kidney_and_an_absent_class_for_nothing():
    _, label = make_maps()
    cyst = np.where(label == 1, 3, label).astype(np.uint8)
    perfect = {"pixel_accuracy": 1, "mean_iou": 1, "mean_dice": 1, "hausdorff_mm": 0, "surface_distance_mm": 0}
    assert score_as_papers(label, cyst, (1, 1, 1)) == perfect
    without_tumor = np.minimum(label, 1)
    assert score_as_papers(without_tumor, without_tumor, (1, 1, 1)) == perfect
    assert score_as_papers(np.zeros_like(label), np.zeros_like(label), (1, 1, 1)) == perfect
