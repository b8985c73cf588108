"""The cache of slices: as resizing by hand gives them, prepared once, whole or told why not."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import error_lines

from common.kits import slices
from common.kits.cases import find_cases
from common.kits.preprocessing import SliceGrid
from common.kits.slices import SliceDataset, prepare_slices

SIZE = (32, 24)
GRID = SliceGrid(SIZE)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.npy"))}


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
    (file,) = prepare_slices([write_case(*volume)], tmp_path / "cache", SliceGrid(size))
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


@pytest.mark.parametrize("axes", ["IPL", "ASR"])
def test_a_pixel_size_in_mm_and_another_window_decide_what_is_cached(volume, write_case, tmp_path, axes):
    image, label = volume  # 1.5 x 2 mm
    grid = SliceGrid(pixel_mm=3)
    (file,) = prepare_slices([write_case(*volume, axes=axes)], tmp_path / "cache", grid, (-200, 300))
    cached = np.load(file)
    assert cached.shape == (image.shape[2], 2, 32, 32)  # 64 * 1.5 / 3, 48 * 2 / 3
    expected = resize_by_hand((image[..., 3].clip(-200, 300) + 200) * 0.51, (32, 32))
    np.testing.assert_allclose(cached[3, 0], expected, atol=1.01)
    assert prepare_slices([write_case(*volume, axes=axes)], tmp_path / "cache", grid, (0, 255)) != [file]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR", "oblique"])
def test_one_patient_stored_along_any_axes_gives_identical_slices(volume, write_case, tmp_path, axes):
    cases = [write_case(*volume, case=f"case_{stored}", axes=stored) for stored in ("IPL", axes)]
    first, second = (np.load(file) for file in prepare_slices(cases, tmp_path / "cache", GRID))
    np.testing.assert_array_equal(first, second)
    # the check: no other orientation of the slices would do
    assert not np.array_equal(first, second[::-1])
    assert not np.array_equal(first, second[..., ::-1])
    assert not np.array_equal(first, second[..., ::-1, :])


def test_volumes_are_memory_maps_and_not_arrays(volume, write_case, tmp_path):
    cases = [write_case(*volume, case=f"case_{i}") for i in range(6)]
    data_set = SliceDataset(cases, tmp_path / "cache", GRID)
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
    prepare = lambda size=SIZE: prepare_slices(data, cache, SliceGrid(size))[0]  # noqa: E731
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
    (before,) = prepare_slices([write_case(image, label)], tmp_path / "cache", SliceGrid((64, 48)))
    before = np.load(before)
    (after,) = prepare_slices([write_case(image[::-1], label[::-1])], tmp_path / "cache", SliceGrid((64, 48)))
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
    lines = error_lines(lambda: prepare_slices(cases, tmp_path / "cache", GRID))
    assert len(lines) == 5
    for number in range(1, 6):
        assert sum(f"case_{number}/" in line for line in lines) == 1
    assert [name.split("-")[0] for name in content(tmp_path / "cache")] == ["case_0", "case_6"]
    assert len(prepare_slices([cases[0], cases[6]], tmp_path / "cache", GRID)) == 2


def test_a_disk_that_is_too_small_is_told_in_one_line_before_anything_is_written(
    volume, write_case, tmp_path, monkeypatch
):
    data = [write_case(*volume)]
    needed = volume[0].shape[2] * 2 * SIZE[0] * SIZE[1]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed, 1, needed - 1))
    (line,) = error_lines(lambda: prepare_slices(data, tmp_path / "cache", GRID))
    assert str(tmp_path / "cache") in line
    assert "free" in line
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 1, 10**9))
    prepare_slices(data, tmp_path / "cache", GRID)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed, needed, 0))
    prepare_slices(data, tmp_path / "cache", GRID)  # there already: a full disk does not matter


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
        prepare_slices(data, tmp_path / "cache", SliceGrid((256, 256)))
        prepare_slices(data, tmp_path / "cache", SliceGrid((256, 256)))
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

    def read_slowly(case, hu_window):
        prepared.append(case["case"])
        time.sleep(0.2)
        return read(case, hu_window)

    def prepare():
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        together.wait(timeout=60)
        files = prepare_slices(cases, tmp_path / "cache", GRID)
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
    prepare_slices(cases, tmp_path / "alone", GRID)
    assert content(tmp_path / "cache") == content(tmp_path / "alone")
