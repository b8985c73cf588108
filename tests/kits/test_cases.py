"""Cases: every layout is found in the order of its names, every fault is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refusals import error_message

from common.kits.cases import find_cases, name_case, read_case


def touch(folder: Path, *names: str) -> Path:
    """Empty files; finding cases reads none."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


# Finding


@pytest.mark.parametrize("parent", ["", "data/", "dataset/"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_kits_layouts_are_found_in_the_order_of_their_names(tmp_path, parent, suffix):
    for number in (10, 2, 1):
        touch(tmp_path, *(f"{parent}case_{number:05d}/{stem}{suffix}" for stem in ("imaging", "segmentation")))
    touch(tmp_path, f"{parent}kits.json", "LICENSE", f"{parent}case_notes.txt")
    cases = find_cases(tmp_path, labelled=True)
    assert [case["case"] for case in cases] == ["case_00001", "case_00002", "case_00010"]
    for case in cases:
        folder = tmp_path / parent / case["case"]
        assert case == {
            "case": folder.name,
            "image": str(folder / f"imaging{suffix}"),
            "label": str(folder / f"segmentation{suffix}"),
        }


def test_a_kits_case_without_label_is_found_and_has_none(tmp_path):
    touch(tmp_path, "case_00000/imaging.nii.gz", "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz")
    assert [sorted(case) for case in find_cases(tmp_path)] == [["case", "image"], ["case", "image", "label"]]


def test_the_folder_of_one_kits_case_is_that_case(tmp_path):
    folder = touch(tmp_path / "case_00007", "imaging.nii.gz", "segmentation.nii.gz", "notes.txt")
    files = {"image": str(folder / "imaging.nii.gz"), "label": str(folder / "segmentation.nii.gz")}
    assert find_cases(folder, labelled=True) == [{"case": "case_00007", **files}]
    (folder / "segmentation.nii.gz").unlink()
    message = error_message(lambda: find_cases(folder, labelled=True))
    assert message == f"{folder}: expected label, found none."


def test_a_plain_folder_gives_a_case_for_every_image_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "scan.nii.gz", "scan-2.nii", "another.nii.gz", "b.c.nii", "scan_3.nii.gz")
    cases = find_cases(str(tmp_path))
    assert [case["case"] for case in cases] == ["another", "b.c", "scan", "scan-2", "scan_3"]
    assert [Path(case["image"]).name for case in cases] == [
        "another.nii.gz",
        "b.c.nii",
        "scan.nii.gz",
        "scan-2.nii",
        "scan_3.nii.gz",
    ]
    assert all("label" not in case for case in cases)


def test_hidden_temporary_and_other_files_are_passed_over(tmp_path):
    touch(tmp_path, "a.nii.gz", "._a.nii.gz", ".123.b.nii.gz", "notes.txt", "a.json", "deeper/b.nii.gz")
    assert [case["case"] for case in find_cases(tmp_path)] == ["a"]
    kits = touch(tmp_path / "kits", "case_00000/imaging.nii.gz", "case_00000/.7_segmentation.nii.gz", ".case_1/x")
    assert find_cases(kits) == [{"case": "case_00000", "image": str(kits / "case_00000" / "imaging.nii.gz")}]


def test_a_name_that_two_images_share_is_refused(tmp_path):
    touch(tmp_path, "x.nii", "x.nii.gz", "y.nii", "z.nii", "z.nii.gz")
    message = error_message(lambda: find_cases(tmp_path))
    assert message.startswith(f"{tmp_path}: ")
    assert message.endswith("several named x, z.")


@pytest.mark.parametrize("parent", ["", "data/", "dataset/"])
@pytest.mark.parametrize("key, kept", [("label", "imaging"), ("image", "segmentation")])
def test_all_missing_files_are_named_at_once_one_line_each(tmp_path, parent, key, kept):
    touch(tmp_path, *(f"{parent}case_{i:05d}/{stem}.nii.gz" for i in (0, 3) for stem in ("imaging", "segmentation")))
    touch(tmp_path, *(f"{parent}case_{i:05d}/{kept}.nii.gz" for i in (1, 2)))
    lines = error_message(lambda: find_cases(tmp_path, labelled=True)).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("case_00001", "case_00002")):
        where, told = line.split(": ")
        assert where == str(tmp_path / parent / name)
        assert told == f"expected {key}, found none."


def test_an_image_is_asked_for_even_where_no_label_is(tmp_path):
    touch(tmp_path, "case_00000/segmentation.nii.gz")
    assert "expected image, found none" in error_message(lambda: find_cases(tmp_path))


def test_a_plain_folder_has_no_labels_and_says_so_for_every_image(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    lines = error_message(lambda: find_cases(tmp_path, labelled=True)).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, "ab"):
        assert line.startswith(str(tmp_path / name))


