from __future__ import annotations

from pathlib import Path

import pytest

from common.files import write_whole


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("old", [None, "old"])
def test_the_file_appears_whole_once_all_is_written(tmp_path, old):
    path = tmp_path / "report.html"
    if old is not None:
        path.write_text(old)
    with write_whole(path) as temporary:
        temporary.write_text("ne")
        assert (path.read_text() if path.exists() else None) == old, "nobody may read half of the new file"
        temporary.write_text("new")
    assert contents(tmp_path) == {"report.html": "new"}


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, old, error):
    path = tmp_path / "report.html"
    if old is not None:
        path.write_text(old)
    before = contents(tmp_path)
    with pytest.raises(error), write_whole(path) as temporary:
        temporary.write_text("half")
        raise error("while writing")
    assert contents(tmp_path) == before


def test_an_error_before_anything_is_written_keeps_its_name(tmp_path):
    with pytest.raises(ValueError, match="first"), write_whole(tmp_path / "report.html"):
        raise ValueError("first")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["model.pt", "case_00000.nii.gz", "LICENSE", ".hidden.json"])
def test_the_temporary_name_lies_beside_the_path_and_keeps_its_suffixes(tmp_path, name):
    path = tmp_path / name
    with write_whole(path) as temporary:
        assert temporary.parent == path.parent and temporary != path
        # what chooses its format by the end of the name, as nibabel does, must choose the same
        assert temporary.name.endswith(name)
        temporary.write_text("written")
    assert contents(tmp_path) == {name: "written"}


def test_parents_are_created(tmp_path):
    with write_whole(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("deep")
    assert contents(tmp_path / "a" / "b") == {"c.txt": "deep"}


def test_a_string_will_do(tmp_path):
    with write_whole(str(tmp_path / "c.txt")) as temporary:
        temporary.write_text("text")
    assert contents(tmp_path) == {"c.txt": "text"}


def test_neighbours_are_left_alone(tmp_path):
    (tmp_path / "neighbour.txt").write_text("here")
    with write_whole(tmp_path / "c.txt") as temporary:
        temporary.write_text("text")
    assert contents(tmp_path) == {"neighbour.txt": "here", "c.txt": "text"}
