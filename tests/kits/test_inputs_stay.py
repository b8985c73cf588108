"""Inputs are never written: an output folder that holds any is refused, by whatever name it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import error_message

from common.errors import InputError
from common.files import check_output_file
from common.kits.cases import check_output, find_cases


@pytest.fixture
def scans(tmp_path) -> Path:
    """A plain folder of two images, of which one is a link into another folder, beside an empty folder."""
    for name in ("scans", "archive", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "scans/a.nii.gz").write_bytes(b"a")
    (tmp_path / "archive/b.nii.gz").write_bytes(b"b")
    (tmp_path / "scans/b.nii.gz").symlink_to(tmp_path / "archive/b.nii.gz")
    return tmp_path / "scans"


def refuses(output: Path, source: Path) -> bool:
    cases = find_cases(source)
    try:
        check_output(output, source, cases)
    except InputError as error:
        assert str(error).startswith(f"{output}: expected another folder") and "\n" not in str(error)
        return True
    return False


def test_the_folder_of_the_images_is_refused_and_one_inside_or_beside_it_is_not(scans, tmp_path):
    assert refuses(scans, scans) and refuses(scans / ".." / "scans", scans) and refuses(scans, scans / "a.nii.gz")
    for good in (scans / "out", tmp_path / "empty", tmp_path / "new", tmp_path):
        assert not refuses(good, scans)


def test_a_link_to_the_folder_and_the_folder_that_a_link_leads_to_are_refused(scans, tmp_path):
    (tmp_path / "other name").symlink_to(scans)
    assert refuses(tmp_path / "other name", scans) and refuses(scans, tmp_path / "other name")
    assert refuses(tmp_path / "archive", scans)  # where b.nii.gz lies


def test_a_name_that_differs_by_case_is_refused_where_the_disk_takes_it_for_the_same(scans, tmp_path):
    same = (tmp_path / "SCANS").exists()  # of a disk that minds no case
    assert refuses(tmp_path / "SCANS", scans) == same


def test_a_relative_path_is_refused_too(scans, monkeypatch):
    monkeypatch.chdir(scans)
    assert refuses(Path("."), scans) and refuses(scans, Path("."))


@pytest.mark.parametrize("root", ["", "data"])
def test_of_a_kits_folder_neither_itself_nor_that_of_a_case_is_written_to(tmp_path, root):
    case = tmp_path / root / "case_00000"
    case.mkdir(parents=True)
    for name in ("imaging", "segmentation"):
        (case / f"{name}.nii.gz").touch()
    assert refuses(tmp_path, tmp_path) and refuses(case, tmp_path) and refuses(case, case)
    assert not refuses(tmp_path / "out", tmp_path)


def test_a_table_replaces_no_input_and_is_tried_before_the_work(scans, tmp_path):
    inputs = [scans, scans / "a.nii.gz"]
    assert "found a folder" in error_message(lambda: check_output_file(scans, inputs))
    assert "than that of the inputs" in error_message(lambda: check_output_file(scans / "scores.csv", inputs))
    not_a_folder = tmp_path / "archive/b.nii.gz/scores.csv"
    assert "expected a folder to write to" in error_message(lambda: check_output_file(not_a_folder, inputs))
    check_output_file(scans / "out/scores.csv", inputs)
    check_output_file(tmp_path / "scores.csv", inputs)
    assert sorted(path.name for path in scans.iterdir()) == ["a.nii.gz", "b.nii.gz"]