def test_an_empty_and_a_missing_folder_are_refused(tmp_path):
    touch(tmp_path / "empty", "notes.txt")
    for folder in (tmp_path / "empty", tmp_path / "absent", tmp_path / "empty" / "notes.txt"):
        message = error_message(lambda folder=folder: find_cases(folder))
        assert message.startswith(f"{folder}: expected")
        assert "\n" not in message


# Naming


@pytest.mark.parametrize(
    "image, name",
    [
        ("data/case_00007/imaging.nii.gz", "case_00007"),
        ("data/case_00007/imaging.nii", "case_00007"),
        ("data/case_00007/segmentation.nii.gz", "case_00007"),
        ("studies/patient.nii.gz", "patient"),
        ("studies/patient.nii", "patient"),
        ("studies/patient.1.2.nii.gz", "patient.1.2"),
        ("studies/imaging_2.nii.gz", "imaging_2"),
        (Path("/studies/patient.nii.gz"), "patient"),
    ],
)
def test_a_case_is_named_after_its_folder_in_kits_and_else_after_its_file(image, name):
    assert name_case(image) == name


def test_a_kits_image_in_the_working_directory_has_a_name_too(tmp_path, monkeypatch):
    folder = touch(tmp_path / "case_00007", "imaging.nii.gz")
    monkeypatch.chdir(folder)
    assert name_case("imaging.nii.gz") == "case_00007"


# Reading


@pytest.fixture
def write_case(write_nifti, phantom, make_affine):
    """Write image and label, with some arguments changed, and return the case."""

    def write(image=phantom[0], label=phantom[1], image_affine=None, label_affine=None):
        affines = [make_affine("IPL") if affine is None else affine for affine in (image_affine, label_affine)]
        return {
            "case": "case_00000",
            "image": str(write_nifti(image, "case_00000/imaging.nii.gz", affines[0])),
            "label": str(write_nifti(label, "case_00000/segmentation.nii.gz", affines[1])),
        }

    return write


def test_a_good_case_gives_image_label_and_affine(write_case, phantom, make_affine):
    image, label, affine = read_case(write_case())
    np.testing.assert_array_equal(image, phantom[0].clip(0, 255))
    np.testing.assert_array_equal(label, phantom[1])
    np.testing.assert_allclose(affine, make_affine("IPL"), atol=1e-4)
    assert (image.dtype, label.dtype) == (np.uint8, np.uint8)


def test_affines_that_differ_by_rounding_alone_are_the_same(write_case, make_affine):
    affine = make_affine("oblique")
    read_case(write_case(image_affine=affine, label_affine=affine.round(4)))


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("fault", ["cut", "absent"])
def test_a_cut_or_absent_file_is_named(write_case, key, fault):
    case = write_case()
    path = Path(case[key])
    whole = path.read_bytes()
    path.unlink()
    if fault == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    message = error_message(lambda: read_case(case))
    assert message.startswith(case[key])
    assert "\n" not in message


@pytest.mark.parametrize("case", [{"image": "a.nii.gz"}, {"image": "a.nii.gz", "label": ""}])
def test_a_case_without_label_cannot_be_read(case):
    assert error_message(lambda: read_case(case)).startswith("a.nii.gz: expected a label")


@pytest.mark.parametrize(
    "change, key, told",
    [
        (lambda image, label, affine: {"label": label[:-1]}, "label", "(11, 64, 64)"),
        (lambda image, label, affine: {"label": label.transpose(1, 0, 2)}, "label", "(64, 12, 64)"),
        (lambda image, label, affine: {"label_affine": affine + 0.01 * np.eye(4)}, "label", "affine"),
        (lambda image, label, affine: {"label_affine": affine @ np.diag([1, 1, -1, 1])}, "label", "affine"),
        (lambda image, label, affine: {"label": label * 2}, "label", "found 4"),
        (lambda image, label, affine: {"label": label * 0.5}, "label", "found 0.5"),
        (lambda image, label, affine: {"image": image.clip(0, 1500)}, "image", "MR"),
        (lambda image, label, affine: {"image": (image > 0).astype(np.float32)}, "image", "normalized"),
        (lambda image, label, affine: {"image": np.where(image > 200, np.nan, image)}, "image", "NaN"),
    ],
    ids=["slices", "axes", "shifted", "mirrored", "label 4", "label 0.5", "MR", "normalized", "NaN"],
)
def test_what_is_wrong_with_a_case_is_told_in_one_line(write_case, phantom, make_affine, change, key, told):
    image = np.maximum(phantom[0], -1024)
    image = np.where(image > 100, image + 300, image)  # so that clipping at 0 leaves an MR-like range
    case = write_case(**change(image, phantom[1], make_affine("IPL")))
    message = error_message(lambda: read_case(case))
    assert message.startswith(case[key])
    assert told in message
    assert "\n" not in message
