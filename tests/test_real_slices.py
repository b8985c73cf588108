"""Real KiTS19 slices, where they are at hand: KITS_SLICES, or shared/kits19-slices beside the repository."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from bundle_runs import SLICES, needs_slices

from common.app.segmenter import Segmenter
from common.kits.cases import find_cases, read_case
from common.kits.preprocessing import SliceGrid, orient_to_ras
from common.kits.slices import SliceDataset

pytestmark = needs_slices


def test_all_cases_pass_the_check_and_hold_66_labelled_slices():
    cases = find_cases(SLICES, labelled=True)
    assert len(cases) == 28
    for case in cases:
        image, label, affine = read_case(case)
        assert image.max() > 0 and label.any() and nib.aff2axcodes(affine) == ("I", "P", "L")


def test_every_slice_is_prepared_upright(tmp_path):
    cases = find_cases(SLICES, labelled=True)
    dataset = SliceDataset(cases, tmp_path, SliceGrid((256, 256)), batch_size=1)
    assert len(dataset) == 66
    # the spine, the brightest bone, lies behind the middle of the body in RAS
    images = np.stack([dataset[i]["image"].numpy()[0, 0] for i in range(66)])
    bright = (images > 0.9).mean(axis=(0, 1))
    assert bright[:128].sum() > 1.5 * bright[128:].sum()


def test_a_slice_that_is_not_square_comes_back_on_its_own_grid(weighted_bundle):
    case = next(case for case in find_cases(SLICES) if case["case"] == "case_00160")
    source = nib.load(case["image"])
    assert 796 in source.shape
    segmentation = Segmenter(weighted_bundle, backend="torch").segment(case)
    assert segmentation.label_map.shape == source.shape
    assert np.allclose(segmentation.affine, source.affine)
    assert np.array_equal(orient_to_ras(segmentation.label_map, source.affine), segmentation.prediction)
