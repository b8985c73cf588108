"""A rank is killed at ten points of each way to work together: the other ends, and a rerun as if undisturbed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import run_ranks
from killed_tasks import begin, read_visible, segment_cases_apart, segment_in_pipeline, train_together

TOGETHER = [segment_in_pipeline, segment_cases_apart, train_together]
POINTS = 10


@pytest.fixture(scope="module")
def undisturbed(place) -> Callable[[Callable], tuple[dict[str, bytes], list[int]]]:
    """A function that gives what ranks make where nothing happens, and how many convolutions each computes."""

    @cache
    def run(task: Callable) -> tuple[dict[str, bytes], list[int]]:
        folder = begin(task, place)
        codes, convolutions = run_ranks(task, folder)
        assert codes == [0, 0] and min(convolutions) > 1
        return read_visible(folder), convolutions

    return run


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.xdist_group(task.__name__)) for task in TOGETHER],
    ids=lambda task: task.__name__,
)
def test_the_other_rank_ends_what_stands_is_whole_and_a_rerun_ends_as_if_undisturbed(
    task, point, place, undisturbed, record_property
):
    record_property("family", f"a rank lost: {task.__name__}")
    record_property("fate", "right")
    expected, convolutions = undisturbed(task)
    folder, random, victim = begin(task, place), np.random.default_rng([TOGETHER.index(task), point]), point % 2
    codes, _ = run_ranks(task, folder, victim, int(random.integers(1, convolutions[victim] + 1)))
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] in (1, 2)
    assert task is train_together or codes[1 - victim] == 1
    check_whole(folder, expected if task is not train_together else None)
    assert run_ranks(task, folder)[0] == [0, 0]
    assert read_visible(folder) == expected


def check_whole(folder: Path, expected: dict[str, bytes] | None) -> None:
    """Files are those of the end or, of a training, can be loaded."""
    found = read_visible(folder)
    assert expected is None or found.items() <= expected.items()
    for name in (name for name in found if name.endswith(".pt")):
        assert torch.load(folder / name, weights_only=True)
