"""`segment --mode` in several processes, forked from a server that has imported it already: seconds, not tens."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path


@dataclass
class Run:
    """Some started processes, rank by rank, and the files that hold what they print."""

    processes: list[ForkServerProcess]
    logs: list[Path]

    def wait(self, seconds: float = 120) -> tuple[list[int], list[str]]:
        """Exit codes and what was printed; a process that is not done in time is killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes], [log.read_text() for log in self.logs]


def start_distributed(folder: Path, world: int, before: str = "", **options: object) -> Run:
    """
    Start `segment` in some processes, as torchrun would.

    Args:
        folder: for what they print.
        before: code that every process runs first; knows `rank`.
    """
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["common.app.distributed"])
    logs = [folder / f"rank{rank}.log" for rank in range(world)]
    processes = [
        context.Process(target=run_rank, args=(rank, world, port, str(logs[rank]), before, words), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return Run(processes, logs)


def run_rank(rank: int, world: int, port: int, log: str, before: str, words: list[str]) -> None:
    """One process, as if it had been started from a command line."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {key: str(value) for key, value in (ranks | address).items()}
    import torch

    torch.set_num_threads(1)
    exec(before, {"rank": rank})
    from common.app.cli import main

    try:
        code = main(["segment", *words])
    except SystemExit as error:
        # what the interpreter does with it
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    os._exit(code or 0)
