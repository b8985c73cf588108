"""Killed at 60 points, always the same ones: what stands is whole, and the same command then ends as if undisturbed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, POCKET, ROOT
from killed_runs import run_killed
from killed_tasks import TASKS, publish, train

from common.kits.phantom import write_phantom_dataset
from common.networks import LiteUNet
from common.networks.weights import save_weights

POINTS, BY_TIME = 10, 4  # of these so many at some time, the others right before something is written


@dataclass
class Undisturbed:
    """What a task makes where nothing happens, from what, in how many changes of its folder and seconds."""

    before: dict[str, bytes]
    after: dict[str, bytes]
    changes: int
    seconds: float


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a bundle, three cases and a training; a task works in a folder beside them."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(BUNDLES / POCKET, folder / POCKET, ignore=shutil.ignore_patterns("eval", "models"))
    metadata = folder / POCKET / "configs/metadata.json"
    kept = {key: value for key, value in json.loads(metadata.read_text()).items() if key not in ("weights", "scores")}
    metadata.write_text(json.dumps(kept))
    write_phantom_dataset(folder / "cases", 3, seed=3, shape=(8, 48, 48), spacing_mm=(12.0, 8.0, 8.0))
    torch.manual_seed(1)
    for bundle in ("training", POCKET):
        save_weights(LiteUNet(channels=[16] * 5), folder / bundle / "models/model.pt")
    return folder


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


def begin(task: Callable, place: Path) -> Path:
    """A new folder for a task, always of the same name, for that stands in what is written."""
    folder = place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if task is publish:
        shutil.copytree(BUNDLES / POCKET, folder / "bundles" / POCKET)
        shutil.copytree(
            ROOT / "docs/results", folder / "results", ignore=lambda _, names: {*names} - {f"{POCKET}.json"}
        )
    return folder


def read_visible(folder: Path) -> dict[str, bytes]:
    """Files that nobody takes for half-written ones, without logs and locks, in which the time stands or nothing."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    names = {path.relative_to(folder): path for path in files if path.suffix != ".lock"}
    return {str(n): p.read_bytes() for n, p in names.items() if not any(part[0] == "." for part in n.parts)}


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
    code, _ = run_killed(task, folder)
    assert code == 0
    assert read_visible(folder) == expected.after
