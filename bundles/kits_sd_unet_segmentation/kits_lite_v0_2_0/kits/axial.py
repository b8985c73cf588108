"""
A volume through a 2-D network slice by slice, with numpy alone: what every CPU path does, with PyTorch and without.

Exact, and most of it left out: a pixel can be foreground only where one of the network's cells that it is interpolated
from prefers foreground. Elsewhere background is at least as large in every cell, the weights are not negative, and
rounding keeps order, so background is at least as large in the pixel. Only the box of pixels that such cells reach is
interpolated, and of a slice without such a cell nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np

from .geometry import GridNumbers

Forward = Callable[[np.ndarray], np.ndarray]
FAST_MM = 10.0  # a finding of this height is never missed: one below it is called too small to characterize
BATCHES_AT_ONCE = 4  # that one thread takes: slices that lie beside each other in memory are copied together


@cache
def weigh_cells(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Which cells of an axis every cell of a resized axis is made of, and their weights; bilinear with antialiasing.

    To the last bit the weights of `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on a CPU, whose
    sums may differ from ours in the last bits: it adds with fused multiply-adds.

    Returns:
        cells (k, size), weights (k, size) in float32: k cells each, some of weight 0.
    """
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(length) / np.float32(size)
    support = max(scale, one)
    centers = scale * (np.arange(size, dtype=np.float32) + half)
    low = np.maximum((centers - support + half).astype(np.int64), 0)
    high = np.minimum((centers + support + half).astype(np.int64), length)
    cells = low + np.arange((high - low).max())[:, None]
    weights = np.maximum(one - np.abs((cells.astype(np.float32) - centers + half) * min(one / scale, one)), 0)
    weights *= cells < high
    weights /= sum(weights, start=np.zeros(size, np.float32))  # one after the other, as PyTorch adds them
    return np.minimum(cells, length - 1), weights


def resize_rows(slices: np.ndarray, size: int, length: int | None = None, window: slice = slice(None)) -> np.ndarray:
    """
    Resize slices (..., H, W), float32, along H.

    Args:
        size: of the resized axis.
        length: of the axis before; where `slices` are not all of it, they begin with the first cell that is needed.
        window: which part of the resized axis to compute.
    """
    cells, weights = (values[:, window] for values in weigh_cells(length or slices.shape[-2], size))
    if length is not None:
        cells = cells - cells.min()
    parts = (slices.take(cell, axis=-2, mode="clip") for cell in cells)
    weighted = (np.multiply(part, weight[:, None], out=part) for part, weight in zip(parts, weights))
    resized = next(weighted)
    for part in weighted:
        resized += part
    return resized


def enter_grid(slices: np.ndarray, grid: GridNumbers, spacing_mm: Sequence[float]) -> np.ndarray:
    """
    Slices (B, Y, X), uint8 HU window or float in [0, 1], as the network sees them: float32 (B, 1, H, W), H along X.
    """
    columns, rows = slices.shape[1:]
    height, width = grid.scale((rows, columns), spacing_mm)
    entered = np.zeros((len(slices), 1, *grid.fill((height, width))), np.float32)
    for number, pixels in enumerate(slices):
        scaled = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        if columns != width:
            scaled = resize_rows(scaled, width)
        scaled = np.ascontiguousarray(scaled.T)
        entered[number, 0, :height, :width] = scaled if rows == height else resize_rows(scaled, height)
    return entered


def choose_in_box(logits: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, slice, slice]:
    """
    The classes of a slice on its own grid, in the box outside of which all is background.

    Args:
        logits: (C, h, w) without what was padded, float32.
        shape: height and width of the slice.

    Returns:
        classes (height, width) of the box, the first of equals, uint8; where the box lies along both axes.
    """
    prefers = logits[1:].max(axis=0) > logits[0]
    (rows, inner_rows), (columns, inner_columns) = (
        _find_reach(prefers.any(axis=1 - axis), shape[axis]) for axis in (0, 1)
    )
    if rows.start == rows.stop or columns.start == columns.stop:
        return np.zeros((0, 0), np.uint8), slice(0), slice(0)
    height, width = logits.shape[1:]
    box = logits[:, inner_rows, inner_columns]
    if width != shape[1]:
        box = resize_rows(np.ascontiguousarray(box.swapaxes(1, 2)), shape[1], width, columns).swapaxes(1, 2)
    if height != shape[0]:
        box = resize_rows(np.ascontiguousarray(box), shape[0], height, rows)
    return box.argmax(axis=0).astype(np.uint8), rows, columns


