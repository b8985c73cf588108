"""What is found about the values of a CT: nothing on a whole one, and what was done to it where something was."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import DATA, needs_data
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from common.kits.cases import find_cases
from common.kits.hu_findings import find_hu_problems
from common.kits.volumes import open_volume


@pytest.fixture
def body() -> np.ndarray:
    """Air, a ring of fat, soft tissue within it and two kidneys, with noise: HU (96, 80, 6)."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 80), indexing="ij")
    axial = np.full((96, 80), -1000.0)
    for radius, hu in ((0.85, -100), (0.7, 50)):
        axial[x**2 + y**2 < radius**2] = hu
    for centre in (-0.35, 0.35):
        axial[(x - centre) ** 2 + (y + 0.2) ** 2 < 0.15**2] = 180
    return axial[..., None] + generator.normal(0, 12, (96, 80, 6))


def find(volume: np.ndarray, axes: str = "RAS") -> list[str]:
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    affine = np.diag([1.0, 1.0, 3.0, 1.0]) @ inv_ornt_aff(turn, volume.shape)
    return find_hu_problems(nib.Nifti1Image(apply_orientation(volume, turn).astype(np.float32), affine))


@pytest.mark.parametrize("axes", ["RAS", "IPL", "ASR"])
def test_nothing_is_found_on_a_whole_ct_in_any_orientation(body, axes):
    assert find(body, axes) == []
    assert find(np.where(body > -500, body, -500), axes) == []  # cut far below what networks look at


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda hu: hu.clip(0, 255), "values below 0 HU are cut: "),
        (lambda hu: hu.clip(-1000, 160), "values above 160 HU are cut: "),
        (lambda hu: -hu, "gray values look inverted"),
        (lambda hu: hu * 2 + 100, "no peak of soft tissue from 0 to 120 HU, found peaks at"),
        (lambda hu: np.where(hu > -500, hu * 0.5, hu), "no peak of fat from -140 to -60 HU, found peaks at"),
        (lambda hu: hu[30:66, 28:52], "slices look cut out of larger ones"),
    ],
    ids=["saturated below", "saturated above", "inverted", "rescaled", "half the contrast", "a crop"],
)
@pytest.mark.parametrize("axes", ["RAS", "IPL"])
def test_what_was_done_to_a_ct_is_named(body, change, words, axes):
    found = find(change(body), axes)
    assert any(line.startswith(words) for line in found), found


@needs_data
def test_a_real_scan_is_good_and_real_crops_and_narrow_windows_are_named():
    crops, slices, scan = (find_cases(folder) for folder in DATA)
    assert find_hu_problems(open_volume(scan[0]["image"])) == []
    assert all("are cut" in " ".join(find_hu_problems(open_volume(case["image"]))) for case in slices[:5])
    named = ["larger ones" in " ".join(find_hu_problems(open_volume(case["image"]))) for case in crops[:20]]
    assert any(named)
