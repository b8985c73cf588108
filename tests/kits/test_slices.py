"""Slices: cached as resizing by hand gives them, prepared once, drawn the same way by every process and worker."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandRotate90d

from common.errors import InputError
from common.kits import slices
from common.kits.cases import find_cases
from common.kits.slices import SliceDataset, prepare_slices

SIZE = (32, 24)


@pytest.fixture
def volume(phantom) -> tuple[np.ndarray, np.ndarray]:
    """Image and label (X, Y, Z) in RAS, of three different lengths."""
    return tuple(np.flip(array.transpose(2, 1, 0))[:, :48] for array in phantom)


@pytest.fixture
def write_case(write_nifti, make_affine, store):
    """Write a volume in RAS as a case stored along some axes."""

    def write(image, label, case="case_00000", axes="IPL"):
        affine = make_affine(axes, image.shape)
        pair = zip(("image", "label"), ("imaging", "segmentation"), (image, label))
        return {key: str(write_nifti(store(array, axes), f"{case}/{stem}.nii.gz", affine)) for key, stem, array in pair}

    return write


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


def error_lines(action) -> list[str]:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value).splitlines()


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.npy"))}


# The cache


def triangle_weights(size: int, new_size: int) -> np.ndarray:
    """Matrix (new_size, size) of linear interpolation, its triangles widened to the step of a smaller grid."""
    step = size / new_size
    centres = (np.arange(new_size)[:, None] + 0.5) * step
    weights = np.clip(1 - abs(np.arange(size) + 0.5 - centres) / max(step, 1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_by_hand(axial: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (triangle_weights(*pair) for pair in zip(axial.shape, size))
    return rows @ axial @ columns.T


@pytest.mark.parametrize("size", [(32, 24), (64, 48), (17, 40), (80, 96)])
@pytest.mark.parametrize("slices_at_once", [32, 5])
def test_the_cache_holds_what_resizing_by_hand_gives(volume, write_case, tmp_path, monkeypatch, size, slices_at_once):
    monkeypatch.setattr(slices, "SLICES_AT_ONCE", slices_at_once)
    image, label = volume
    (file,) = prepare_slices([write_case(*volume)], tmp_path / "cache", size)
    cached = np.load(file)
    assert (cached.dtype, cached.shape) == (np.uint8, (image.shape[2], 2, *size))
    for index, (cached_image, cached_label) in enumerate(cached):
        expected = resize_by_hand(image[..., index].clip(0, 255), size)
        np.testing.assert_allclose(cached_image, expected, atol=0.501)
        shares = np.stack([resize_by_hand(label[..., index] == value, size) for value in range(3)])
        second, first = np.sort(shares, axis=0)[1:]
        clear = first - second > 1e-3
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(cached_label[clear], shares.argmax(axis=0)[clear])
    assert set(np.unique(cached[:, 1])) == {0, 1, 2}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR", "oblique"])
def test_one_patient_stored_along_any_axes_gives_identical_slices(volume, write_case, tmp_path, axes):
    cases = [write_case(*volume, case=f"case_{stored}", axes=stored) for stored in ("IPL", axes)]
    first, second = (np.load(file) for file in prepare_slices(cases, tmp_path / "cache", SIZE))
    np.testing.assert_array_equal(first, second)
    # the check: no other orientation of the slices would do
    assert not np.array_equal(first, second[::-1])
    assert not np.array_equal(first, second[..., ::-1])
    assert not np.array_equal(first, second[..., ::-1, :])


def test_volumes_are_memory_maps_and_not_arrays(volume, write_case, tmp_path):
    cases = [write_case(*volume, case=f"case_{i}") for i in range(6)]
    data_set = SliceDataset(cases, tmp_path / "cache", SIZE)
    for i in range(0, len(data_set), 5):
        data_set[i]
    maps = data_set._map_volumes()
    assert len(maps) == 6
    for mapped in maps:
        assert type(mapped) is np.memmap
        assert (mapped.mode, mapped.dtype, mapped.shape) == ("r", np.uint8, (12, 2, *SIZE))
    held = [v for v in vars(data_set).values() if isinstance(v, (np.ndarray, torch.Tensor))]
    assert sum(v.nbytes for v in held) < maps[0].nbytes / 4


@pytest.mark.parametrize("case", ["case_00000", "scan [1] (b)"])
def test_a_second_construction_writes_nothing_and_a_changed_source_prepares_anew(volume, write_case, tmp_path, case):
    image, label = volume
    cache = tmp_path / "cache"
    data = [write_case(image, label, case)]
    prepare = lambda size=SIZE: prepare_slices(data, cache, size)[0]  # noqa: E731
    first = prepare()
    written = first.stat().st_mtime_ns
    assert prepare() == first
    assert first.stat().st_mtime_ns == written

    os.utime(data[0]["label"], ns=(1, 1))  # touched
    second = prepare()
    assert second != first
    assert list(content(cache)) == [second.name]  # the stale one is gone

    write_case(image[::-1], label[::-1], case)  # replaced
    third = prepare()
    assert list(content(cache)) == [third.name]

    other = prepare((16, 16))  # other settings: both stay, so that two trainings do not fight over one cache
    assert np.load(other).shape[2:] == (16, 16)
    assert sorted(content(cache)) == sorted([third.name, other.name])
    assert prepare() == third


def test_a_replaced_source_gives_its_new_slices(volume, write_case, tmp_path):
    image, label = volume
    (before,) = prepare_slices([write_case(image, label)], tmp_path / "cache", (64, 48))
    before = np.load(before)
    (after,) = prepare_slices([write_case(image[::-1], label[::-1])], tmp_path / "cache", (64, 48))
    np.testing.assert_array_equal(np.load(after), before[:, :, ::-1])


def test_all_bad_volumes_are_told_at_once_and_the_good_ones_cached(volume, write_case, tmp_path):
    image, label = volume
    cases = [write_case(image, label, f"case_{i}") for i in range(7)]
    Path(cases[1]["label"]).unlink()
    cut = Path(cases[2]["image"])
    cut.write_bytes(cut.read_bytes()[:3000])
    write_case(image, label * 4, "case_3")
    write_case(image.clip(0, 1) + image.clip(255, 256).astype(image.dtype), label, "case_4")  # normalized
    del cases[5]["label"]
    lines = error_lines(lambda: prepare_slices(cases, tmp_path / "cache", SIZE))
    assert len(lines) == 5
    for number in range(1, 6):
        assert sum(f"case_{number}/" in line for line in lines) == 1
    assert [name.split("-")[0] for name in content(tmp_path / "cache")] == ["case_0", "case_6"]
    assert len(prepare_slices([cases[0], cases[6]], tmp_path / "cache", SIZE)) == 2


def test_a_disk_that_is_too_small_is_told_in_one_line_before_anything_is_written(
    volume, write_case, tmp_path, monkeypatch
):
    data = [write_case(*volume)]
    needed = volume[0].shape[2] * 2 * SIZE[0] * SIZE[1]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed, 1, needed - 1))
    (line,) = error_lines(lambda: prepare_slices(data, tmp_path / "cache", SIZE))
    assert str(tmp_path / "cache") in line
    assert "free" in line
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 1, 10**9))
    prepare_slices(data, tmp_path / "cache", SIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed, needed, 0))
    prepare_slices(data, tmp_path / "cache", SIZE)  # there already: a full disk does not matter


@pytest.mark.parametrize("axes", ["IPL", "ASR"])
def test_the_size_is_logged_before_anything_is_written(volume, write_case, tmp_path, axes):
    data = [write_case(*volume, case=f"case_{i}", axes=axes) for i in range(2)]
    told = []

    class Watch(logging.Handler):
        def emit(self, record):
            told.append((record.getMessage(), len(content(tmp_path / "cache"))))

    watch, previous = Watch(), slices.logger.level
    slices.logger.addHandler(watch)
    slices.logger.setLevel(logging.INFO)
    try:
        prepare_slices(data, tmp_path / "cache", (256, 256))
        prepare_slices(data, tmp_path / "cache", (256, 256))
    finally:
        slices.logger.removeHandler(watch)
        slices.logger.setLevel(previous)
    ((message, files_then),) = told
    assert files_then == 0
    written = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.npy"))
    assert f"{written / 1e6:.1f} MB" in message
    assert f"2 volumes, {2 * volume[0].shape[2]} slices" in message


def test_two_processes_prepare_one_cache_at_once_and_every_volume_once(kits_folder, tmp_path, monkeypatch):
    cases, read = find_cases(kits_folder), slices.read_case
    context = multiprocessing.get_context("fork")
    together, reports = context.Barrier(2), context.SimpleQueue()

    def read_slowly(case):
        prepared.append(case["case"])
        time.sleep(0.2)
        return read(case)

    def prepare():
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        together.wait(timeout=60)
        files = prepare_slices(cases, tmp_path / "cache", SIZE)
        reports.put((prepared, files))

    prepared: list[str] = []  # every process fills its own
    monkeypatch.setattr(slices, "read_case", read_slowly)
    processes = [context.Process(target=prepare, daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]

    (first, files), (second, same_files) = reports.get(), reports.get()
    assert files == same_files
    assert sorted(first + second) == [case["case"] for case in cases]
    left = {file.name for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"}
    assert left == {file.name for file in files}
    prepare_slices(cases, tmp_path / "alone", SIZE)
    assert content(tmp_path / "cache") == content(tmp_path / "alone")


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
