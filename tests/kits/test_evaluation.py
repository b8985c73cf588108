"""Evaluation: what an evaluator over real files leaves in its folder equals the scores counted by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, LoadImaged, Orientationd

from common.kits.evaluation import CasePictures, CaseScores, write_table
from common.kits.inferer import AxialInferer
from common.kits.metrics import PROTOCOLS, score_case
from common.kits.readers import CTReader, LabelReader

SHAPE = (32, 28, 9)  # X, Y, Z in RAS
CLASSES = {"kidney": (1, 2), "tumor": (2,)}
HU = np.array([-100, 120, 240], np.int16)


class Threshold(torch.nn.Module):
    """(b, 1, H, W) -> logits (b, 3, H, W): the class of the nearest of 0, 120 and 240 HU, spoilt by a fault."""

    def __init__(self, fault=lambda logits: logits) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x):
        centres = torch.tensor([0.0, 120.0, 240.0]).reshape(1, 3, 1, 1) / 255
        return self.fault(centres * x - centres**2 / 2)


FAULTS = {  # how the logits (b, C, X, Y) are spoilt, and what that does to a label map (X, Y, Z)
    "perfect": (lambda logits: logits, lambda label: label),
    "empty": (lambda logits: logits * 0 + torch.eye(3)[0].reshape(1, 3, 1, 1), np.zeros_like),
    "shifted": (lambda logits: logits.roll((2, 1), (2, 3)), lambda label: np.roll(label, (2, 1), (0, 1))),
}


def make_labels() -> dict[str, np.ndarray]:
    """Label maps (X, Y, Z) in RAS of two cases; the first has no tumour."""
    first, second = np.zeros((2, *SHAPE), np.uint8)
    first[4:10, 8:18, 2:6] = 1
    second[5:12, 9:15, 1:7] = 1
    second[20:27, 10:19, 3:8] = 1
    second[21:26, 12:22, 5:8] = 2
    return {"case_00003": first, "case_00007": second}


@pytest.fixture
def cases(write_nifti, make_affine, store) -> list[dict[str, str]]:
    """The two cases on disk, not in the order of their names, along different axes."""
    found = []
    for (name, label), axes in zip(reversed(make_labels().items()), ("IPL", "LPS")):
        affine = make_affine(axes, SHAPE)
        paths = {
            "image": write_nifti(store(HU[label], axes), f"{name}/imaging.nii.gz", affine),
            "label": write_nifti(store(label, axes), f"{name}/segmentation.nii.gz", affine),
        }
        found.append({key: str(path) for key, path in paths.items()})
    return found


def evaluate(cases, handlers, fault="perfect", keys=("image", "label")) -> SupervisedEvaluator:
    readers = {"image": CTReader, "label": LabelReader}
    preprocessing = Compose(
        [LoadImaged(key, reader=readers[key](), dtype="uint8", ensure_channel_first=True) for key in keys]
        + [Orientationd(keys, axcodes="RAS", labels=None)]
    )
    data = [{key: case[key] for key in keys} for case in cases]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data, preprocessing), batch_size=1),
        network=Threshold(FAULTS[fault][0]),
        inferer=AxialInferer(SHAPE[:2]),
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


def read_tables(folder) -> tuple[dict[str, dict[str, float]], dict]:
    """Rows of metrics.csv by case, and summary.json."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = {row.pop("case"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}
    return rows, json.loads((folder / "summary.json").read_text())


def dice_by_hand(pairs, labels) -> float:
    """Dice of prediction and label, counted over all pairs as one; 1 where both are empty."""
    masks = [(np.isin(prediction, labels), np.isin(label, labels)) for prediction, label in pairs]
    both = sum(np.count_nonzero(p & t) for p, t in masks)
    total = sum(np.count_nonzero(p) + np.count_nonzero(t) for p, t in masks)
    return 2 * both / total if total else 1.0


@pytest.mark.parametrize("fault", FAULTS)
def test_tables_hold_what_counting_by_hand_gives(cases, tmp_path, fault):
    evaluate(cases, [CaseScores(tmp_path / "eval")], fault)
    rows, summary = read_tables(tmp_path / "eval")
    pairs = {name: (FAULTS[fault][1](label), label) for name, label in make_labels().items()}

    assert list(rows) == ["case_00003", "case_00007"]
    for name, row in rows.items():
        by_hand = {f"{key}_dice": dice_by_hand([pairs[name]], labels) for key, labels in CLASSES.items()}
        by_hand["composite"] = sum(by_hand.values()) / 2
        assert row == pytest.approx(by_hand)

    assert (summary["protocol"], summary["cases"]) == ("kits19", 2)
    assert summary["pooled"] == pytest.approx(
        {f"{key}_dice": dice_by_hand(pairs.values(), labels) for key, labels in CLASSES.items()}
    )
    assert list(summary["per_case"]) == ["kidney_dice", "tumor_dice", "composite"]
    for column, numbers in summary["per_case"].items():
        values = [row[column] for row in rows.values()]
        assert numbers["mean"] == pytest.approx(np.mean(values))
        assert numbers["median"] == pytest.approx(np.median(values))
        assert min(values) <= numbers["ci95_low"] <= numbers["mean"] <= numbers["ci95_high"] <= max(values)
    assert summary["worst"] == sorted(rows, key=lambda name: (rows[name]["composite"], name))
    assert sorted(file.name for file in (tmp_path / "eval").iterdir()) == ["metrics.csv", "summary.json"]