def _find_reach(prefers: np.ndarray, size: int) -> tuple[slice, slice]:
    """Which cells of a resized axis are made of any of the marked ones, and which cells those are made of."""
    if len(prefers) == size:
        marked = np.flatnonzero(prefers)
        reach = slice(marked[0], marked[-1] + 1) if len(marked) else slice(0, 0)
        return reach, reach
    cells, weights = weigh_cells(len(prefers), size)
    reached = np.flatnonzero((prefers[cells] & (weights > 0)).any(axis=0))
    if not len(reached):
        return slice(0, 0), slice(0, 0)
    reach = slice(reached[0], reached[-1] + 1)
    return reach, slice(cells[:, reach].min(), cells[:, reach].max() + 1)


def find_step(fast: bool, thickness_mm: float) -> int:
    """
    Which slices are looked at first, see `visit_slices`: every one, or with `fast` as few as `FAST_MM` allows.

    Example:
        >>> find_step(True, 2.0), find_step(True, 8.0), find_step(False, 2.0)
        (5, 1, 1)
    """
    return max(1, int(FAST_MM / thickness_mm + 0.01)) if fast else 1  # 5.00001 mm are 5


def visit_slices(labels: Any, every: int, at_once: int) -> Iterator[list[range]]:
    """
    The slices to segment: every one, or with `every` > 1 in two passes every k-th, then all between one of these in
    which something was found and the next of these on either side.

    What reaches over k slices is found, whole: one of them is a k-th. What lies between two is missed.

    Args:
        labels: (..., Z), of numpy or PyTorch, into which a pass is written before the next is asked for.
        every: k.
        at_once: slices in each of the ranges of a pass, at most.
    """
    depth = labels.shape[-1]
    first = range(0, depth, every)
    yield [first[start : start + at_once] for start in range(0, len(first), at_once)]
    if every > 1:
        found = {z for z in first if labels[..., z].any()}
        gaps = [range(z + 1, min(z + every, depth)) for z in first if found & {z, z + every}]
        yield [gap[start : start + at_once] for gap in gaps for start in range(0, len(gap), at_once)]


def segment_volume(
    volume: np.ndarray,
    forward: Forward,
    grid: GridNumbers,
    spacing_mm: Sequence[float] = (1.0, 1.0),
    batch_size: int = 4,
    workers: int = 1,
    labels: np.ndarray | None = None,
    mirror: bool = False,
    every: int = 1,
) -> np.ndarray:
    """
    Segment the axial slices of a volume.

    Args:
        volume: (X, Y, Z) in RAS, uint8 HU window or float in [0, 1].
        forward: maps slices, float32 (b, 1, H, W), to logits, float32 (b, C, H, W).
        grid: the grid on which the network sees a slice; spacing_mm: size of a pixel along X and Y.
        batch_size: slices of a forward pass.
        workers: threads that take batches side by side; 1 stays in the calling thread. What a slice becomes does not
            depend on it.
        labels: zeros (X, Y, Z), uint8, to be filled; by default a new array.
        mirror: take the mean of the logits of a slice and of its mirror image, which doubles the network's time.
        every: look at every k-th slice first, see `visit_slices`; 1 segments all.

    Returns:
        label map, uint8 (X, Y, Z).
    """
    labels = np.zeros_like(volume, np.uint8) if labels is None else labels
    height, width = grid.scale(volume.shape[:2], spacing_mm)
    step = batch_size * (BATCHES_AT_ONCE if volume.strides[2] < min(volume.strides[:2]) else 1)

    def segment(part: range) -> None:
        slices = np.ascontiguousarray(volume[..., part.start : part.stop : part.step].transpose(2, 1, 0))
        for first in range(0, len(slices), batch_size):
            entered = enter_grid(slices[first : first + batch_size], grid, spacing_mm)
            logits = forward(entered)
            if mirror:  # what was padded on the right is on the left then
                logits = (logits + forward(np.ascontiguousarray(entered[:, :, ::-1]))[:, :, ::-1]) / 2
            for number, of_slice in zip(part[first:], logits[:, :, :height, :width]):
                classes, rows, columns = choose_in_box(of_slice, volume.shape[:2])
                labels[rows, columns, number] = classes

    with nullcontext() if workers == 1 else ThreadPoolExecutor(workers) as pool:
        for parts in visit_slices(labels, every, step):
            for _ in (pool.map if pool else map)(segment, parts):
                pass  # which raises what a thread raised
    return labels
