"""One command, every format: all hold the label map of `<case>.nii.gz`, and the reports hold to their schema."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import read
from dicom_readers import read_with_highdicom
from dicom_series import write_series
from refusals import error_message

from common.app import doubt
from common.app.case_report import SCHEMA, make_manifest
from common.app.folder import Outputs
from common.app.outputs import measure_file
from common.app.segmenter import Segmenter
from common.kits.dicom_series import read_series
from common.kits.terms import TERMS

highdicom = pytest.importorskip("highdicom", reason="needs highdicom: pip install .[dicom]")
slicerio = pytest.importorskip("slicerio", reason="needs slicerio: pip install .[slicer]")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install .[dev]")

SCAN = "scan0_synthetic"
FORMATS = ("seg.nrrd", "dicom-seg", "dicom-sr")


@pytest.fixture
def series(cases, tmp_path) -> Path:
    write_series(tmp_path / "series", nib.load(cases / f"{SCAN}.nii.gz"), "reversed")
    return tmp_path / "series"


@pytest.fixture
def segment(weighted_bundle, run_door, tmp_path):
    """A function that runs the command with the formats given, and gives the folder of its files."""

    def run(image: Path, formats: tuple[str, ...] = (), **options: object) -> Path:
        from common.app.cli import main

        words = [word for name in formats for word in ("--output-format", name)]
        words += [f"--{key.replace('_', '-')}" for key in options]
        given = ["segment", "-b", str(weighted_bundle), "-i", str(image), "-o", str(tmp_path / "out"), *words]
        assert main([*given, "--backend", "torch"]) == 0
        return tmp_path / "out"

    return run


def check_schema(path: Path) -> dict:
    content, schema = (json.loads(file.read_text(encoding="utf-8")) for file in (path, SCHEMA))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(content)
    return content


def test_one_command_writes_all_of_one_case(series, segment):
    output = segment(series, FORMATS, report=True, report_json=True, doubt=True)
    names = {f"series{suffix}" for suffix in (".nii.gz", ".seg.nrrd", ".seg.dcm", ".sr.dcm", ".json", ".html")}
    assert {file.name for file in output.iterdir()} == names | {"index.html", "run.json"}
    mask = read(output / "series.nii.gz")
    assert {1, 2} <= {*np.unique(mask)}
    np.testing.assert_array_equal(read_with_highdicom(output / "series.seg.dcm", series), mask)
    np.testing.assert_array_equal(slicerio.read_segmentation(str(output / "series.seg.nrrd"))["voxels"], mask)
    case, run = check_schema(output / "series.json"), check_schema(output / "run.json")
    measured = measure_file(output / "series.nii.gz")
    assert {key: case["findings"][key] for key in measured} == pytest.approx(measured, abs=1e-5)
    assert case["doubt"].keys() == {"kidney", "tumor"}
    assert run["cases"] == [{"case": "series", "status": "segmented", "files": run["cases"][0]["files"]}]
    assert {*run["cases"][0]["files"]} == names
    page = (output / "series.html").read_text(encoding="utf-8")
    for words in ("Whole scan from the front", "Kidneys and lesions", *(w["text"][1:] for w in case["warnings"])):
        assert words in page


def test_a_second_run_leaves_what_is_there_and_adds_what_is_new(cases, segment):
    output = segment(cases / f"{SCAN}.nii.gz", report_json=True)
    written = (output / f"{SCAN}.json").stat().st_mtime_ns
    segment(cases / f"{SCAN}.nii.gz", report_json=True)
    assert (output / f"{SCAN}.json").stat().st_mtime_ns == written
    assert check_schema(output / "run.json")["cases"][0]["status"] == "done before"
    segment(cases / f"{SCAN}.nii.gz", ("seg.nrrd",), report_json=True)
    assert (output / f"{SCAN}.seg.nrrd").is_file()


def test_slicer_finds_names_colors_and_codes(cases, segment):
    output = segment(cases / f"{SCAN}.nii.gz", ("seg.nrrd",))
    found = slicerio.read_segmentation(str(output / f"{SCAN}.seg.nrrd"))
    assert [(s["name"], s["labelValue"]) for s in found["segments"]] == [("Kidney", 1), ("Kidney tumor", 2)]
    for segment_, term in zip(found["segments"], TERMS):
        assert segment_["terminology"]["type"][:2] == ["SCT", term.kind.value]
        assert segment_["color"] == pytest.approx([int(term.color[i : i + 2], 16) / 255 for i in (1, 3, 5)], abs=1e-6)
    assert found["segments"][1]["terminology"]["anatomicRegion"] == ["SCT", "64033007", "Kidney"]
    np.testing.assert_allclose(
        np.diag([-1, -1, 1, 1]) @ found["ijkToLPS"], nib.load(cases / f"{SCAN}.nii.gz").affine, atol=1e-4
    )


def test_dicom_of_a_nifti_file_is_told_and_nothing_is_written(cases, weighted_bundle, tmp_path, capsys):
    from common.app.cli import main

    words = ["segment", "-b", str(weighted_bundle), "-i", str(cases), "-o", str(tmp_path / "out")]
    assert main([*words, "--output-format", "dicom-seg"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and all("expected a DICOM series for results in DICOM" in line for line in lines)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


def test_an_unknown_format_is_told():
    assert error_message(lambda: Outputs(("rtstruct",))) == (
        "output-format: expected one of nifti, seg.nrrd, dicom-seg, dicom-sr, found rtstruct."
    )


def test_python_saves_by_suffix(series, weighted_bundle, tmp_path):
    segmentation = Segmenter(weighted_bundle, backend="torch")(series)
    for name in ("mask.nii.gz", "mask.seg.nrrd", "mask.dcm"):
        segmentation.save(tmp_path / "saved" / name)
    np.testing.assert_array_equal(read(tmp_path / "saved/mask.nii.gz"), segmentation.label_map)
    found = slicerio.read_segmentation(str(tmp_path / "saved/mask.seg.nrrd"))
    np.testing.assert_array_equal(found["voxels"], segmentation.label_map)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ found["ijkToLPS"], read_series(series)[1], atol=1e-4)
    assert highdicom.seg.segread(tmp_path / "saved/mask.dcm").SegmentSequence[1].SegmentLabel == "Kidney tumor"


def test_failures_stand_in_the_manifest(tmp_path):
    manifest = make_manifest(tmp_path, [], ["scan1: expected a 3-D image, found another."])
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    assert check_schema(tmp_path / "run.json")["problems"] == ["scan1: expected a 3-D image, found another."]


def test_an_agreement_is_the_dice_of_two_label_maps():
    first, second = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    first[0], second[:2] = 1, 1
    assert doubt.measure_agreement(first, second) == {"kidney": pytest.approx(2 * 16 / 48), "tumor": None}


def test_levels_are_those_of_the_weights_that_were_calibrated(monkeypatch):
    known = {"classes": {"kidney": {"edges": [0.8, 0.9], "dice": [0.6, 0.85, 0.95]}}}
    monkeypatch.setattr(doubt, "read_calibration", lambda: {"abc": known})
    for agreement, level, dice in ((0.7, "high", 0.6), (0.85, "medium", 0.85), (0.97, "low", 0.95)):
        judged = doubt.judge({"kidney": agreement, "tumor": None}, "abc")
        assert judged["kidney"] == {"agreement": agreement, "level": level, "dice": dice}
        assert judged["tumor"] == {"agreement": None, "level": None, "dice": None}
    assert doubt.judge({"kidney": 0.97, "tumor": 0.5}, "other weights")["kidney"]["level"] is None


def test_findings_elsewhere_make_doubt_high_whatever_the_mirror_says(monkeypatch):
    known = {"classes": {"kidney": {"edges": [0.8, 0.9], "dice": [0.6, 0.85, 0.95]}}}
    monkeypatch.setattr(doubt, "read_calibration", lambda: {"abc": known})
    judged = doubt.judge({"kidney": 0.97, "tumor": None}, "abc", elsewhere=True)
    assert judged["kidney"] == {"agreement": 0.97, "level": "high", "dice": None}
    assert judged["tumor"]["level"] is None


def test_what_ships_of_doubt_names_thirds_of_patients():
    for calibration in doubt.read_calibration().values():
        for values in calibration["classes"].values():
            assert len(values["edges"]) == 2 and values["edges"] == sorted(values["edges"])
            assert len(values["dice"]) == 3 and sum(values["patients"]) <= calibration["patients"]
