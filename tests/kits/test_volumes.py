"""Volumes: read as numpy reads the whole array, refused in one line where damaged, written whole or not at all."""

from __future__ import annotations

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest

from common.errors import InputError
from common.kits import volumes
from common.kits.volumes import (
    describe_range_problem,
    open_nifti,
    read_ct,
    read_label,
)

ONE_SLICE, THREE_SLICES = 1, 3 * 64 * 64 * 2  # bytes a slab: of a (64, 64, 12) volume of two bytes
ORIENTATIONS = ["IPL", "RAS", "LPS", "oblique"]


def error_line(action, path) -> str:
    """The message of the InputError that an action raises: one line that names the path."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def window(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


# Reading CT


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE, THREE_SLICES])
@pytest.mark.parametrize(
    "dtype, slope, inter",
    [
        (np.int16, None, 0),
        (np.int16, 2.0, -1024),
        (np.uint16, 1.0, -1024),
        (np.uint8, 0.37, -20.5),
        (np.int32, None, 0),
        (np.float32, None, 0),
        (np.float64, None, 0),
        (np.dtype(">i2"), None, 0),
    ],
)
def test_a_ct_is_the_clipped_and_rounded_array(write_nifti, ct, monkeypatch, dtype, slope, inter, slab_bytes, suffix):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    kind = np.dtype(dtype)
    stored = ct + 0.25 if kind.kind == "f" else ct.clip(0, 250) if kind.itemsize == 1 else ct
    if kind == np.uint16:
        stored = ct.astype(int) + 1024
    path = write_nifti(stored.astype(dtype), f"ct{suffix}", slope=slope, inter=inter)
    whole = np.asanyarray(nib.load(path).dataobj)

    windowed, (lowest, highest) = read_ct(open_nifti(path))

    assert windowed.dtype == np.uint8
    np.testing.assert_array_equal(windowed, window(whole))
    assert (lowest, highest) == (whole.min(), whole.max())
    assert windowed.min() < windowed.max()


def test_hounsfield_units_are_clipped_to_0_and_255_and_rounded(write_nifti):
    hu = [-1024, -0.6, 0, 0.4, 0.6, 1.5, 254.4, 254.6, 255, 255.4, 300, 3071]
    path = write_nifti(np.array(hu, np.float32).reshape(3, 2, 2))
    windowed, values = read_ct(open_nifti(path))
    assert windowed.ravel().tolist() == [0, 0, 0, 0, 1, 2, 254, 255, 255, 255, 255, 255]
    assert values == (-1024, 3071)


def test_slope_and_intercept_of_the_header_are_applied(write_nifti):
    path = write_nifti(np.arange(8, dtype=np.int16).reshape(2, 2, 2), slope=10.0, inter=-30.0)
    assert read_ct(open_nifti(path))[0].ravel().tolist() == [0, 0, 0, 0, 10, 20, 30, 40]


def test_slabs_cover_every_slice_once_and_hold_no_more_than_they_may(write_nifti, ct, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_BYTES", 5 * 64 * 64 * 2)
    slabs = list(volumes.iterate_slabs(open_nifti(write_nifti(ct))))
    assert [(where.start, where.stop) for where, _ in slabs] == [(0, 5), (5, 10), (10, 12)]
    np.testing.assert_array_equal(np.concatenate([slab for _, slab in slabs], axis=2), ct)


def test_a_constant_bright_volume_is_read_without_a_warning(write_nifti):
    path = write_nifti(np.full((4, 4, 4), 30000, np.int16))  # whose lowest plus highest value overflow int16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_ct(open_nifti(path))[1] == (30000, 30000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 5, 11])
@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE])
def test_one_voxel_that_is_not_finite_is_refused_in_any_slab(write_nifti, ct, monkeypatch, value, where, slab_bytes):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    image = ct.astype(np.float32)
    path = write_nifti(image, "finite.nii.gz")
    read_ct(open_nifti(path))
    image[7, 8, where] = value
    path = write_nifti(image)
    assert "NaN or infinity" in error_line(lambda: read_ct(open_nifti(path)), path)


# Damaged files


@pytest.mark.parametrize("read", [read_ct, read_label])
@pytest.mark.parametrize("keep", [0, 5, 60, 0.25, 0.5, 0.9, -9, -8, -4, -1])
def test_a_gzip_file_cut_at_any_length_is_refused(write_nifti, label, read, keep):
    path = write_nifti(label)
    read(open_nifti(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    error_line(lambda: read(open_nifti(path)), path)


@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE])
@pytest.mark.parametrize("keep", [0, 100, 352, 0.5, -1])
def test_an_uncompressed_file_cut_at_any_length_is_refused(write_nifti, ct, monkeypatch, keep, slab_bytes):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    path = write_nifti(ct, "volume.nii")
    read_ct(open_nifti(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    error_line(lambda: read_ct(open_nifti(path)), path)


@pytest.mark.parametrize("level", [0, 6])  # level 0 stores the bytes plainly: only the checksum can tell
@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE])
def test_a_gzip_file_with_one_flipped_byte_is_refused(write_nifti, ct, monkeypatch, level, slab_bytes):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    path = write_nifti(ct)
    packed = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), level))
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_ct(open_nifti(path))[0], window(ct))
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    error_line(lambda: read_ct(open_nifti(path)), path)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.int16),
        np.zeros((4, 4, 4, 2), np.int16),
        np.zeros((4, 4, 4), RGB),
        np.zeros((4, 4, 4), np.complex64),
    ],
    ids=["2-D", "4-D", "colour", "complex"],
)
@pytest.mark.parametrize("read", [read_ct, read_label])
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_an_image_that_is_no_volume_of_real_numbers_is_refused(write_nifti, array, read):
    path = write_nifti(array)
    error_line(lambda: read(open_nifti(path)), path)


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, np.nan), (np.inf, 0, 0, 0)])
def test_an_affine_that_cannot_be_inverted_is_refused(write_nifti, row):
    path = write_nifti(np.zeros((4, 4, 4), np.int16), "volume.nii", affine=np.eye(4))
    file = bytearray(path.read_bytes())
    srow_x = slice(280, 296)  # of the header: the first row of the affine
    assert np.frombuffer(file[srow_x], np.float32).tolist() == [1, 0, 0, 0]
    file[srow_x] = np.array(row, np.float32).tobytes()
    path.write_bytes(file)
    assert "expected an invertible affine" in error_line(lambda: open_nifti(path), path)


@pytest.mark.parametrize("name", ["notes.nii", "notes.nii.gz", "notes.txt"])
def test_a_text_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("not a volume\n" * 100)
    error_line(lambda: open_nifti(path), path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    for name in ("absent.nii.gz", "folder.nii.gz"):
        assert "found none" in error_line(lambda name=name: open_nifti(tmp_path / name), tmp_path / name)


# Labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE])
def test_a_label_map_is_read_as_it_is_and_a_cyst_as_kidney(write_nifti, label, monkeypatch, dtype, slab_bytes):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    with_cyst = label.astype(dtype)
    with_cyst[20:24, 20:24, 5] = 3
    expected = label.copy()
    expected[20:24, 20:24, 5] = 1
    found = read_label(open_nifti(write_nifti(with_cyst)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize("value", [7, 4, -1, 0.5, 2.002, np.nan])
@pytest.mark.parametrize("slab_bytes", [32 * 2**20, ONE_SLICE])
def test_any_other_label_is_refused_and_named(write_nifti, label, monkeypatch, value, slab_bytes):
    monkeypatch.setattr(volumes, "SLAB_BYTES", slab_bytes)
    wrong = label.astype(np.float32)
    wrong[0, 0, -1] = value
    path = write_nifti(wrong)
    assert f"found {value:g}" in error_line(lambda: read_label(open_nifti(path)), path)


# The range of values


@pytest.mark.parametrize(
    "lowest, highest, problem",
    [
        (-1024, 3071, ""),
        (-2048, 1500, ""),
        (-200, 200, ""),
        (0, 255, ""),  # slices that were clipped already
        (0, 1500, "MR"),
        (0, 4095, "rescale intercept"),
        (0, 1, "normalized"),
        (-1, 1, "normalized"),
        (0, 0, "constant"),
        (-1000, -1000, "constant"),
        (-1e6, 3071, "expected Hounsfield units"),
        (-1024, 1e6, "expected Hounsfield units"),
    ],
)
def test_a_range_that_no_ct_has_is_described(lowest, highest, problem):
    found = describe_range_problem(lowest, highest)
    assert bool(found) == bool(problem)
    assert problem in found
    if problem:
        assert f"{lowest:g} to {highest:g}" in found
