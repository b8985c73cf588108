"""
Several processes that work on one thing, started by torchrun, and what happens when one of them is lost.

A process that dies takes its connections with it: on one machine the others learn it at once, from torchrun's SIGTERM
or a closed socket. A machine that hangs or drops off the network closes nothing, so every process also counts up a
number in torchrun's store once in `BEAT_S`, and one whose number stands still while another counts to
`LOST_AFTER_BEATS` is lost: beats, not seconds, since a machine too busy to count is not lost. Whichever comes first,
the others stop with one line and remove what the lost one had half written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist

from ..errors import InputError, find_input_error

BEAT_S = 1.0
LOST_AFTER_BEATS = 15
# for an answer of the store; it is asked twice
STORE_TIMEOUT = timedelta(seconds=10)
# what a process gets to end by itself before it is ended
GRACE_S = 5.0
FOREVER = timedelta(days=30)

T = TypeVar("T")


@contextmanager
def join_processes(output_dir: Path) -> Iterator[tuple[int, int]]:
    """
    Join the processes that torchrun started, gloo between CPUs and nccl between GPUs.

    Args:
        output_dir: where they write with `write_whole`.

    Yields:
        rank, world size.

    Raises:
        InputError: when torchrun did not start this process.
        SystemExit: with one line, when another process is lost; nothing half-written is left.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise InputError("torchrun: expected it to start this program, torchrun --nproc_per_node=2 ..., found none.")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    hook = sys.excepthook
    # how long a step takes is up to the network and the volume: that somebody is lost is told by the pulse instead
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=FOREVER)
    sys.excepthook = hook  # torch's own begins every line with the rank
    pids = gather(os.getpid())
    # only now: a process that still waits for the others is best ended the plain way
    previous = signal.signal(signal.SIGTERM, _stop)
    pulse = _Pulse()
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()
    except BaseException as error:
        # what comes now is not to be interrupted by torchrun, which stops the others when the first has ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if find_input_error(error) is None:
            pulse.end_soon()
        if is_loss(error):
            _remove_half_written(output_dir, pids)
            raise SystemExit(_describe_loss(pulse.lost)) from None
        raise
    pulse.stop()
    signal.signal(signal.SIGTERM, previous)
    dist.destroy_process_group()


def gather(value: T) -> list[T]:
    """The value of every process, in every process."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agree(action: Callable[[], T]) -> T:
    """
    Do something in every process, and go on when it went well in all.

    Raises:
        InputError: in rank 0, the first that any process met; the others exit without a word.
    """
    problem, result = None, None
    try:
        result = action()
    except Exception as error:
        problem = find_input_error(error)
        if problem is None:
            raise
    problems = [line for line in gather(str(problem) if problem else "") if line]
    if problems:
        raise InputError(problems[0]) if dist.get_rank() == 0 else SystemExit(1)
    return result


class LostProcess(BaseException):
    """Another process is gone: raised in the main thread wherever it is, so no `except Exception` may hold it up."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise LostProcess


def is_loss(error: BaseException) -> bool:
    """Whether an exception tells that another process is gone."""
    while error is not None:
        if isinstance(error, (LostProcess, dist.DistError)):
            return True
        # gloo raises plain RuntimeErrors that begin with the place in its source
        if isinstance(error, RuntimeError) and "gloo/" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe_loss(lost: str) -> str:
    rank, lost = os.environ["RANK"], lost or "another process"
    return f"error: rank {rank} stopped, because {lost} was lost; whole files are kept, start again to go on."


def _remove_half_written(output_dir: Path, pids: list[int]) -> None:
    for pid in pids:
        for file in output_dir.glob(f".{pid}.*"):
            file.unlink(missing_ok=True)


class _Pulse:
    """A thread that tells the other processes that this one lives, and finds out which of them no longer does."""

    def __init__(self) -> None:
        self.lost = ""
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # a connection of its own: the main thread's may wait for something
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = dist.TCPStore(address, port, is_master=False, timeout=STORE_TIMEOUT)
        self.stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        """No longer look after the others."""
        self.stopped.set()

    def end_soon(self) -> None:
        """End the process after a grace period, should it hang in something that a lost one was part of."""
        self.stopped.set()
        timer = threading.Timer(GRACE_S, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def _beat(self) -> None:
        counts, silent, unanswered = [0] * self.world, [0] * self.world, 0
        while not self.stopped.wait(BEAT_S):
            try:
                now = [self.store.add(f"pulse/{rank}", int(rank == self.rank)) for rank in range(self.world)]
                silent = [beats + 1 if old == new else 0 for beats, old, new in zip(silent, counts, now)]
                counts, unanswered = now, 0
            except RuntimeError:
                unanswered += 1
            if unanswered > 1:
                self._give_up("the store of torchrun")
            elif max(silent) >= LOST_AFTER_BEATS:
                self._give_up(f"rank {silent.index(max(silent))}")

    def _give_up(self, lost: str) -> None:
        if self.stopped.is_set():
            return
        self.lost = lost
        # wakes the main thread up, unless it waits for a lost process, and then it holds no file open
        signal.raise_signal(signal.SIGTERM)
        if not self.stopped.wait(GRACE_S):
            # on a line of its own, below a progress bar
            print(f"\n{_describe_loss(lost)}", file=sys.stderr, flush=True)
            os._exit(1)
