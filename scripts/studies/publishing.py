"""From trainings by the protocol to what is committed: predictions, record, curves, and the weights that ship."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.app.segmenter import Segmenter
from common.errors import InputError
from common.kits.cases import find_cases
from common.kits.scores import write_table
from common.networks.weights import read_weights, write_weights
from zoo.records import RECORDS, count_segmentations, score_counts, score_folds, write_record
from zoo.rendering import BUNDLES
from zoo.variants import VARIANTS

from .protocol import ALL, FOLDS, find_variant, plan_stage

# larger files of weights ship in half precision
MAX_WEIGHTS_BYTES = 25e6
TRAINED_ON = "the 66 slices of all 28 cases of kits19-slices, a small part of KiTS19"


def publish(name: str, dataset_dir: Path, trainings: Path) -> dict[str, Any]:
    """
    Take over what `studies.protocol` made of a network.

    Of the folds those that are there, the number of which the record tells; of a baseline no weights.

    Args:
        dataset_dir: KiTS folder that it was trained on.
        trainings: output folder of the trainings.

    Returns:
        the record that is written.

    Raises:
        InputError: when no fold's training is complete, or, of a bundle, not that on all cases; or a log is gone.
    """
    variant, folder, predictions = find_variant(name), trainings / name, RECORDS / name
    cases = find_cases(dataset_dir, labelled=True)
    complete = [fold for fold in (*FOLDS, ALL) if (folder / fold / "models/model.pt").is_file()]
    missing = [] if ALL in complete or variant not in VARIANTS else [ALL]
    missing += [] if set(complete) - {ALL} else ["any fold"]
    if missing:
        raise InputError(
            f"{folder}: expected complete trainings, found none on {' and on '.join(missing)}; run train.py."
        )

    curves = [row for fold in complete for row in read_curves(folder / fold, variant.stages)]
    shutil.rmtree(predictions, ignore_errors=True)
    shutil.copytree(folder / "predictions", predictions, ignore=shutil.ignore_patterns(".*"))
    write_table(curves, RECORDS / f"{name}.csv")
    split_files = [f"docs/folds/{fold}.json" for fold in complete if fold != ALL]
    record: dict[str, Any] = {"cross_validation": score_folds(predictions, cases, split_files)}
    if variant in VARIANTS:
        ship_weights(folder / ALL / "models/model.pt", BUNDLES / name / "models/model.pt")
        shipped = score_counts(count_segmentations(Segmenter(BUNDLES / name, backend="torch"), cases))
        record |= {"trained_on": TRAINED_ON, "shipped_weights": shipped}
    write_record(name, record)
    return record


def ship_weights(source: Path, target: Path) -> None:
    """Copy a file of weights, in half precision where it is large; `load_weights` converts them back."""
    weights: Mapping[str, torch.Tensor] = read_weights(source)
    if source.stat().st_size > MAX_WEIGHTS_BYTES:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    write_weights(weights, target)


def read_curves(training: Path, stages: Sequence[str]) -> Iterator[dict[str, object]]:
    """
    Mean loss of every epoch of a training, and Dice of the held-out slices where they were validated.

    Args:
        training: folder that `studies.protocol.train` wrote.
        stages: keys of `studies.protocol.STAGES`, in their order.

    Raises:
        InputError: when a stage left no log.
    """
    epoch = 0
    for name in stages:
        log = training / "eval" / name
        if not any(log.glob("events.*")):
            raise InputError(f"{log}: expected the stage's TensorBoard log, found none.")
        events = EventAccumulator(str(log), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"]
        losses = {event.step: event.value for event in events.Scalars("train_loss")} if "train_loss" in tags else {}
        dice = {
            key: {event.step: event.value for event in events.Scalars(key)} if key in tags else {}
            for key in ("kidney_dice", "tumor_dice")
        }
        epochs = plan_stage(training, name)["epochs"]
        steps = len(losses) // epochs
        for number in range(1, epochs + 1):
            mean = sum(losses[i] for i in range((number - 1) * steps + 1, number * steps + 1)) / steps
            row = {"fold": training.name, "stage": name, "epoch": epoch + number, "loss": round(mean, 4)}
            yield row | {key: round(values[number], 4) if number in values else "" for key, values in dice.items()}
        epoch += epochs
