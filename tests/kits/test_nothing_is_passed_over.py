"""What looks like an image is read or named, and what is nearly right is read with a word about it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_files import make_hu, make_positions, write_slice
from refusals import error_message

from common.errors import InputError
from common.kits.cases import find_cases, name_case, read_case
from common.kits.volumes import describe_range_problem, list_files, open_nifti, open_volume, read_ct, read_label

FORMS = ("a.nii.gz", "B.NII.GZ", "C.NII", "d.hdr", "e.nrrd", "f.mha", "g.mhd", "H.NRRD")


@pytest.fixture
def forms(tmp_path, ct, write_nifti) -> Path:
    """One CT in every form that is read, in a plain folder."""
    source = write_nifti(ct)
    folder = tmp_path / "forms"
    folder.mkdir()
    for name in FORMS:
        if name.lower().endswith((".nrrd", ".mha", ".mhd")):
            itk.imwrite(itk.imread(str(source)), str(folder / name.lower()))
            (folder / name.lower()).rename(folder / name)
        elif name.endswith(".hdr"):
            image = nib.load(source)
            nib.save(nib.Nifti1Pair(np.asarray(image.dataobj), image.affine, image.header), folder / name)
        else:
            nib.save(nib.load(source), folder / name.lower())
            (folder / name.lower()).rename(folder / name)
    return folder


def read_warnings(action) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in caught]


def test_every_form_of_an_image_is_a_case_and_the_same_voxels(forms, ct):
    cases = find_cases(forms)
    assert [Path(case["image"]).name for case in cases] == sorted(FORMS)
    assert [case["case"] for case in cases] == sorted(name.split(".")[0] for name in FORMS)
    expected = ct.clip(0, 255)
    for case in cases:
        image = open_volume(case["image"])
        np.testing.assert_array_equal(read_ct(image)[0], expected)
        np.testing.assert_allclose(image.affine, open_volume(forms / "a.nii.gz").affine, atol=1e-4)
        assert find_cases(case["image"]) == [case]
    assert read_warnings(lambda: find_cases(forms)) == []


def test_voxels_in_a_file_of_their_own_belong_to_the_header(forms):
    assert [file.name for file in list_files(forms / "d.hdr")] == ["d.hdr", "d.img"]
    assert "g.mhd" in [file.name for file in list_files(forms / "g.mhd")] and len(list_files(forms / "g.mhd")) == 2
    (forms / "d.img").unlink()
    message = error_message(lambda: read_ct(open_volume(forms / "d.hdr")))
    assert str(forms / "d") in message and "\n" not in message


def test_an_image_in_a_form_that_is_not_read_is_named(forms):
    for name in ("x.dcm", "y.nii.bz2", "z.img", "w.mgz", ".hidden.img", "notes.txt", "d.json"):
        (forms / name).touch()
    told = read_warnings(lambda: find_cases(forms))
    assert told == [
        f"{forms / name}: looks like an image, and is passed over." for name in ("w.mgz", "x.dcm", "y.nii.bz2", "z.img")
    ]


def test_an_image_beside_kits_cases_or_beside_that_of_a_case_is_named(forms, tmp_path):
    case = tmp_path / "kits/case_00000"
    case.mkdir(parents=True)
    shutil.copy(forms / "a.nii.gz", case / "imaging.nii.gz")
    shutil.copy(forms / "a.nii.gz", tmp_path / "kits/extra.nii.gz")
    (told,) = read_warnings(lambda: find_cases(tmp_path / "kits"))
    assert told.startswith(f"{tmp_path / 'kits/extra.nii.gz'}: looks like an image")
    shutil.copy(forms / "a.nii.gz", case / "segmentation.nii.gz")
    shutil.copy(forms / "a.nii.gz", case / "phase_2.nii.gz")
    (told,) = read_warnings(lambda: find_cases(case))
    assert "phase_2.nii.gz" in told


def test_analyze_is_refused_because_it_does_not_say_how_the_patient_lies(tmp_path, ct):
    nib.save(nib.Spm2AnalyzeImage(ct, np.eye(4)), tmp_path / "a.img")
    assert "which has no orientation" in error_message(lambda: open_volume(tmp_path / "a.hdr"))


@pytest.mark.parametrize("broken", ["vector.nrrd", "4-D.nrrd", "text.nrrd", "text.mha"])
def test_what_itk_reads_otherwise_is_one_line(tmp_path, broken):
    path = tmp_path / broken
    if broken.startswith("text"):
        path.write_text("no image")
    else:
        shape = (3, 4, 5, 3) if broken == "vector.nrrd" else (2, 3, 4, 5)
        itk.imwrite(itk.image_from_array(np.zeros(shape, np.float32), is_vector=broken == "vector.nrrd"), str(path))
    message = error_message(lambda: open_volume(path))
    assert message.startswith(str(path)) and "\n" not in message


def damage(header: bytearray, offset: int, value: bytes) -> bytes:
    header[offset : offset + len(value)] = value
    return bytes(header)


# bytes of a header that nibabel refuses, in ways of its own, by where they stand
BAD_BYTES = {"dimensions": (40, b"\xff\x7f"), "data type": (70, b"\x01\x00"), "offset": (108, b"\x00\x00\x80\xff")}


@pytest.mark.parametrize(("offset", "value"), BAD_BYTES.values(), ids=BAD_BYTES)
def test_a_header_that_nibabel_refuses_is_one_line(write_nifti, ct, offset, value):
    path = write_nifti(ct, "a.nii")
    path.write_bytes(damage(bytearray(path.read_bytes()), offset, value))
    message = error_message(lambda: read_ct(open_nifti(path)))
    assert str(path) in message and "\n" not in message


def test_a_link_to_nothing_is_a_case_that_is_told_when_it_is_read(forms):
    (forms / "i.nii.gz").symlink_to(forms / "nowhere.nii.gz")
    assert "i" in [case["case"] for case in find_cases(forms)]
    for read in (open_volume, list_files):
        assert "found none" in error_message(lambda read=read: read(forms / "i.nii.gz"))


# KiTS21


@pytest.mark.parametrize("votes", [("MAJ", "AND", "OR"), ("AND", "OR"), ("OR",)])
def test_a_kits21_case_has_the_label_of_the_majority_where_there_is_one(forms, tmp_path, label, write_nifti, votes):
    case = tmp_path / "kits/data/case_00000"
    case.mkdir(parents=True)
    shutil.copy(forms / "a.nii.gz", case / "imaging.nii.gz")
    for value, vote in enumerate(votes, start=1):
        path = write_nifti((label > 0).astype(np.uint8) * value, "label.nii.gz")
        shutil.copy(path, case / f"aggregated_{vote}_seg.nii.gz")
    (found,) = find_cases(tmp_path / "kits", labelled=True)
    assert Path(found["label"]).name == f"aggregated_{votes[0]}_seg.nii.gz"
    assert name_case(found["label"]) == name_case(found["image"]) == "case_00000"
    np.testing.assert_array_equal(read_case(found)[1], label > 0)
    shutil.copy(path, case / "segmentation.nii.gz")
    assert Path(find_cases(case)[0]["label"]).name == "segmentation.nii.gz"


# Labels


@pytest.mark.parametrize("kind", ["slope", "float", "resampled"])
def test_labels_a_little_off_are_rounded_with_a_note(write_nifti, label, kind):
    stored = {"slope": label.astype(float), "float": label * np.float32(0.9999999), "resampled": label + 4e-4}[kind]
    image = nib.Nifti1Image(stored, np.eye(4))
    if kind == "slope":
        image.set_data_dtype(np.int16)
    path = write_nifti(label)
    nib.save(image, path)
    assert set(np.unique(nib.load(path).dataobj)) != {0, 1, 2}
    with pytest.warns(UserWarning, match=r"volume\.nii\.gz: rounded labels that were up to .* off"):
        np.testing.assert_array_equal(read_label(open_nifti(path)), label)


def test_labels_further_off_are_refused(write_nifti, label):
    path = write_nifti(label + 2e-3)
    with pytest.raises(InputError, match="expected labels"):
        read_label(open_nifti(path))
    assert read_warnings(lambda: read_label(open_nifti(write_nifti(label)))) == []


# Values


@pytest.mark.parametrize(
    "rescale",
    [
        lambda hu: (hu.clip(-79, 304) - 101) / 76.9,
        lambda hu: (hu - 101) / 76.9,
        lambda hu: hu / 1000,
        lambda hu: hu.clip(-200, 300) / 500,
    ],
    ids=["clipped and standardized", "standardized", "in thousands", "normalized"],
)
def test_a_rescaled_ct_is_told_with_what_was_found(ct, rescale):
    values = rescale(np.append(ct.astype(float), [-1024, 1500]))
    problem = describe_range_problem(float(values.min()), float(values.max()))
    assert "standardized" in problem and f"{values.min():g} to {values.max():g}" in problem


@pytest.mark.parametrize("target", ["gone", "case_00002"])
def test_a_case_folder_that_is_a_link_to_nothing_is_a_case(tmp_path, write_nifti, ct, target):
    (tmp_path / "case_00001").mkdir()
    shutil.copy(write_nifti(ct), tmp_path / "case_00001/imaging.nii.gz")
    (tmp_path / "case_00002").symlink_to(target)
    cases = find_cases(tmp_path)
    assert [case["case"] for case in cases] == ["case_00001", "case_00002"]
    message = error_message(lambda: open_volume(cases[1]["image"]))
    assert message.startswith(f"{tmp_path / 'case_00002'}/imaging.nii.gz: expected")


def test_a_series_without_suffixes_beside_an_image_is_named(tmp_path, write_nifti, ct):
    (tmp_path / "inputs").mkdir()
    shutil.copy(write_nifti(ct), tmp_path / "inputs/scan.nii.gz")
    for index, position in enumerate(make_positions(3)):
        write_slice(tmp_path / f"inputs/IM{index}", make_hu()[index], position, index + 1)
    with pytest.warns(UserWarning, match=r"DICOM series 1\.2\.3 of 3 files is passed over"):
        assert len(find_cases(tmp_path / "inputs")) == 1


def test_voxels_that_a_header_names_are_files_of_the_image(tmp_path):
    (tmp_path / "scan.nhdr").write_text("NRRD0004\ndata file: other.bin\n\n")
    (tmp_path / "other.bin").touch()
    assert [file.name for file in list_files(tmp_path / "scan.nhdr")] == ["scan.nhdr", "other.bin"]
