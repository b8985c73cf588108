"""Masks: they lie where their image lies, in nibabel and in ITK, and are the same bytes whoever writes them."""

from __future__ import annotations

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from header_forms import FORMS, read_itk_affine, write_forms
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd

from common.errors import InputError
from common.kits import masks
from common.kits.masks import make_fingerprint, write_mask
from common.kits.readers import CTReader
from common.kits.saving import SaveMaskd
from common.kits.volumes import open_nifti

AXES = ["IPL", "RAS", "LPS", "ASR"]


def load_through_monai(path) -> MetaTensor:
    """A mask, 1 above 100 HU, with the metadata that it has after inference: batched, turned, and back on its grid."""
    preprocessing = Compose(
        [
            LoadImaged("image", reader=CTReader(), dtype="uint8", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=None),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": str(path)}], preprocessing), batch_size=1)
    image = batch["image"][0]
    prediction = MetaTensor((image.as_tensor() > 100).to(torch.uint8)).copy_meta_from(image)
    back = Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False)
    return back({"image": image, "pred": prediction})["pred"]


@pytest.fixture
def image(tmp_path, ct, make_affine):
    """A function that writes the CT under a header of some form, and gives its path."""

    def write(forms: str = "both", axes: str = "LPS", **options):
        affine = make_affine(axes, ct.shape)
        return write_forms(tmp_path / "image.nii.gz", ct, FORMS[forms](affine), **options)

    return write


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.filterwarnings("ignore:.*expected an sform or a qform")
def test_a_mask_lies_where_its_image_lies_in_nibabel_and_in_itk(image, ct, tmp_path, forms, axes):
    source, written = image(forms, axes), tmp_path / "mask.nii.gz"
    mask = load_through_monai(source)
    write_mask(written, mask.numpy()[0], mask.meta)

    ours, theirs = nib.load(written), nib.load(source)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), ct > 100)
    assert ours.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    for field in masks.FORMS:
        assert ours.header[field].tobytes() == theirs.header[field].tobytes(), field
    found, expected = read_itk_affine(written), read_itk_affine(source)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


def test_the_forms_differ_as_they_should_so_that_the_test_above_means_something(image):
    assert read_itk_affine(image("sheared by 5e-3, sform alone")) is None
    assert read_itk_affine(image("sheared by 5e-4 beside a qform")) is not None
    nibabels = nib.load(image("lying apart")).affine
    apart = np.diag([-1, -1, 1, 1]) @ nibabels - read_itk_affine(image("lying apart"))
    assert np.linalg.norm(apart[:3, 3]) > 30


def test_a_nifti_2_image_keeps_its_doubles_and_a_big_endian_one_its_values(image, ct, tmp_path, make_affine):
    third = make_affine("LPS", ct.shape) * np.array([[1 / 3], [1 / 3], [1 / 3], [1]])
    source = write_forms(tmp_path / "image.nii.gz", ct, (third, 1, third, 1), kind=nib.Nifti2Image)
    mask = load_through_monai(source)
    write_mask(tmp_path / "mask.nii.gz", mask.numpy()[0], mask.meta)
    assert nib.load(tmp_path / "mask.nii.gz").header["srow_x"].tobytes() == nib.load(source).header["srow_x"].tobytes()

    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(ct.dtype)
    nib.save(nib.Nifti1Image(ct, third, header), source)
    mask = load_through_monai(source)
    write_mask(tmp_path / "mask.nii.gz", mask.numpy()[0], mask.meta)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(source).affine)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), ct > 100)


def test_an_image_with_neither_form_or_with_two_orientations_is_a_warning(image, make_affine, ct, tmp_path):
    with pytest.warns(UserWarning, match=r"image\.nii\.gz: expected an sform or a qform, found neither"):
        open_nifti(image("neither"))
    mirrored = make_affine("LPS", ct.shape), 1, make_affine("RPS", ct.shape), 1
    with pytest.warns(UserWarning, match=r"image\.nii\.gz: expected one orientation, found LPS and RPS"):
        open_nifti(write_forms(tmp_path / "image.nii.gz", ct, mirrored))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for forms in FORMS.keys() - {"neither"}:
            open_nifti(image(forms))


@pytest.mark.parametrize(("unit", "name"), [(1, "metres"), (3, "micrometres")])
def test_other_units_than_millimetres_are_refused(image, unit, name):
    with pytest.raises(InputError, match=f"expected millimetres in xyzt_units, found {name}"):
        open_nifti(image(units=unit))
    for good in (0, 2, 2 + 8):
        open_nifti(image(units=good))


def test_an_image_with_an_axis_of_one_point_in_time_has_the_mask_of_its_volume(image, ct, tmp_path):
    plain = load_through_monai(image())
    for shape in ((*ct.shape, 1), (*ct.shape, 1, 1)):
        path = write_forms(tmp_path / "image.nii.gz", ct.reshape(shape), FORMS["both"](nib.load(image()).affine))
        mask = load_through_monai(path)
        np.testing.assert_array_equal(mask.numpy(), plain.numpy())
        write_mask(tmp_path / "mask.nii.gz", mask.numpy()[0], mask.meta)
        assert nib.load(tmp_path / "mask.nii.gz").shape == ct.shape


def test_the_transform_writes_the_bytes_of_the_function(image, tmp_path):
    source, weights = image(), tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    mask = load_through_monai(source)
    SaveMaskd("pred", tmp_path / "out", weights)({"pred": mask})
    sha256 = "9b3f78c1"  # another
    write_mask(tmp_path / "other.nii.gz", mask.numpy()[0], mask.meta, make_fingerprint(source, sha256))
    written, other = ((tmp_path / name).read_bytes() for name in ("out/image.nii.gz", "other.nii.gz"))
    assert written != other
    write_mask(
        tmp_path / "same.nii.gz",
        mask.numpy()[0],
        mask.meta,
        nib.load(tmp_path / "out/image.nii.gz").header["descrip"].item(),
    )
    assert (tmp_path / "same.nii.gz").read_bytes() == written
    assert gzip.decompress(written)[148:].startswith(b"kits-lite ")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("stopped")])
@pytest.mark.parametrize("before", [{}, {"image.nii.gz": b"an older result"}])
def test_a_write_that_fails_midway_leaves_what_was_there(image, tmp_path, monkeypatch, error, before):
    mask = load_through_monai(image())
    out = tmp_path / "out"
    out.mkdir()
    for name, content in before.items():
        (out / name).write_bytes(content)

    def fail(image, stream):
        stream.write(b"half a file")
        raise error

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", fail)
    with pytest.raises(type(error), match=str(error)):
        write_mask(out / "image.nii.gz", mask.numpy()[0], mask.meta)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_fingerprint_tells_files_weights_and_settings_apart(image, tmp_path):
    path = image()
    same = make_fingerprint(path, "a")
    assert make_fingerprint(path, "a", keep_largest=None) == same and len(same) <= 80
    others = [
        make_fingerprint(path, "b"),
        make_fingerprint(path, "a", keep_largest=1, mirror=False),
        make_fingerprint(path, "a", backend=("x",)),
    ]
    path.write_bytes(path.read_bytes() + b"more")
    assert len({same, *others, make_fingerprint(path, "a")}) == 5
    path.unlink()
    with pytest.raises(InputError, match="expected an image, found none"):
        make_fingerprint(path, "a")
