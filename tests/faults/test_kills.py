"""Killed at 60 points, always the same ones: what stands is whole, and the same command then ends as if undisturbed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from killed_runs import run_killed, start, wait
from killed_tasks import TASKS, begin, package, publish, read_visible, train

POINTS, BY_TIME = 10, 4  # of these so many at some time, the others right before something is written


@dataclass
class Undisturbed:
    """What a task makes where nothing happens, from what, in how many changes of its folder and seconds."""

    before: dict[str, bytes]
    after: dict[str, bytes]
    changes: int
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(place) -> Callable[[Callable], Undisturbed]:
    @cache
    def run(task: Callable) -> Undisturbed:
        folder = begin(task, place)
        before, started = read_visible(folder), time.monotonic()
        code, changes = run_killed(task, folder)
        assert code == 0 and changes > 1
        after = read_visible(folder)
        assert after.keys() - before.keys()
        return Undisturbed(before, after, changes, time.monotonic() - started)

    return run


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.xdist_group(task.__name__)) for task in TASKS],
    ids=lambda t: t.__name__,
)
def test_what_stands_is_whole_and_the_same_command_ends_as_if_undisturbed(
    task, point, place, undisturbed, record_property
):
    record_property("family", f"killed: {task.__name__}")
    record_property("fate", "right")
    expected = undisturbed(task)
    folder, random = begin(task, place), np.random.default_rng([TASKS.index(task), point])
    if point < BY_TIME:
        code, _ = run_killed(task, folder, seconds=random.uniform(0.05, expected.seconds))
        assert code in (0, -signal.SIGKILL)
    else:
        code, _ = run_killed(task, folder, change=int(random.integers(1, expected.changes + 1)))
        assert code == -signal.SIGKILL
    for name, content in read_visible(folder).items():
        if name.endswith((".pt", "split.json")) and task is train:
            assert name.endswith(".json") or torch.load(folder / name, weights_only=True)
        else:
            assert content in (expected.before.get(name), expected.after.get(name)), name
    is_done = read_visible(folder) == expected.after
    code, _ = run_killed(task, folder)
    assert code == 0 or is_done and code == 1  # a pruned bundle is not written over
    assert read_visible(folder) == expected.after


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.xdist_group(task.__name__)) for task in (package, publish)],
    ids=lambda t: t.__name__,
)
def test_two_runs_at_once_on_one_folder_end_as_one_or_one_of_them_is_told(task, place, undisturbed, record_property):
    record_property("family", f"two at once: {task.__name__}")
    record_property("fate", "right")
    expected = undisturbed(task)
    folder = begin(task, place)
    started = [start(task, folder) for _ in range(2)]
    codes = wait(*(process for process, _ in started))
    assert sorted(codes) in ([0, 0], [0, 1])  # 1 is one line
    assert read_visible(folder) == expected.after
