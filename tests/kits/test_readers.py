"""MONAI's readers: the file's values, affine and name come through."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, LoadImaged

from common.errors import find_input_error
from common.kits.readers import CTReader, LabelReader
from common.kits.volumes import open_nifti, read_ct, read_label

ORIENTATIONS = ["IPL", "RAS", "LPS", "oblique"]


def load(reader, path):
    return LoadImaged("image", reader=reader, dtype="uint8", ensure_channel_first=True)({"image": str(path)})["image"]


@pytest.mark.parametrize("axes", ORIENTATIONS)
@pytest.mark.parametrize("reader, read", [(CTReader, lambda i: read_ct(i)[0]), (LabelReader, read_label)])
def test_a_reader_gives_the_values_affine_and_name_of_the_file(write_nifti, phantom, make_affine, axes, reader, read):
    array = phantom[0 if reader is CTReader else 1]
    path = write_nifti(array, affine=make_affine(axes))
    loaded = load(reader(), path)
    assert (loaded.dtype, tuple(loaded.shape)) == (torch.uint8, (1, *array.shape))
    np.testing.assert_array_equal(loaded.numpy()[0], read(open_nifti(path)))
    np.testing.assert_allclose(loaded.affine.numpy(), make_affine(axes), atol=1e-4)
    assert loaded.meta["filename_or_obj"] == str(path)


def test_one_reader_reads_many_files(write_nifti, ct):
    reader = CTReader()
    paths = [write_nifti(ct + 10 * i, f"{i}.nii.gz") for i in range(3)]
    for path in paths:
        loaded = load(reader, path)
        np.testing.assert_array_equal(loaded.numpy()[0], read_ct(open_nifti(path))[0])
        assert loaded.meta["filename_or_obj"] == str(path)


def test_the_reader_warns_of_an_image_that_looks_like_mr_and_of_no_ct(write_nifti, ct):
    mr = write_nifti((ct.astype(int) + 1024).astype(np.int16), "mr.nii.gz")
    with pytest.warns(UserWarning, match=r"mr\.nii\.gz: expected Hounsfield units.*MR"):
        load(CTReader(), mr)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?!NvImgCodec)", category=UserWarning)
        load(CTReader(), write_nifti(ct, "ct.nii.gz"))


@pytest.mark.parametrize("reader", [CTReader, LabelReader])
@pytest.mark.parametrize("fault", ["cut", "absent", "2-D"])
def test_what_is_wrong_with_a_file_reaches_the_caller_as_an_input_error(write_nifti, label, reader, fault):
    path = write_nifti(label[..., 0] if fault == "2-D" else label)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    if fault == "absent":
        path.unlink()
    chain = Compose([LoadImaged("image", reader=reader(), dtype="uint8", ensure_channel_first=True)])
    with pytest.raises(Exception) as caught:  # noqa: B017  MONAI wraps it in whatever it likes
        Dataset([{"image": str(path)}], chain)[0]
    found = find_input_error(caught.value)
    assert found is not None
    assert str(path) in str(found)
