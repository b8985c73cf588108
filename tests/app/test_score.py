"""score.py and check_data.py."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import run_well

from common.errors import InputError


@pytest.fixture
def predictions(phantoms, tmp_path) -> Path:
    """The labels of the phantoms as `<case>.nii.gz`, each shifted by one voxel."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for case in phantoms.iterdir():
        label = nib.load(case / "segmentation.nii.gz")
        nib.save(
            nib.Nifti1Image(np.roll(np.asarray(label.dataobj), 1, axis=1), label.affine), folder / f"{case.name}.nii.gz"
        )
    return folder


def read_rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


@pytest.mark.slow
def test_scores_are_those_of_the_bundles_evaluation(weighted_bundle, phantoms, run_door, tmp_path, capsys):
    run_well(weighted_bundle, "train", "evaluate", dataset_dir=phantoms, subset="all", output_dir=tmp_path / "workflow")
    run_door("segment", bundle=weighted_bundle, input=phantoms, output=tmp_path / "out", backend="torch")
    options = {"labels": phantoms, "predictions": tmp_path / "out", "output": tmp_path / "scores.csv"}
    assert run_door("score", **options) == 0
    expected, found = read_rows(tmp_path / "workflow/metrics.csv"), read_rows(tmp_path / "scores.csv")
    assert [row["case"] for row in expected] == [row["case"] for row in found]
    for ours, theirs in zip(found, expected):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"case"}:
            assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-6)
    pooled = json.loads((tmp_path / "workflow/summary.json").read_text())["pooled"]
    assert f"kidney_dice {pooled['kidney_dice']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["kits19", "kits23"])
def test_label_maps_score_1_against_themselves_in_either_layout(protocol, phantoms, run_door, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for case in phantoms.iterdir():
        shutil.copy(case / "segmentation.nii.gz", plain / f"{case.name}.nii.gz")
    for labels, predictions in ((phantoms, plain), (plain, phantoms)):
        options = {"labels": labels, "predictions": predictions, "protocol": protocol, "output": tmp_path / "s.csv"}
        assert run_door("score", **options) == 0
        rows = read_rows(tmp_path / "s.csv")
        assert len(rows) == 4 and all(float(v) == 1 for row in rows for k, v in row.items() if k != "case")


def test_cysts_count_as_kits23_says_and_as_kidney_in_kits19(phantoms, run_door, tmp_path, change):
    labels, predictions = (shutil.copytree(phantoms, tmp_path / name) for name in ("labels", "predictions"))
    for case in labels.iterdir():
        change(case / "segmentation.nii.gz", voxels=lambda v: np.where(v == 2, 3, v).astype(np.uint8))
    options = {"labels": labels, "predictions": predictions, "output": tmp_path / "s.csv"}
    run_door("score", protocol="kits23", **options)
    for row in read_rows(tmp_path / "s.csv"):
        assert float(row["mass_dice"]) == 1 and float(row["tumor_dice"]) == 0
    run_door("score", protocol="kits19", **options)
    for row in read_rows(tmp_path / "s.csv"):
        assert float(row["kidney_dice"]) == 1 and float(row["tumor_dice"]) == 0


def read_errors(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_missing_and_surplus_cases_are_all_named_and_the_others_scored(
    phantoms, predictions, run_door, tmp_path, capsys
):
    (predictions / "case_00001_synthetic.nii.gz").rename(predictions / "case_99.nii.gz")
    (predictions / "case_00002_synthetic.nii.gz").unlink()
    assert run_door("score", labels=phantoms, predictions=predictions, output=tmp_path / "s.csv") == 1
    lines = read_errors(capsys)
    assert [name in line for name, line in zip(("case_00001", "case_00002", "case_99"), lines, strict=True)] == [
        True
    ] * 3
    assert [row["case"] for row in read_rows(tmp_path / "s.csv")] == ["case_00000_synthetic", "case_00003_synthetic"]


def test_folders_that_share_no_case_are_refused(phantoms, predictions, run_door, tmp_path):
    for number, path in enumerate(predictions.iterdir()):
        path.rename(predictions / f"other_{number}.nii.gz")
    with pytest.raises(InputError, match="expected a prediction for case_00000_synthetic, found none"):
        run_door("score", labels=phantoms, predictions=predictions, output=tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voxels": lambda v: v[:-1]}, r"expected the label's shape \(10, 48, 48\), found \(9, 48, 48\)"),
        ({"affine": lambda a: a @ np.diag([1, 1, 1.1, 1])}, "expected the label's affine"),
        ({"voxels": lambda v: v + 5}, "expected labels"),
    ],
    ids=["shape", "affine", "labels"],
)
def test_a_prediction_on_another_grid_is_told_and_the_others_are_scored(
    changes, words, phantoms, predictions, change, run_door, tmp_path, capsys
):
    path = change(predictions / "case_00001_synthetic.nii.gz", **changes)
    assert run_door("score", labels=phantoms, predictions=predictions, output=tmp_path / "s.csv") == 1
    (line,) = read_errors(capsys)
    assert str(path) in line and re.search(words, line)
    assert "case_00001_synthetic" not in {row["case"] for row in read_rows(tmp_path / "s.csv")}
    assert len(read_rows(tmp_path / "s.csv")) == 3


def test_an_output_that_is_a_folder_is_told_before_any_case_is_scored(phantoms, predictions, run_door, capsys):
    with pytest.raises(InputError, match="expected a file to write, found a folder"):
        run_door("score", labels=phantoms, predictions=predictions, output=predictions.parent)
    assert "case/s" not in capsys.readouterr().err


def test_good_cases_pass_the_check_and_every_bad_one_is_a_line(phantoms, change, run_door, tmp_path, capsys):
    assert run_door("check", input=phantoms) == 0
    assert "4 cases, 0 bad" in capsys.readouterr().out
    cases = shutil.copytree(phantoms, tmp_path / "cases")
    change(cases / "case_00000_synthetic/segmentation.nii.gz", voxels=lambda v: v + 5)
    change(cases / "case_00001_synthetic/imaging.nii.gz", voxels=lambda v: v.clip(0, 1))
    (cases / "case_00002_synthetic/imaging.nii.gz").unlink()
    (cases / "case_00003_synthetic/segmentation.nii.gz").unlink()
    assert run_door("check", input=cases) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("error:") for line in lines] == [True, True, True, False]
    assert all(f"case_0000{number}_synthetic" in line for number, line in enumerate(lines[:3]))
    assert lines[-1] == "4 cases, 3 bad, 1 without a label"


def test_images_without_any_label_are_checked(phantoms, change, run_door, tmp_path, capsys):
    cases = shutil.copytree(phantoms, tmp_path / "cases", ignore=shutil.ignore_patterns("segmentation*"))
    assert run_door("check", input=cases) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 cases, 0 bad"
    change(cases / "case_00001_synthetic/imaging.nii.gz", voxels=lambda v: v.clip(0, 1))
    assert run_door("check", input=cases) == 1
    assert "case_00001_synthetic" in capsys.readouterr().out
