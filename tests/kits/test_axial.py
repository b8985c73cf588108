"""Slices through a network with numpy: PyTorch's resize, and the same map as if everything were resized back."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kits import axial
from common.kits.axial import choose_in_box, enter_grid, resize_rows, segment_volume, weigh_cells
from common.kits.geometry import GridNumbers
from common.kits.phantom import make_phantom
from common.kits.preprocessing import SliceGrid, choose_classes, resize_slices

LENGTHS = [(512, 256), (512, 250), (512, 326), (256, 512), (250, 512), (77, 33), (33, 77), (20, 21), (1, 5), (5, 1)]
ROUNDING = 3e-7  # of values in [0, 1]: some of float32's last bits


def draw_logits(seed: int, shape: tuple[int, int], share: float = 0.02) -> np.ndarray:
    """Random logits (3, h, w) of which a share prefers foreground, with ties among them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(3, *shape)).round(1).astype(np.float32)
    logits[0] = np.where(random.random(shape) < share, logits[0], logits.max(axis=0))
    return logits


def choose_everywhere(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The classes of a slice of which every pixel is resized."""
    columns = resize_rows(np.ascontiguousarray(logits.swapaxes(1, 2)), shape[1]).swapaxes(1, 2)
    return resize_rows(np.ascontiguousarray(columns), shape[0]).argmax(axis=0)


@pytest.mark.parametrize(("length", "size"), LENGTHS)
def test_the_weights_are_pytorchs(length, size):
    cells, weights = weigh_cells(length, size)
    found = np.zeros((size, length), np.float32)
    for cell, weight in zip(cells, weights):
        found[np.arange(size), cell] += weight
    expected = resize_slices(torch.eye(length)[None, None], (length, size))[0, 0].T.numpy()
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
    assert (weights >= 0).all()


@pytest.mark.parametrize("grid", [{"pixel_mm": 1.6}, {"factor": 0.5}, {"spatial_size": (32, 48)}, {"factor": 1}])
@pytest.mark.parametrize("shape", [(50, 64), (64, 50), (31, 47)])
def test_the_network_sees_what_it_sees_through_pytorch(grid, shape):
    spacing_mm = (0.8, 0.7)
    slices = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    found = enter_grid(slices.transpose(0, 2, 1), GridNumbers(**grid), spacing_mm)
    expected = SliceGrid(**grid).enter(torch.from_numpy(slices)[:, None].float() / 255, spacing_mm).numpy()
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), *[st.tuples(st.integers(1, 40), st.integers(1, 40)) for _ in range(2)])
def test_outside_the_box_all_is_background_and_inside_the_classes_are_the_same_bit_by_bit(seed, low, high):
    logits = draw_logits(seed, low)
    classes, rows, columns = choose_in_box(logits, high)
    found = np.zeros(high, np.uint8)
    found[rows, columns] = classes
    np.testing.assert_array_equal(found, choose_everywhere(logits, high))


@pytest.mark.parametrize("seed", range(4))
def test_the_classes_are_pytorchs(seed):
    logits = draw_logits(seed, (60, 64), share=0.3)
    logits += np.random.default_rng(seed).normal(size=logits.shape).astype(np.float32) / 100  # no ties
    classes, rows, columns = choose_in_box(logits, (120, 131))
    found = np.zeros((120, 131), np.uint8)
    found[rows, columns] = classes
    expected = choose_classes(resize_slices(torch.from_numpy(logits)[None], (120, 131)))[0].numpy()
    assert found.any() and (found != expected).mean() <= 1e-5


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("workers", [1, 3])
def test_neither_threads_nor_the_order_in_memory_change_a_voxel(workers, order):
    volume = np.asarray(np.random.default_rng(0).integers(0, 256, (40, 36, 23), np.uint8), order=order)

    def forward(slices: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full_like(slices, 0.6), slices, 1 - slices], axis=1)

    expected = segment_volume(np.ascontiguousarray(volume), forward, GridNumbers(factor=0.5), batch_size=4)
    found = segment_volume(volume, forward, GridNumbers(factor=0.5), batch_size=4, workers=workers)
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(found, expected)


def test_what_breaks_in_a_thread_breaks_the_caller():
    def forward(slices: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        segment_volume(np.zeros((8, 8, 9), np.uint8), forward, GridNumbers(factor=1), workers=2)


@pytest.mark.parametrize("every", [2, 5])
def test_every_kth_slice_first_misses_no_more_than_what_lies_between_two_of_them(every):
    """A phantom's kidneys with their tumours and, far from them, a lesion of every height at every place."""
    label = make_phantom(0, (32, 32, 32), (5.0, 12.0, 12.0))[1].transpose(2, 1, 0)
    label = np.concatenate([label, np.zeros((32, 32, 6 * every), np.uint8)], axis=2)
    looked = set()

    def forward(slices: np.ndarray) -> np.ndarray:
        looked.update(np.rint(255 * slices[:, 0, 0, 0]).astype(int).tolist())
        return np.concatenate([np.full_like(slices, 0.5), slices, 2 * slices - 0.75], axis=1)

    for height in range(1, 2 * every + 1):
        for start in range(32 + 2 * every, 32 + 3 * every):
            with_lesion = label.copy()
            with_lesion[4:9, 6:9, start : start + height] = 2
            volume = np.array([0, 150, 250], np.uint8)[with_lesion]
            volume[0, 0] = range(volume.shape[2])  # by which the network knows the slice
            exact = segment_volume(volume, forward, GridNumbers(factor=1))
            np.testing.assert_array_equal(exact, with_lesion)
            looked.clear()
            fast = segment_volume(volume, forward, GridNumbers(factor=1), every=every, workers=2)
            seen = np.isin(range(volume.shape[2]), sorted(looked))
            np.testing.assert_array_equal(fast[..., seen], exact[..., seen])
            assert not fast[..., ~seen].any() and 0.2 < seen.mean() < 0.9
            is_missed = height < every and not any(z % every == 0 for z in range(start, start + height))
            np.testing.assert_array_equal(fast[..., : 32 + every], exact[..., : 32 + every])
            np.testing.assert_array_equal(fast[..., 32 + every :].any(), not is_missed)
            assert is_missed or np.array_equal(fast, exact)


def test_only_what_can_be_foreground_is_resized_back(monkeypatch):
    """Counts pixels and bytes, not seconds: of 20 slices two hold something, and of those a twentieth."""
    resized, copied = [], []
    contiguous = np.ascontiguousarray

    def copy(array: np.ndarray) -> np.ndarray:
        result = contiguous(array)
        copied.append((result.dtype, 0 if np.shares_memory(result, array) else result.nbytes))
        return result

    monkeypatch.setattr(axial.np, "ascontiguousarray", copy)

    def count(slices, size, length=None, window=slice(None)):
        result = resize_rows(slices, size, length, window)
        resized.append((length is not None, result.size))
        return result

    monkeypatch.setattr(axial, "resize_rows", count)
    passes = []

    def forward(slices: np.ndarray) -> np.ndarray:
        passes.append(len(slices))
        logits = np.zeros((len(slices), 3, *slices.shape[2:]), np.float32)
        logits[:, 1] = slices[:, 0] - 0.5
        return logits

    volume = np.zeros((64, 64, 20), np.uint8)
    volume[10:22, 20:32, 7:9] = 255
    labels = segment_volume(volume, forward, GridNumbers(factor=0.5), batch_size=4)
    assert labels.any() and passes == [4] * 5
    back = [size for is_back, size in resized if is_back]
    assert len(back) == 2 * 2 and sum(back) < 2 * 3 * 64 * 64 / 5
    assert len(resized) - len(back) == 2 * 20  # along two axes on the way in, every slice once
    bytes_of = {kind: sum(size for dtype, size in copied if dtype == kind) for kind in (np.uint8, np.float32)}
    assert bytes_of[np.uint8] == volume.nbytes  # once, and as it is
    assert bytes_of[np.float32] <= 4 * (20 * 64 * 32 + sum(back))  # halfway in, and halfway back in the boxes
    passes.clear()
    segment_volume(volume, forward, GridNumbers(factor=0.5), batch_size=4, every=4)
    assert passes == [4, 1, 3, 3]  # 0 to 16 by 4, then what lies on either side of 8


def test_memory_does_not_grow_with_the_number_of_slices():
    """Bytes that NumPy allocates beside the volume and its labels, at most at once."""

    def forward(slices: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full_like(slices, 0.6), slices, 1 - slices], axis=1)

    peaks = []
    for depth in (16, 64):
        volume = np.random.default_rng(0).integers(0, 256, (64, 64, depth), np.uint8)
        labels = np.zeros_like(volume)
        tracemalloc.start()
        segment_volume(volume, forward, GridNumbers(factor=0.5), batch_size=4, labels=labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert labels.any() and peaks[1] < 1.1 * peaks[0]
