"""A folder of cases by several processes of one machine, each with its share of the cores and whole cases."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError, report_warnings
from ..files import PathLike
from ..runtimes.plain import count_threads
from .folder import NIFTI_ALONE, Outcome, Outputs, open_segmenter, segment_case

THREADS = "OMP_NUM_THREADS"  # which PyTorch, too, reads when it starts
# of a worker process: what segments there
_SEGMENTER: list[Any] = []


def segment_by_workers(
    bundle: PathLike,
    cases: Sequence[Mapping[str, str]],
    output_dir: Path,
    workers: int,
    outputs: Outputs = NIFTI_ALONE,
    debug: bool = False,
    **options: Any,
) -> Iterator[Outcome]:
    """
    Segment cases in processes of their own, and give what `segment_case` gives of every case, in order.

    Each has its share of the cores as threads. The files are the same, however many there are; one that is killed costs
    the cases at work, and the others end with this process.

    Args:
        options: of the `Segmenter`.

    Raises:
        InputError: when there are no workers, or one was killed; see `open_segmenter` also.
    """
    if workers < 1:
        raise InputError(f"workers: expected a positive number, found {workers}.")
    open_segmenter(bundle, outputs, **options)  # what is wrong is told once, and the network exported once
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(max(1, count_threads() // workers))
    context = multiprocessing.get_context("spawn")  # threads do not survive a fork
    start = partial(_start, bundle, outputs, options)
    try:
        with ProcessPoolExecutor(min(workers, len(cases)), context, start) as pool:
            futures = [pool.submit(_segment, case, output_dir, outputs, debug) for case in cases]
            yield from (future.result() for future in futures)
    except BrokenProcessPool as error:
        raise InputError(
            "workers: expected them to live to the end, found one killed; run again to go on, with fewer where memory"
            " is short."
        ) from error
    finally:
        os.environ.pop(THREADS)
        os.environ |= {THREADS: before} if before else {}


def _start(bundle: PathLike, outputs: Outputs, options: Mapping[str, Any]) -> None:
    # a pool's processes would wait for ever for one that was killed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    report_warnings()
    _SEGMENTER.append(open_segmenter(bundle, outputs, **options))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _segment(case: Mapping[str, str], output_dir: Path, outputs: Outputs, debug: bool) -> Outcome:
    return segment_case(_SEGMENTER[0], case, output_dir, outputs, debug)
