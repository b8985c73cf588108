"""Handlers of MONAI evaluators that run over whole volumes: pictures and official scores of every case."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import Dataset, decollate_batch
from monai.engines import IterationEvents, SupervisedEvaluator
from monai.utils import ImageMetaKey

from ..errors import InputError, describe_failure
from ..files import write_whole
from .cases import name_case
from .metrics import find_protocol
from .overlay import draw_overlay
from .scores import describe_summary, score_label_maps, summarize_cases, write_table

logger = logging.getLogger(__name__)

FAILURE = "failure"


class CaseDataset(Dataset):
    """MONAI's `Dataset` of cases, see `find_cases`, which for a case that cannot be read says why instead of ending."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return super().__getitem__(index)
        except Exception as error:
            case = self.data[index]["case"]
            logger.debug(case, exc_info=True)
            return {"case": case, FAILURE: describe_failure(case, error)}


class CaseEvaluator(SupervisedEvaluator):
    """
    MONAI's `SupervisedEvaluator` over single cases, which does the others where one fails.

    Every failure is logged at once, with where it came from at level DEBUG.

    Raises:
        InputError: at the end of the run, with one line for every case that failed.
    """

    def run(self, global_epoch: int = 1) -> None:
        self.failures: list[str] = []
        super().run(global_epoch)
        if self.failures:
            raise InputError("\n".join(self.failures))

    def _iteration(self, engine: CaseEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        try:
            if FAILURE not in batchdata:
                return super()._iteration(engine, batchdata)
            failure = batchdata[FAILURE][0]
        except Exception as error:
            logger.debug("", exc_info=True)
            failure = describe_failure(name_case(batchdata["image"].meta[ImageMetaKey.FILENAME_OR_OBJ][0]), error)
        logger.error(f"failed: {failure}")
        self.failures.append(failure)
        engine.state.output = {}
        return engine.state.output


class CaseHandler:
    """
    Calls `handle_case` with every volume an evaluator has segmented, before postprocessing turns it from RAS.

    The evaluator's batches hold one volume: "image", "pred" and, where there is one, "label", each (1, 1, X, Y, Z).
    """

    def attach(self, engine: Engine) -> None:
        """Hook into an evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._take_batch)

    def _take_batch(self, engine: Engine) -> None:
        for item in decollate_batch(engine.state.output):
            image = item["image"]
            volumes = {k: np.asarray(item[k].cpu())[0] for k in ("image", "pred", "label") if item.get(k) is not None}
            spacing_mm = tuple(float(s) for s in image.pixdim)
            self.handle_case(name_case(image.meta[ImageMetaKey.FILENAME_OR_OBJ]), volumes, spacing_mm)

    def handle_case(self, case: str, volumes: dict[str, np.ndarray], spacing_mm: tuple[float, ...]) -> None:
        """
        Args:
            volumes: "image" uint8, "pred" uint8 and perhaps "label", each (X, Y, Z) in RAS.
        """
        raise NotImplementedError


class CasePictures(CaseHandler):
    """
    Writes `<case>.png` for every case, see `draw_overlay`.

    Args:
        output_dir: folder of the pictures.
    """

    def __init__(self, output_dir: str | os.PathLike) -> None:
        self.output_dir = Path(str(output_dir))

    def handle_case(self, case: str, volumes: dict[str, np.ndarray], spacing_mm: tuple[float, ...]) -> None:
        path = self.output_dir / f"{case}.png"
        draw_overlay(path, case, volumes["image"], volumes["pred"], volumes.get("label"), spacing_mm)
        logger.info(f"picture: {path}")


class CaseScores(CaseHandler):
    """
    Scores every case by an official KiTS protocol on the label's own grid, and writes tables at the end.

    `metrics.csv` has one row a case; `summary.json` has mean, median and 95 % bootstrap interval over the cases, Dice
    pooled over all voxels, and the five worst cases.

    Args:
        output_dir: folder of the tables.
        protocol: `"kits19"` or `"kits23"`.
    """

    def __init__(self, output_dir: str | os.PathLike, protocol: str = "kits19") -> None:
        self.output_dir = Path(str(output_dir))
        self.protocol = find_protocol(protocol)

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.complete)

    def start(self, engine: Engine) -> None:
        """Forget the cases of an earlier run."""
        self.scored: list[tuple[dict, torch.Tensor]] = []

    def handle_case(self, case: str, volumes: dict[str, np.ndarray], spacing_mm: tuple[float, ...]) -> None:
        row, counts = score_label_maps(case, volumes["pred"], volumes["label"], spacing_mm, self.protocol)
        self.scored.append((row, counts))
        logger.info("  ".join([case, *(f"{name} {value:.3f}" for name, value in row.items() if name != "case")]))

    def complete(self, engine: Engine) -> None:
        """Write the tables of all cases of all processes, and log what they amount to."""
        scored = self._gather()
        if engine.state.rank > 0 or not scored:
            return
        rows, counts = zip(*scored)
        summary = summarize_cases(rows, counts, self.protocol)
        write_table(rows, self.output_dir / "metrics.csv")
        with write_whole(self.output_dir / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n")
        for line in [*describe_summary(summary), f"tables: {self.output_dir}"]:
            logger.info(line)

    def _gather(self) -> list[tuple[dict, torch.Tensor]]:
        """What was scored by all processes, in the order of the cases' names."""
        shares = [self.scored]
        if dist.is_available() and dist.is_initialized():
            shares = [None] * dist.get_world_size()
            dist.all_gather_object(shares, self.scored)
        # a sampler that gives every process as many cases gives some cases twice
        cases = {row["case"]: (row, counts) for share in shares for row, counts in share}
        return [cases[name] for name in sorted(cases)]
