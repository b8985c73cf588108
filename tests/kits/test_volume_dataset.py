"""The set of volumes that a 3-D training draws patches from and validates on: whole, or by a transform, and again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd, SpatialPadd

from common.kits.preprocessing import SliceGrid
from common.kits.slices import VolumeDataset

GRID = SliceGrid(factor=1, divisor=1)
KEYS, SIZE = ("image", "label"), (32, 32, 8)


@pytest.fixture
def make_set(volume, write_case, tmp_path):
    """Two patients, the second a crop of the first with fewer slices than a patch has."""
    cropped = tuple(array[:40, :32, :7] for array in volume)
    data = [write_case(*volume), write_case(*cropped, case="case_00001")]
    return lambda **arguments: VolumeDataset(data, tmp_path / "cache", GRID, **arguments)


def make_patches() -> Compose:
    crop = RandCropByPosNegLabeld(KEYS, "label", SIZE, pos=1, neg=0, num_samples=3)
    return Compose([SpatialPadd(KEYS, SIZE), crop, RandFlipd(KEYS, prob=0.5, spatial_axis=0)])


def test_without_a_transform_an_item_is_a_whole_volume_in_the_order_of_the_cases(make_set, volume):
    whole, crop = make_set()
    for key, expected in (("image", volume[0].clip(0, 255) / 255), ("label", volume[1])):
        np.testing.assert_allclose(whole[key][0, 0], expected, atol=1e-6)
        np.testing.assert_allclose(crop[key][0, 0], expected[:40, :32, :7], atol=1e-6)


def test_patches_depend_on_seed_epoch_and_index_alone(make_set, volume):
    data_set = make_set(transform=make_patches())
    drawn = {}
    for epoch in range(6):
        data_set.set_epoch(epoch)
        drawn[epoch] = list(data_set)
    for batch in sum(drawn.values(), []):
        assert all(batch[key].shape == (3, 1, *SIZE) and type(batch[key]) is torch.Tensor for key in KEYS)
        assert batch["label"].flatten(1).any(dim=1).all()
    again = make_set(transform=make_patches())
    again.set_epoch(2)
    assert all(torch.equal(again[i][key], drawn[2][i][key]) for i in (1, 0) for key in KEYS)
    assert not torch.equal(drawn[0][0]["image"], make_set(transform=make_patches(), seed=1)[0]["image"])
    # the cropped volume is padded with slices of zeros: each epoch has both, not always in one order
    padded = [[bool((b["image"].amax(dim=(0, 1, 2, 3)) == 0).any()) for b in batches] for batches in drawn.values()]
    assert all(sorted(pair) == [False, True] for pair in padded) and len({*map(tuple, padded)}) == 2
