"""DICOM: every voxel at its own millimetres, or one line that names the cause and the files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import (
    SPACING_MM,
    make_hu,
    make_positions,
    write_enhanced,
    write_slice,
    write_stack,
)
from refusals import error_message

from common.kits.dicom_series import list_series, read_series
from common.kits.volumes import list_files, open_volume

TURN = np.deg2rad(20)
COS, SIN = float(np.cos(TURN)), float(np.sin(TURN))
# along a row and along a column, and the way across
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "upside down": (-1, 0, 0, 0, 1, 0),
    "oblique": (COS, SIN, 0, -SIN, COS, 0),
    "nodding": (1, 0, 0, 0, COS, SIN),
}


def place(hu: np.ndarray, positions: np.ndarray, orientation=ORIENTATIONS["axial"]) -> dict[tuple, int]:
    """HU of every voxel by where it lies, RAS mm, reckoned from the slices and not from a stack of them."""
    row, column = np.reshape(orientation, (2, 3))
    found = {}
    for (k, j, i), value in np.ndenumerate(hu):
        left, posterior, superior = positions[k] + row * i * SPACING_MM[1] + column * j * SPACING_MM[0]
        found[round(-left, 2) + 0.0, round(-posterior, 2) + 0.0, round(superior, 2) + 0.0] = int(value)
    return found


def place_read(path: Path, series: str | None = None) -> dict[tuple, int]:
    voxels, affine = read_series(path, series)
    return {
        tuple(np.round(affine[:3, :3] @ index + affine[:3, 3], 2) + 0.0): int(value)
        for index, value in np.ndenumerate(voxels)
    }


@pytest.mark.parametrize("spacing_between_slices", [None, 5, -5, 17])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)], ids=str)
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_voxel_lies_where_its_slice_says(tmp_path, orientation, order, spacing_between_slices):
    hu, across = make_hu(), np.cross(orientation[:3], orientation[3:])
    positions = make_positions(len(hu), 5 * across)
    tags = {"ImageOrientationPatient": [format(cosine, ".9g") for cosine in orientation]}
    write_stack(tmp_path / "a", hu, positions, order, SpacingBetweenSlices=spacing_between_slices, **tags)
    assert place_read(tmp_path / "a") == place(hu, positions, orientation)


def test_slices_written_from_the_last_position_to_the_first_are_the_same_volume(tmp_path):
    hu, positions = make_hu(), make_positions(6)
    write_stack(tmp_path / "a", hu[::-1], positions[::-1], SpacingBetweenSlices=-5)
    assert place_read(tmp_path / "a") == place(hu, positions)


@pytest.mark.parametrize("spacing_mm", [0.625, 0.7, 1.25, 2.5, 3.33])
@pytest.mark.parametrize("decimals", [1, 2, 4])
def test_positions_that_were_rounded_are_accepted(tmp_path, spacing_mm, decimals):
    hu, exact = make_hu(30), make_positions(30, (0, 0, spacing_mm))
    write_stack(tmp_path / "a", hu, exact.round(decimals))
    voxels, affine = read_series(tmp_path / "a")
    np.testing.assert_array_equal(voxels, hu.transpose())
    ends_mm = affine[2, 2] * np.array([0, 29]) + affine[2, 3]
    np.testing.assert_allclose(ends_mm, exact[[0, -1], 2], atol=10.0**-decimals)


def test_a_tilt_of_the_gantry_is_named_and_one_too_small_to_see_is_kept(tmp_path):
    hu = make_hu()
    for degrees, along_z in ((15, 5), (-15, 5), (3, 5), (15, -5)):
        tilt = np.deg2rad(degrees)
        tags = {"ImageOrientationPatient": [1, 0, 0, 0, round(np.cos(tilt), 6), round(-np.sin(tilt), 6)]}
        write_stack(tmp_path / "a", hu, make_positions(6, (0, 0, along_z)), **tags)
        message = error_message(lambda: read_series(tmp_path / "a"))
        assert f"sheared by {abs(degrees)}.0 degrees, as of a tilted gantry" in message
        assert "(000.dcm and 005.dcm)" in message or "(005.dcm and 000.dcm)" in message
    write_stack(tmp_path / "a", hu, make_positions(6, (0.02, 0, 5)))
    assert read_series(tmp_path / "a")[1][0, 2] == pytest.approx(-0.02)


def copy_one(folder: Path) -> None:
    shutil.copy(folder / "002.dcm", folder / "copy.dcm")


def second_phase(folder: Path) -> None:
    write_stack(folder, make_hu() + 7, make_positions(6), names=range(100, 106))


def change(**tags):
    """Slice 2 again, with other tags."""
    return lambda folder: write_slice(folder / "002.dcm", make_hu()[2], make_positions(6)[2], 3, **tags)


def other_shape(folder: Path) -> None:
    write_slice(folder / "002.dcm", make_hu()[2, :-1], make_positions(6)[2], 3)


FRONTAL, SKEW, NODDING = [0, 1, 0, 0, 0, -1], [1, 0, 0, 0.6, 0.8, 0], [1, 0, 0, 0, COS, SIN]
# what is done to six good slices; words of the line; the files that it names
FAULTS = {
    "a missing slice": (lambda f: (f / "003.dcm").unlink(), ["5 mm apart", "10 mm"], [2, 4]),
    "a missing slice at the end": (lambda f: (f / "004.dcm").unlink(), ["5 mm apart", "10 mm"], [3, 5]),
    "a copy": (copy_one, ["several slices at one position", "copy.dcm"], [2]),
    "a second phase": (second_phase, ["several slices at one position"], [0, 100]),
    "a shifted slice": (change(ImagePositionPatient=[-40, -60, 110.3]), ["apart in a straight row"], [2]),
    "a slice moved sideways": (change(ImagePositionPatient=[-37, -60, 110]), ["mm off the row"], []),
    "another orientation": (change(ImageOrientationPatient=FRONTAL), ["one orientation", "localizer"], [0, 2]),
    "a slightly other one": (change(ImageOrientationPatient=NODDING), ["one orientation"], [0, 2]),
    "a localizer": (change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), ["found a localizer"], [0, 2]),
    "no position": (change(ImagePositionPatient=None), ["no ImagePositionPatient"], [2]),
    "no orientation": (change(ImageOrientationPatient=None), ["no ImageOrientationPatient"], [2]),
    "no pixel spacing": (change(PixelSpacing=None), ["no PixelSpacing"], [2]),
    "another pixel spacing": (change(PixelSpacing=[2, 2]), ["one PixelSpacing"], [0, 2]),
    "a pixel spacing of zero": (change(PixelSpacing=[0, 2]), ["positive PixelSpacing"], [2]),
    "an orientation of zeros": (change(ImageOrientationPatient=[0] * 6), ["orthogonal unit vectors"], [2]),
    "a skew orientation": (change(ImageOrientationPatient=SKEW), ["orthogonal unit vectors"], [2]),
    "another shape": (other_shape, ["expected Rows 8 as in 000.dcm, found 7"], [0, 2]),
    "another frame of reference": (change(FrameOfReferenceUID="1.2.10"), ["FrameOfReferenceUID 1.2.9"], [0, 2]),
    "an inverted slice": (change(PhotometricInterpretation="MONOCHROME1"), ["found MONOCHROME1"], [2]),
    "no pixels": (change(PixelData=None), ["ITK can decode"], []),
    "a step of zero": (change(SpacingBetweenSlices=0), ["ITK can decode", "spacing"], []),
}


@pytest.mark.parametrize(("spoil", "words", "files"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_series_is_one_line_with_the_cause_and_the_files(tmp_path, spoil, words, files):
    folder = write_stack(tmp_path / "series", make_hu(), make_positions(6))
    read_series(folder)
    spoil(folder)
    message = error_message(lambda: read_series(folder))
    assert message.startswith(str(folder)) and "\n" not in message
    assert all(word in message for word in words), message
    assert all(f"{number:03d}.dcm" in message for number in files), message


def test_an_inverted_series_is_refused_by_name(tmp_path):
    write_stack(tmp_path / "a", make_hu(), make_positions(6), PhotometricInterpretation="MONOCHROME1")
    assert "MONOCHROME2, found MONOCHROME1" in error_message(lambda: read_series(tmp_path / "a"))


def test_slices_with_another_slope_and_intercept_each_have_their_own_hounsfield_units(tmp_path):
    hu, positions = 2 * make_hu(), make_positions(6)
    write_stack(tmp_path / "a", hu, positions, change={n: {"RescaleIntercept": 100 * n - 1024} for n in range(6)})
    assert place_read(tmp_path / "a") == place(hu, positions)
    stored = hu[4] // 2 + 1024
    write_slice(tmp_path / "a/004.dcm", stored, positions[4], 5, RescaleSlope=2, RescaleIntercept=None)
    other = hu.copy()
    other[4] = 2 * stored
    assert place_read(tmp_path / "a") == place(other, positions)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)], ids=str)
def test_an_enhanced_object_is_the_volume_of_its_frames_in_whatever_order(tmp_path, order):
    hu, positions = make_hu()[list(order)], make_positions(6)[list(order)]
    path = write_enhanced(tmp_path / "all.dcm", hu, positions)
    assert place_read(tmp_path) == place_read(path) == place(hu, positions)


def test_an_enhanced_object_with_a_gap_two_rescales_or_neighbours_is_refused(tmp_path):
    hu, positions = make_hu(), make_positions(6)
    gap = np.delete(np.arange(6), 3)
    path = write_enhanced(tmp_path / "all.dcm", hu[gap], positions[gap])
    assert "found 10 mm" in error_message(lambda: read_series(path))
    write_enhanced(path, hu, positions, rescale={2: 2})
    assert "one rescale for all frames" in error_message(lambda: read_series(path))
    write_enhanced(path, hu, positions)
    write_slice(tmp_path / "one.dcm", hu[0], positions[0], 7)
    assert "one file with all frames" in error_message(lambda: read_series(tmp_path))


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    path = write_slice(tmp_path / "one.dcm", make_hu()[0], (-40, -60, 100), 1, SliceThickness=4)
    for source in (path, tmp_path):
        voxels, affine = read_series(source)
        assert voxels.shape == (10, 8, 1) and affine[2, 2] == 4
        np.testing.assert_array_equal(voxels[..., 0], make_hu()[0].T)
    write_slice(path, make_hu()[0], (-40, -60, 100), 1, SliceThickness=None)
    assert "SliceThickness of a single slice, found None" in error_message(lambda: read_series(path))


def test_a_series_is_chosen_by_its_whole_uid_and_all_are_listed(tmp_path):
    for uid, shift, first in (("1.2.3", 0, 0), ("1.2.30", 500, 10)):
        names = range(first, first + 6)
        write_stack(tmp_path / "a", make_hu() + shift, make_positions(6), names, SeriesInstanceUID=uid)
    assert {uid: len(files) for uid, files in list_series(tmp_path / "a").items()} == {"1.2.3": 6, "1.2.30": 6}
    assert place_read(tmp_path / "a", "1.2.30") == place(make_hu() + 500, make_positions(6))
    assert place_read(tmp_path / "a", "1.2.3") == place(make_hu(), make_positions(6))
    for series in (None, "1.2", "1.2.300"):
        message = error_message(lambda series=series: read_series(tmp_path / "a", series))
        assert "choose with --series; found 1.2.3 (6 files); 1.2.30 (6 files)" in message


def test_other_files_beside_a_series_do_not_matter(tmp_path):
    folder = write_stack(tmp_path / "a", make_hu(), make_positions(6))
    expected = place_read(folder)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "notes.txt").write_text("DICM")
    (folder / "damaged.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    (folder / "deeper").mkdir()
    write_slice(
        folder / "report.dcm",
        make_hu()[0],
        (0, 0, 0),
        9,
        Rows=None,
        Columns=None,
        PixelData=None,
        SeriesInstanceUID="1.9",
    )
    assert place_read(folder) == expected
    assert [file.name for file in list_files(folder)] == [f"{number:03d}.dcm" for number in range(6)]


def test_slices_without_a_preamble_are_read(tmp_path):
    folder = write_stack(tmp_path / "a", make_hu(), make_positions(6))
    for file in folder.iterdir():
        content = file.read_bytes()
        assert content[128:132] == b"DICM"
        file.write_bytes(content[132:])
    assert len(list_series(folder)["1.2.3"]) == 6


def test_a_volume_that_was_opened_has_both_header_forms_in_millimetres(tmp_path):
    image = open_volume(write_stack(tmp_path / "a", make_hu(), make_positions(6)))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-5)
