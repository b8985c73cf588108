"""`Segmenter` called from Python: whatever holds the image, the label map is that of its file."""

from __future__ import annotations

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import POCKET, read

import common
from common.app.segmenter import Segmentation, Segmenter
from common.errors import InputError


@pytest.fixture
def scan(cases):
    return cases / "scan0_synthetic.nii.gz"


@pytest.fixture
def segmenter(weighted_bundle) -> Segmenter:
    return Segmenter(weighted_bundle, backend="torch")


def test_paths_images_and_arrays_give_the_label_map_of_the_file(segmenter, scan):
    expected = segmenter.segment({"image": str(scan)})
    assert expected.label_map.any()
    image = nib.load(scan)
    for given in (
        segmenter(scan),
        segmenter(str(scan)),
        segmenter(image),
        segmenter(itk.imread(str(scan))),
        segmenter(image.get_fdata(), image.affine),
        segmenter(np.asarray(image.dataobj).astype(np.int64), image.affine),
    ):
        assert np.array_equal(given.label_map, expected.label_map)
        assert np.allclose(given.affine, expected.affine, atol=1e-4)


def test_what_is_saved_is_the_label_map_on_the_scan_s_grid(segmenter, scan, tmp_path):
    segmentation = segmenter(scan)
    segmentation.save(tmp_path / "mask.nii.gz")
    assert np.array_equal(read(tmp_path / "mask.nii.gz"), segmentation.label_map)
    assert np.allclose(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(scan).affine)
    assert read(tmp_path / "mask.nii.gz").dtype == np.uint8


def test_volumes_are_voxels_times_their_size():
    label_map = np.zeros((4, 5, 6), np.uint8)
    label_map[:2, 0, 0], label_map[0, 1, :3] = 1, 2
    affine = np.diag([-2.0, 3.0, 5.0, 1.0])
    volumes = Segmentation(label_map, label_map, (2, 3, 5), label_map, affine, {}).volumes_ml
    assert volumes == pytest.approx({"kidney": 2 * 0.03, "tumor": 3 * 0.03})


@pytest.mark.parametrize(
    ("image", "affine", "words"),
    [
        (np.zeros((8, 8, 8)), None, r"affine: expected \(4, 4\) with an array, found none"),
        (np.zeros((8, 8, 8)), np.eye(3), r"affine: expected \(4, 4\) with an array, found shape \(3, 3\)"),
        (np.zeros((8, 8)), np.eye(4), "image: expected a 3-D image"),
        (np.full((8, 8, 8), np.nan), np.eye(4), "image: expected finite Hounsfield units"),
        ([1, 2], None, "image: expected a path, an image of nibabel or ITK, or an array, found list"),
    ],
)
def test_a_bad_image_in_memory_is_one_line(image, affine, words, segmenter):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        segmenter(image, affine)
    error = common.errors.find_input_error(caught.value)
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=words):
        raise error


def test_a_name_of_no_known_format_is_refused(segmenter, scan, tmp_path):
    words = "mask.png: expected a name that ends in .nii.gz, .nii, .seg.nrrd, .dcm, found another"
    with pytest.raises(InputError, match=words):
        segmenter(scan).save(tmp_path / "mask.png")
    assert not (tmp_path / "mask.png").exists()


def test_the_scan_itself_is_never_written(segmenter, scan):
    before = scan.read_bytes()
    with pytest.raises(InputError, match="scan0_synthetic.nii.gz: expected another file than the image"):
        segmenter(scan).save(scan)
    assert scan.read_bytes() == before


def test_load_gives_the_network_with_the_weights_that_ship():
    network = common.load(POCKET)
    assert type(network) is common.LiteUNet and not network.training
    weights = torch.load(common.bundle_folder.find_bundle(POCKET) / "models/model.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_there_is_nothing_else_in_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'Segmentor'"):
        common.Segmentor  # noqa: B018