def test_a_perfect_network_scores_1_and_an_empty_one_0_but_for_the_case_without_tumour(cases, tmp_path):
    evaluate(cases, [CaseScores(tmp_path / "perfect")], "perfect")
    rows, summary = read_tables(tmp_path / "perfect")
    assert all(value == 1 for row in rows.values() for value in row.values())
    assert set(summary["pooled"].values()) == {1.0}
    evaluate(cases, [CaseScores(tmp_path / "empty")], "empty")
    rows, summary = read_tables(tmp_path / "empty")
    assert rows["case_00003"] == {"kidney_dice": 0, "tumor_dice": 1, "composite": 0.5}
    assert rows["case_00007"] == {"kidney_dice": 0, "tumor_dice": 0, "composite": 0}
    assert set(summary["pooled"].values()) == {0.0}


def test_kits23_scores_equal_those_on_the_axes_of_the_file(cases, tmp_path, store):
    """Turning to RAS must turn the spacing too: surface Dice would tell."""
    evaluate(cases, [CaseScores(tmp_path / "eval", protocol="kits23")], "shifted")
    rows, summary = read_tables(tmp_path / "eval")
    assert summary["protocol"] == "kits23"
    spacing_mm = (4.0, 2.0, 1.5)  # of a file along IPL: conftest's, reversed
    for name, label in make_labels().items():
        prediction = store(FAULTS["shifted"][1](label), "IPL")
        expected = score_case(prediction, store(label, "IPL"), spacing_mm, PROTOCOLS["kits23"])
        assert rows[name] == pytest.approx(expected, abs=1e-6)
        wrong = score_case(prediction, store(label, "IPL"), spacing_mm[::-1], PROTOCOLS["kits23"])
        assert wrong["surface_dice"] != pytest.approx(expected["surface_dice"], abs=1e-3)


def test_a_second_run_forgets_the_first(cases, tmp_path):
    handler = CaseScores(tmp_path / "both")
    evaluate(cases, [handler], "shifted")
    evaluate(cases[:1], [handler], "shifted")
    evaluate(cases[:1], [CaseScores(tmp_path / "one")], "shifted")
    assert read_tables(tmp_path / "both") == read_tables(tmp_path / "one")


def test_a_case_that_comes_twice_counts_once(cases, tmp_path):
    """A distributed sampler repeats cases to give every process as many."""
    evaluate(cases, [CaseScores(tmp_path / "once")], "shifted")
    evaluate([*cases, cases[0]], [CaseScores(tmp_path / "twice")], "shifted")
    assert read_tables(tmp_path / "once") == read_tables(tmp_path / "twice")


@pytest.mark.parametrize("keys", [("image",), ("image", "label")])
def test_every_case_has_a_picture_named_after_it_with_or_without_label(cases, tmp_path, keys):
    evaluate(cases, [CasePictures(tmp_path / "eval")], keys=keys)
    pictures = sorted((tmp_path / "eval").iterdir())
    assert [file.name for file in pictures] == ["case_00003.png", "case_00007.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures)


def test_a_picture_shows_image_prediction_label_and_spacing_of_its_case(cases, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("common.kits.evaluation.draw_overlay", lambda path, title, *rest: drawn.update({title: rest}))
    evaluate(cases, [CasePictures(tmp_path)], "shifted")
    assert sorted(drawn) == sorted(make_labels())
    for name, label in make_labels().items():
        image, prediction, official, spacing_mm = drawn[name]
        np.testing.assert_array_equal(image, HU[label].clip(0, 255))
        np.testing.assert_array_equal(prediction, np.roll(label, (2, 1), (0, 1)))
        np.testing.assert_array_equal(official, label)
        assert spacing_mm == pytest.approx((1.5, 2, 4))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises((KeyError, ValueError), match="kits20"):
        CaseScores(tmp_path, protocol="kits20")


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    write_table([{"case": "a", "dice": 0.5}, {"case": "b", "dice": 1.0}], path)
    before = path.read_bytes()
    assert before.decode().split() == ["case,dice", "a,0.5", "b,1.0"]
    with pytest.raises(ValueError, match="surprise"):
        write_table([{"case": "a", "dice": 0.5}, {"case": "b", "surprise": 1.0}], path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"metrics.csv": before}
