"""The set of slices: what an epoch holds, drawn the same way by every process and worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandRotate90d
from refusals import error_lines

from common.kits.slices import SliceDataset


@pytest.fixture
def write_labelled_slices(write_case):
    """A case of 8 x 8 slices; slice i has the HU 10 * i and a kidney where `foreground` says so."""

    def write(foreground, case="case_00000"):
        image = np.full((8, 8, len(foreground)), -500, np.int16)
        image[1:] = 10 * np.arange(len(foreground))
        label = np.zeros(image.shape, np.uint8)
        label[3:5, 3:5] = foreground
        return write_case(image, label, case)

    return write


# What an epoch holds


@pytest.mark.parametrize(
    "foreground_share, others",
    [(1, 0), (0.8, 1), (0.75, 1), (2 / 3, 2), (0.5, 4), (0.4, 6), (0.25, 8), (0.01, 8)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_decides_how_many_other_slices_join(write_labelled_slices, tmp_path, foreground_share, others, seed):
    foreground = [0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 2, 0]
    data_set = SliceDataset(
        [write_labelled_slices(foreground)], tmp_path, (8, 8), foreground_share=foreground_share, seed=seed
    )
    drawn = sorted(round(item["image"].max().item() * 25.5) for item in data_set)
    assert len(data_set) == 4 + others
    assert len(set(drawn)) == len(drawn)
    assert {i for i, value in enumerate(foreground) if value} <= set(drawn)
    assert sum(item["label"].any().item() for item in data_set) == 4


def test_without_a_share_every_slice_comes_once_and_in_order(write_labelled_slices, tmp_path):
    cases = [write_labelled_slices([0, 1, 0]), write_labelled_slices([0, 0, 0, 2], "case_00001")]
    data_set = SliceDataset(cases, tmp_path, (8, 8), foreground_share=None)
    assert [round(item["image"].max().item() * 25.5) for item in data_set] == [0, 1, 2, 0, 1, 2, 3]
    assert [int(item["label"].max()) for item in data_set] == [0, 1, 0, 0, 0, 0, 2]
    before = data_set.indices.tolist()
    data_set.set_epoch(5)
    assert data_set.indices.tolist() == before


def test_an_item_is_image_and_label_of_one_slice(volume, write_case, tmp_path):
    data_set = SliceDataset([write_case(*volume)], tmp_path / "cache", (64, 48), foreground_share=None)
    assert data_set.case_names == ["case_00000"]
    for index, item in enumerate(data_set):
        assert {key: (value.dtype, tuple(value.shape)) for key, value in item.items()} == {
            "image": (torch.float32, (1, 64, 48)),
            "label": (torch.float32, (1, 64, 48)),
        }
        np.testing.assert_allclose(item["image"][0], volume[0][..., index].clip(0, 255) / 255, atol=1e-6)
        np.testing.assert_array_equal(item["label"][0], volume[1][..., index])


def test_every_epoch_draws_other_slices_and_the_same_epoch_the_same(write_labelled_slices, tmp_path):
    case = write_labelled_slices([0] * 30 + [1] * 5)

    def draw(seed, epoch):
        data_set = SliceDataset([case], tmp_path, (8, 8), foreground_share=0.5, seed=seed)
        data_set.set_epoch(epoch + 1)
        data_set.set_epoch(epoch)
        assert len(data_set) == 10
        return tuple(sorted(data_set.indices.tolist()))

    draws = {(seed, epoch): draw(seed, epoch) for seed in range(3) for epoch in range(4)}
    assert len(set(draws.values())) == len(draws)
    assert all(drawn[-5:] == tuple(range(30, 35)) for drawn in draws.values())
    assert all(draw(*key) == drawn for key, drawn in draws.items())


# What an index gives


def random_transform() -> Compose:
    keys = ("image", "label")
    return Compose(
        [
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandRotate90d(keys, prob=0.5),
            RandGaussianNoised("image", prob=0.9, std=0.1),
        ]
    )


@pytest.fixture
def make_set(volume, write_case, tmp_path):
    """A set of two patients with a random transform."""
    data = [write_case(*volume), write_case(*(array[::-1] for array in volume), case="case_00001")]

    def make(seed=0, transform=True, spatial_size=(16, 16)):
        transform = random_transform() if transform is True else transform
        return SliceDataset(data, tmp_path / "cache", spatial_size, transform=transform, seed=seed)

    return make


def images(data_set, order=None) -> np.ndarray:
    """Items by index, fetched in some order."""
    found = {i: data_set[i]["image"].numpy() for i in (range(len(data_set)) if order is None else order)}
    return np.stack([found[i] for i in sorted(found)])


def test_an_item_depends_on_seed_epoch_and_index_alone(make_set):
    expected = images(make_set())
    np.testing.assert_array_equal(images(make_set()), expected)
    again = make_set()
    again.set_epoch(3)
    images(again)  # what was asked before does not matter
    np.random.seed(7)
    torch.manual_seed(7)
    again.set_epoch(0)
    backwards = range(len(again) - 1, -1, -1)
    np.testing.assert_array_equal(images(again, backwards), expected)


def test_another_epoch_or_seed_changes_items_with_kidney_too(make_set):
    data_set = make_set()
    always = len(data_set.foreground)
    first = images(data_set)[:always]
    data_set.set_epoch(1)
    other_epoch = images(data_set)[:always]
    for other in (other_epoch, images(make_set(seed=1))[:always]):
        assert np.mean([not np.array_equal(a, b) for a, b in zip(first, other)]) > 0.9


def test_image_and_label_are_transformed_alike(make_set):
    plain, turned = make_set(transform=None), make_set(transform=RandFlipd(("image", "label"), prob=1, spatial_axis=1))
    for index in range(len(plain)):
        for key in ("image", "label"):
            np.testing.assert_array_equal(turned[index][key], plain[index][key].flip(2))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_number_of_workers_gives_the_same_batches(make_set, num_workers):
    for epoch in range(2):
        data_set = make_set()
        data_set.set_epoch(epoch)
        expected = images(data_set)
        loader = DataLoader(data_set, batch_size=4, num_workers=num_workers)
        batches = [np.asarray(batch["image"]) for batch in loader]
        np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_pickling_copies_no_voxels(make_set):
    data_set = make_set(transform=None, spatial_size=(64, 64))
    expected = images(data_set)
    pickled = pickle.dumps(data_set)
    assert len(pickled) < sum(file.stat().st_size for file in data_set.files) / 50
    assert data_set.volumes is not None  # and leaves the original as it was
    np.testing.assert_array_equal(images(pickle.loads(pickled)), expected)


# What it refuses


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_outside_0_and_1_is_refused_before_anything_is_prepared(write_labelled_slices, tmp_path, share):
    data = [write_labelled_slices([0, 1])]
    (line,) = error_lines(lambda: SliceDataset(data, tmp_path / "cache", (8, 8), foreground_share=share))
    assert line.startswith("foreground_share: ")
    assert f"found {share}" in line
    assert not (tmp_path / "cache").exists()


def test_no_cases_and_cases_without_kidney_or_tumour_are_refused(write_labelled_slices, tmp_path):
    (line,) = error_lines(lambda: SliceDataset([], tmp_path / "cache"))
    assert "found none" in line
    data = [write_labelled_slices([0, 0, 0])]
    (line,) = error_lines(lambda: SliceDataset(data, tmp_path / "cache", (8, 8)))
    assert "kidney or tumour" in line
