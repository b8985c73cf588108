"""Random volumes have the clean volume's mask in the patient; random damage raises nothing but InputError."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from corpus import AFFINE, CT, store
from dicom_corpus import stack
from dicom_files import write_stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine

from common.errors import InputError
from common.kits.cases import find_cases, read_split
from common.kits.masks import write_mask
from common.kits.readers import CTReader
from common.kits.volumes import open_volume, read_ct, read_label

# the same examples every time, for as long as they take; a file is made for each
STEADY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
AXES = [
    a + b + c
    for a in "RLAPSI"
    for b in "RLAPSI"
    for c in "RLAPSI"
    if len({"RLAPSI".index(x) // 2 for x in (a, b, c)}) == 3
]
TYPES = st.sampled_from(["i2", "i4", "i8", "f4", "f8"])


def test_all_48_ways_to_store_a_volume_are_tried():
    assert len(AXES) == 48


@STEADY
@given(
    axes=st.sampled_from(AXES),
    dtype=TYPES,
    endianness=st.sampled_from("<>"),
    slope=st.sampled_from([None, 0.5, 2.0**-5]),
    forms=st.sampled_from([(1, 1), (2, 0), (0, 1), (4, 3), (1, 2)]),
    member=st.integers(200, 20000),
    level=st.integers(0, 9),
    nifti=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    extra=st.integers(0, 2),
)
@pytest.mark.filterwarnings("ignore")
def test_a_mask_lies_in_the_patient_however_its_image_is_stored(
    tmp_path, axes, dtype, endianness, slope, forms, member, level, nifti, extra
):
    voxels, affine = store(axes)
    header = nifti.header_class(endianness=endianness)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
    stored = (voxels / (slope or 1)).astype(dtype).reshape(voxels.shape + (1,) * extra)
    image = nifti(stored, None, header)
    image.set_qform(affine, max(1, forms[1]))
    image.set_sform(affine, max(1, forms[0]))
    image.header["sform_code"], image.header["qform_code"] = forms
    if slope:
        image.header.set_slope_inter(slope, 0)
    plain = image.to_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"".join(gzip.compress(plain[i : i + member], level) for i in range(0, len(plain), member)))

    reader = CTReader()
    reader.read(str(path))
    windowed, meta = reader.get_data(path)
    mask = (windowed > 100).astype(np.uint8) + (windowed > 200)
    write_mask(tmp_path / "mask.nii.gz", mask, meta)
    written = nib.load(tmp_path / "mask.nii.gz")
    indices = np.argwhere(np.ones(CT.shape, bool))
    there = np.rint(apply_affine(np.linalg.inv(written.affine) @ AFFINE, indices)).astype(int)
    expected = (CT > 100).astype(np.uint8) + (CT > 200)
    np.testing.assert_array_equal(np.asarray(written.dataobj)[tuple(there.T)], expected[tuple(indices.T)])


def read_all(path: Path) -> None:
    """Read a file in every way; the only error that may come is ours, in one line that names the file."""
    for read in (read_ct, read_label):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(open_volume(path))
            except InputError as error:
                assert str(path.parent) in str(error) and "\n" not in str(error)


@settings(STEADY, max_examples=300)
@given(where=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_header_of_nifti_is_more_than_one_line(tmp_path, where):
    small = nib.Nifti1Image(CT[:8, :8, :4], AFFINE)
    content = bytearray(small.to_bytes())
    for place, value in where:
        content[place] = value
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    read_all(path)


@settings(STEADY, max_examples=150)
@given(data=st.data())
def test_no_damaged_gzip_is_more_than_one_line(tmp_path, data):
    content = bytearray(gzip.compress(nib.Nifti1Image(CT[:8, :8, :4], AFFINE).to_bytes()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    read_all(path)


@settings(STEADY, max_examples=100)
@given(data=st.data())
def test_no_damaged_dicom_is_more_than_one_line(tmp_path, data):
    hu, positions, tags = stack()
    folder = write_stack(tmp_path / "series", hu[:3, :8, :8], positions[:3], **tags)
    file = folder / "001.dcm"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    read_all(folder)


@settings(STEADY, max_examples=100)
@given(header=st.text(max_size=200), magic=st.sampled_from(["NRRD0004\n", "ObjectType = Image\nNDims = 3\n", ""]))
def test_no_text_as_nrrd_or_metaimage_is_more_than_one_line(tmp_path, header, magic):
    for suffix in (".nrrd", ".mha"):
        path = tmp_path / f"scan{suffix}"
        path.write_text(magic + header, encoding="utf-8")
        read_all(path)


PLAIN = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8)
SPLITS = st.builds(lambda *sides: json.dumps(dict(zip(("training", "validation"), sides))).encode(), JSON, JSON)


@settings(STEADY, max_examples=200)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | SPLITS)
def test_no_split_file_is_more_than_one_line(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_bytes(content)
    try:
        read_split(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@settings(STEADY, max_examples=100)
@given(name=st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=30))
def test_a_file_of_any_name_is_a_case_of_that_name(tmp_path, name):
    folder = tmp_path / "scans"
    folder.mkdir(exist_ok=True)
    path = folder / f"x{name}.nii.gz"
    path.touch()
    (case,) = find_cases(folder)
    assert case == {"case": f"x{name}", "image": str(path)}
    path.unlink()
