"""Dice of a case and pooled over cases, against sets of voxels; wrong input to any metric is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from label_maps import draw_boxes
from monai.data import MetaTensor

from common.kits.metrics import KITS19, KITS23, PROTOCOLS, PooledDice, measure_case, pooled_dice, score_case, summarize

NAN, INF = float("nan"), float("inf")


# Independent definition


def dice_of_sets(prediction: np.ndarray, label: np.ndarray, labels: tuple[int, ...]) -> float:
    predicted = {where for where, value in np.ndenumerate(prediction) if value in labels}
    labelled = {where for where, value in np.ndenumerate(label) if value in labels}
    if not predicted and not labelled:
        return 1.0
    return 2 * len(predicted & labelled) / (len(predicted) + len(labelled))


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice(4, size=shape, p=[0.5, 0.25, 0.15, 0.1]).astype(np.uint8)


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
