"""The set of whole slices that a training validates on: every slice once, in order, in batches of one volume."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from refusals import error_lines
from torch.utils.data import DataLoader

from common.kits.preprocessing import SliceGrid
from common.kits.slices import SliceDataset

GRID = SliceGrid(factor=1, divisor=1)


@pytest.fixture
def make_set(volume, write_case, tmp_path):
    """Two patients, the second a crop of the first."""
    cropped = tuple(array[:40, :32, :7] for array in volume)
    data = [write_case(*volume), write_case(*cropped, case="case_00001")]
    return lambda grid=GRID, batch_size=5: SliceDataset(data, tmp_path / "cache", grid, batch_size=batch_size)


@pytest.mark.parametrize("batch_size, sizes", [(1, [1] * 19), (5, [5, 5, 2, 5, 2]), (99, [12, 7])])
def test_batches_hold_every_slice_once_in_order_and_end_where_a_volume_ends(make_set, volume, batch_size, sizes):
    data_set = make_set(batch_size=batch_size)
    assert data_set.case_names == ["case_00000", "case_00001"]
    batches = [data_set[i] for i in range(len(data_set))]
    assert [len(batch["image"]) for batch in batches] == sizes
    for key, expected in (("image", volume[0].clip(0, 255) / 255), ("label", volume[1])):
        assert all(batch[key].dtype == torch.float32 for batch in batches)
        whole = np.concatenate([b[key][:, 0] for b in batches if b[key].shape[2:] == (64, 48)])
        np.testing.assert_allclose(whole, np.moveaxis(expected, 2, 0), atol=1e-6)
        crop = np.concatenate([b[key][:, 0] for b in batches if b[key].shape[2:] == (40, 32)])
        np.testing.assert_allclose(crop, np.moveaxis(expected[:40, :32, :7], 2, 0), atol=1e-6)


def test_zeros_at_the_end_make_sizes_divisible(make_set):
    for plain, padded in zip(make_set(), make_set(SliceGrid(factor=1, divisor=48))):
        for key in ("image", "label"):
            height, width = plain[key].shape[2:]
            assert padded[key].shape[2:] == (-(-height // 48) * 48, -(-width // 48) * 48)
            assert torch.equal(padded[key][..., :height, :width], plain[key])
            assert padded[key].count_nonzero() == plain[key].count_nonzero()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_number_of_workers_gives_the_same_batches(make_set, num_workers):
    data_set = make_set()
    loaded = DataLoader(data_set, batch_size=None, num_workers=num_workers)
    for expected, batch in zip(data_set, loaded, strict=True):
        assert all(torch.equal(batch[key], expected[key]) for key in ("image", "label"))


def test_pickling_copies_no_voxels(make_set):
    data_set = make_set()
    pickled = pickle.dumps(data_set)
    assert len(pickled) < sum(file.stat().st_size for file in data_set.files) / 20
    assert data_set.volumes is not None  # and leaves the original as it was
    assert torch.equal(pickle.loads(pickled)[1]["image"], data_set[1]["image"])


def test_no_cases_are_refused(tmp_path):
    (line,) = error_lines(lambda: SliceDataset([], tmp_path / "cache", GRID))
    assert "found none" in line
