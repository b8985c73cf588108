"""Work in a process of its own that is killed, by SIGKILL, at a point that is always the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

# what changes a folder, and whether it does by its arguments
CHANGES: dict[str, Callable[[tuple], bool]] = {
    "open": lambda arguments: bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)),
    **{event: lambda arguments: True for event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")},
}
PRELOADED = ["common.app.distributed", "common.training", "monai.bundle"]


def die_at(folder: Path, change: int, seen: Callable[[int], None] = lambda count: None) -> None:
    """
    Have this process killed right before a change of something in a folder.

    Args:
        change: which one, 1 for the first; 0 for none.
        seen: told how many changes there were, at each.
    """
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in CHANGES and CHANGES[event](arguments) and str(arguments[0]).startswith(str(folder)):
            count += 1
            seen(count)
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def run_killed(
    work: Callable[[Path], object], folder: Path, change: int = 0, seconds: float = 0.0
) -> tuple[int | None, int]:
    """
    Do some work on a folder in a process.

    Args:
        work: a function that can be pickled.
        change: see `die_at`.
        seconds: killed so long after the start; 0 for never.

    Returns:
        exit code, negative where a signal ended it; number of changes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    count = context.Value("i", 0)
    process = context.Process(target=_work, args=(work, folder, change, seconds, count), daemon=True)
    process.start()
    process.join(300)
    process.kill()
    process.join()
    return process.exitcode, count.value


def _work(work: Callable[[Path], object], folder: Path, change: int, seconds: float, count: object) -> None:
    import torch

    torch.set_num_threads(1)
    die_at(folder, change, lambda number: setattr(count, "value", number))
    if seconds:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    try:
        work(folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
