"""segment.py: same files as the bundle's workflow, going on where it stopped, refusing what cannot be done."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import ROOT, read, run_well

from common.app.outputs import measure_file
from common.app.segmenter import Segmenter
from common.errors import InputError, find_input_error


@pytest.mark.slow
def test_files_are_those_of_the_bundles_workflow(weighted_bundle, phantoms, run_door, tmp_path):
    run_well(weighted_bundle, "inference", dataset_dir=phantoms, output_dir=tmp_path / "workflow")
    output = tmp_path / "script"
    assert run_door("segment", bundle=weighted_bundle, input=phantoms, output=output) == 0
    files = sorted((tmp_path / "workflow").glob("*.nii.gz"))
    assert [f.name for f in files] == sorted(f.name for f in (tmp_path / "script").iterdir())
    for file in files:
        assert file.read_bytes() == (output / file.name).read_bytes() and len(np.unique(read(file))) > 1
    again = {"bundle": weighted_bundle, "input": phantoms, "output": tmp_path / "workflow"}
    assert run_door("segment", **again) == 0  # and takes them for its own


def test_a_second_run_leaves_what_is_done_and_does_what_is_missing(weighted_bundle, cases, run_door, tmp_path):
    options = {"bundle": weighted_bundle, "input": cases, "output": tmp_path / "out"}
    assert run_door("segment", **options) == 0
    first, second = sorted((tmp_path / "out").glob("*.nii.gz"))
    written = first.stat().st_mtime_ns
    second.unlink()
    assert run_door("segment", **options) == 0
    assert first.stat().st_mtime_ns == written and second.is_file()


def test_another_segmentation_of_the_same_name_is_left_and_told(weighted_bundle, cases, run_door, tmp_path, capsys):
    options = {"bundle": weighted_bundle, "input": cases, "output": tmp_path / "out"}
    run_door("segment", **options)
    before = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    shutil.copy(cases / "scan1_synthetic.nii.gz", cases / "scan0_synthetic.nii.gz")
    assert run_door("segment", **options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "scan0_synthetic.nii.gz" in line and "choose another --output" in line
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}


def test_one_bad_case_among_many_is_told_and_the_others_are_done(weighted_bundle, cases, run_door, tmp_path, capsys):
    content = (cases / "scan0_synthetic.nii.gz").read_bytes()
    (cases / "scan0_synthetic.nii.gz").write_bytes(content[: len(content) // 2])
    assert run_door("segment", bundle=weighted_bundle, input=cases, output=tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "1 of 2 cases segmented" in printed.out
    assert [line for line in printed.err.splitlines() if "scan0_synthetic" in line and "truncated or damaged" in line]
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["scan1_synthetic.nii.gz"]


def test_whatever_a_case_raises_is_one_line_with_its_name_and_the_rest_is_done(
    weighted_bundle, cases, run_door, tmp_path, capsys, monkeypatch
):
    (cases / "gone_synthetic.nii.gz").symlink_to(cases / "nowhere.nii.gz")
    segment = Segmenter.segment

    def break_down(self, case):
        if case["case"].startswith("scan0"):
            raise ZeroDivisionError("a bug\nof ours")
        return segment(self, case)

    monkeypatch.setattr(Segmenter, "segment", break_down)
    options = {"bundle": weighted_bundle, "input": cases, "output": tmp_path / "out", "backend": "torch"}
    assert run_door("segment", **options) == 1
    printed = capsys.readouterr()
    assert "1 of 3 cases segmented" in printed.out and "Traceback" not in printed.err
    told = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    repeated = printed.err.splitlines()[-2:]
    assert [line.removeprefix("error: ") for line in repeated] == [line.removeprefix("failed: ") for line in told]
    assert "gone_synthetic.nii.gz: expected an image, found none" in repeated[0]
    assert repeated[1] == "error: scan0_synthetic: ZeroDivisionError: a bug of ours"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["scan1_synthetic.nii.gz"]
    run_door("segment", debug=True, **options)
    assert "in break_down" in capsys.readouterr().err


def test_warnings_stand_on_lines_of_their_own(weighted_bundle, cases, change, run_door, tmp_path, capsys, monkeypatch):
    change(cases / "scan0_synthetic.nii.gz", voxels=lambda v: v.clip(-79, 304) / 77.0)
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)  # given back at the end
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_door("segment", bundle=weighted_bundle, input=cases, output=tmp_path / "out") == 0
    lines = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert [line for line in lines if line.startswith("warning: ") and "standardized" in line]
    assert not [line for line in lines if "warning" in line and not line.startswith("warning: ")]


def test_an_output_that_cannot_be_written_is_told_before_any_case(weighted_bundle, cases, run_door, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: expected a folder to write to, found: Not a directory"):
        run_door("segment", bundle=weighted_bundle, input=cases, output=tmp_path / "file" / "out")
    assert "case/s" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [("nr_inodes=1", "No space left on device"), ("ro", "Read-only file system")],
    ids=["full", "ro"],
)
def test_a_disk_that_takes_nothing_is_one_line(options, words, weighted_bundle, cases, run_door, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(InputError, match=f"disk: expected a folder to write to, found: {words}"):
            run_door("segment", bundle=weighted_bundle, input=cases / "scan0_synthetic.nii.gz", output=disk)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_folder_of_the_images_is_no_output(weighted_bundle, cases, run_door):
    before = {file.name: file.read_bytes() for file in cases.iterdir()}
    with pytest.raises(InputError, match="expected another folder than that of the inputs"):
        run_door("segment", bundle=weighted_bundle, input=cases, output=cases)
    assert before == {file.name: file.read_bytes() for file in cases.iterdir()}


@pytest.mark.parametrize("bundle", ["missing", "."])
def test_a_folder_that_is_no_bundle_is_refused(bundle, cases, run_door, tmp_path):
    with pytest.raises(InputError, match="expected a bundle folder"):
        run_door("segment", bundle=tmp_path / bundle, input=cases, output=tmp_path / "out")


def test_a_hash_in_the_path_of_a_bundle_is_told_and_in_those_of_images_taken(
    weighted_bundle, cases, run_door, tmp_path
):
    odd = shutil.copytree(weighted_bundle, tmp_path / "a#b")
    with pytest.raises(InputError, match="expected a path without # or ::"):
        run_door("segment", bundle=odd, input=cases, output=tmp_path / "out")
    images = cases.rename(tmp_path / "c#d")
    assert run_door("segment", bundle=weighted_bundle, input=images, output=tmp_path / "e#f") == 0
    assert len(list((tmp_path / "e#f").iterdir())) == 2


@pytest.mark.parametrize("device", ["gpu", "cuda:77"])
def test_a_device_that_is_not_here_is_refused(device, weighted_bundle):
    with pytest.raises(InputError, match=f"device: expected one that is here, cpu or cuda, found {device}"):
        Segmenter(weighted_bundle, device)
    assert Segmenter(weighted_bundle, "cpu").device == "cpu"


def test_missing_weights_are_refused(copy_bundle):
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (a config's errors are wrapped in MONAI's)
        Segmenter(copy_bundle())
    assert "no weights here" in str(find_input_error(caught.value))


def test_a_report_and_an_index_are_written(weighted_bundle, phantoms, run_door, tmp_path):
    options = {"bundle": weighted_bundle, "input": phantoms, "output": tmp_path / "out", "report": True}
    assert run_door("segment", **options) == 0
    page = (tmp_path / "out/case_00000_synthetic.html").read_text()
    for words in ("Not a medical device", "Synthetic data", "53,027", "kits_pocket_unet_segmentation", "Kidney Dice"):
        assert words in page, words
    assert "case_00003_synthetic.html" in (tmp_path / "out/index.html").read_text()


def test_a_number_of_components_is_none_below_zero():
    with pytest.raises(InputError, match="keep_largest"):
        Segmenter(ROOT / "bundles/kits_pocket_unet_segmentation", keep_largest=-1)


def test_a_file_is_measured_in_its_own_spacing(tmp_path):
    label_map = np.zeros((4, 10, 10), np.uint8)
    label_map[1, 2:7, 3] = 2
    affine = np.array([[0, 0, -0.5, 0], [0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(label_map, affine), tmp_path / "case.nii.gz")
    measured = measure_file(tmp_path / "case.nii.gz")
    assert measured["tumor_ml"] == pytest.approx(5 * 3 * 2 * 0.5 / 1000)
    assert measured["tumor_diameter_mm"] == pytest.approx(4 * 2.0)
