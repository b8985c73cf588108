"""Work in a process of its own that is killed, by SIGKILL, at a point that is always the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
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


def die_at_convolution(number: int, seen: Callable[[int], None] = lambda count: None) -> None:
    """Have this process killed in a convolution, 1 for the first; 0 for none."""
    import torch

    count, forward = 0, torch.nn.Conv2d.forward

    def watched(layer: torch.nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        seen(count)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(layer, image)

    torch.nn.Conv2d.forward = watched


def start(
    work: Callable[[Path], object],
    folder: Path,
    change: int = 0,
    seconds: float = 0.0,
    convolution: int = 0,
    environment: Mapping[str, str] | None = None,
) -> tuple[ForkServerProcess, Synchronized]:
    """
    Start some work on a folder in a process.

    Args:
        work: a function that can be pickled.
        change: see `die_at`.
        seconds: killed so long after the start; 0 for never.
        convolution: see `die_at_convolution`.

    Returns:
        the process, whose exit code is 1 for an input error, 2 for a bug; and a count of the changes or, where there
        is an environment, of the convolutions.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    count = context.Value("i", 0)
    arguments = (work, folder, change, seconds, convolution, environment, count)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    return process, count


def wait(*processes: ForkServerProcess, seconds: float = 240) -> list[int | None]:
    """Exit codes, negative where a signal ended a process; those that are not done in time are killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def run_killed(work: Callable[[Path], object], folder: Path, **options: object) -> tuple[int | None, int]:
    """`start` and `wait`; gives exit code and count."""
    process, count = start(work, folder, **options)
    (code,) = wait(process)
    return code, count.value


def run_ranks(
    work: Callable[[Path], object], folder: Path, victim: int = 0, convolution: int = 0, world: int = 2
) -> tuple[list[int | None], list[int]]:
    """Work together in some processes, as torchrun would start them; one is killed in a convolution."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "TORCHELASTIC_RUN_ID": "test"}
    started = []
    for rank in range(world):
        ranks = address | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
        number = convolution if rank == victim else 0
        environment = {key: str(value) for key, value in ranks.items()}
        started.append(start(work, folder, convolution=number, environment=environment))
    processes, counts = zip(*started)
    return wait(*processes), [count.value for count in counts]


def _work(
    work: Callable[[Path], object],
    folder: Path,
    change: int,
    seconds: float,
    convolution: int,
    environment: Mapping[str, str] | None,
    count: Synchronized,
) -> None:
    import torch

    from common.errors import find_input_error

    torch.set_num_threads(1)
    if environment is None:
        die_at(folder, change, partial(setattr, count, "value"))
    else:
        os.environ |= environment
        die_at_convolution(convolution, partial(setattr, count, "value"))
    if seconds:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    try:
        work(folder)
    except BaseException as error:
        told = isinstance(error, SystemExit) or find_input_error(error)
        print(error) if told else traceback.print_exc()
        os._exit(1 if told else 2)
    os._exit(0)
