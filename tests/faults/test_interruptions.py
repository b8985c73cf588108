"""Out of space, its input gone or changed: what stands is whole, and what is missing is one line."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import pytest
import torch
from bundle_runs import BUNDLES, POCKET

from common.app.folder import segment_to_folder
from common.app.segmenter import Segmenter
from common.errors import InputError
from common.kits.cases import find_cases
from common.kits.scores import write_table
from common.networks import LiteUNet
from common.networks.weights import save_weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Pocket U-Net with random weights."""
    ignored = shutil.ignore_patterns("eval", "models")
    folder = shutil.copytree(BUNDLES / POCKET, tmp_path_factory.mktemp("bundle") / POCKET, ignore=ignored)
    torch.manual_seed(0)
    save_weights(LiteUNet(channels=[16] * 5), folder / "models/model.pt")
    return folder


@pytest.fixture
def scans(phantoms, tmp_path) -> Path:
    """Four images in a plain folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for case in sorted(phantoms.iterdir()):
        shutil.copy(case / "imaging.nii.gz", folder / f"{case.name}.nii.gz")
    return folder


@pytest.fixture
def alone(bundle, scans, tmp_path) -> dict[str, bytes]:
    """The masks of an uninterrupted run."""
    segment_all(bundle, scans, tmp_path / "alone")
    return read_visible(tmp_path / "alone")


def segment_all(bundle: Path, scans: Path, output: Path) -> None:
    segmenter = Segmenter(bundle, "cpu")
    for case in find_cases(scans):
        segment_to_folder(segmenter, case, output)


def read_visible(folder: Path, suffix: str = ".nii.gz") -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.glob(f"[!.]*{suffix}")}


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file may grow beyond some bytes, as on a full disk, for root too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 400])
def test_without_space_nothing_half_written_stays_and_the_line_names_the_file(bundle, scans, alone, tmp_path, size):
    segmenter, (case, *_) = Segmenter(bundle, "cpu"), find_cases(scans)
    output = tmp_path / "out"
    with at_most(size), pytest.raises(InputError, match=f"{case['case']}.* expected to write it, found: ") as told:
        segment_to_folder(segmenter, case, output)
    assert "\n" not in str(told.value) and not list(output.iterdir())
    segment_to_folder(segmenter, case, output)
    name = f"{case['case']}.nii.gz"
    assert read_visible(output) == {name: alone[name]}


def test_without_space_a_table_stays_as_it_was(tmp_path):
    write_table([{"case": "a"}], tmp_path / "scores.csv")
    with at_most(50), pytest.raises(OSError):
        write_table([{"case": "b" * 100}], tmp_path / "scores.csv")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("scores.csv", "case\na\n")]


def test_an_input_that_goes_away_while_others_are_done_is_one_line(bundle, scans, tmp_path):
    segmenter, cases = Segmenter(bundle, "cpu"), find_cases(scans)
    (scans / f"{cases[1]['case']}.nii.gz").unlink()
    with pytest.raises(InputError, match=f"{cases[1]['case']}.nii.gz: expected an image, found none"):
        segment_to_folder(segmenter, cases[1], tmp_path / "out")


def test_an_input_that_changes_or_whose_clock_is_set_back_is_not_taken_for_the_old_one(bundle, scans, tmp_path):
    segmenter, (case, *_) = Segmenter(bundle, "cpu"), find_cases(scans)
    segment_to_folder(segmenter, case, tmp_path / "out")
    assert segment_to_folder(segmenter, case, tmp_path / "out") == {}
    before = read_visible(tmp_path / "out")
    os.utime(case["image"], (1, 1))
    with pytest.raises(InputError, match="expected no file or this case's own segmentation, found another"):
        segment_to_folder(segmenter, case, tmp_path / "out")
    assert read_visible(tmp_path / "out") == before
    assert nib.load(tmp_path / "out" / f"{case['case']}.nii.gz").shape == nib.load(case["image"]).shape
