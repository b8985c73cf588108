"""Real KiTS19 slices, where they are at hand: KITS_SLICES, or shared/kits19-slices beside the repository."""

from __future__ import annotations

from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import DATA, POCKET, ROOT, SLICES, needs_data, needs_slices

from common.app.segmenter import Segmenter
from common.kits.cases import find_cases, read_case
from common.kits.metrics import score_case
from common.kits.preprocessing import SliceGrid, orient_to_ras
from common.kits.slices import SliceDataset
from common.runtimes.scans import ScanSegmenter

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


@pytest.mark.slow
@needs_data
def test_fast_does_on_the_scan_what_the_page_says(monkeypatch):
    (case,) = find_cases(DATA[2])
    label = np.asarray(nib.load(case["label"]).dataobj)
    spacing_mm = nib.load(case["image"]).header.get_zooms()
    exact, told = None, []
    for name, fast in (("every slice", False), ("`--fast`, every 5th first", True)):
        segmenter = ScanSegmenter(ROOT / "bundles" / POCKET, "onnxruntime", fast=fast)
        compute = Mock(wraps=segmenter.network.compute)
        monkeypatch.setattr(segmenter.network, "compute", compute)
        found = segmenter.segment(case).label_map
        exact = found if exact is None else exact
        seen = sum(len(call.args[0]) for call in compute.call_args_list)
        dice = score_case(found, label, spacing_mm)
        lost_ml = np.prod(spacing_mm) / 1000 * ((exact > 0) & (found == 0) & (label > 0)).sum()
        told.append(f"| {name} | {seen} | {dice['kidney_dice']:.3f} | {dice['tumor_dice']:.3f} | {lost_ml:.1f} |")
    page = (ROOT / "docs/how_to/speed.md").read_text(encoding="utf-8")
    assert [line for line in told if line not in page] == []
