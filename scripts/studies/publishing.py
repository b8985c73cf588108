"""From a training by the protocol to what is committed: curves, scores, and the weights that ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import InputError
from common.kits.cases import read_split
from common.kits.scores import write_table
from common.networks.weights import read_weights, write_weights
from zoo.pages import read_table
from zoo.records import HOLD_OUT, RECORDS, REPOSITORY, find_labelled, read_record, score_bundle, write_record
from zoo.rendering import BUNDLES, write_bundle

from .protocol import STAGES, find_variant, read_training

# larger files of weights ship in half precision
MAX_WEIGHTS_BYTES = 25e6
TRAINED_ON = "{views:,} views of crops and slices of {patients} KiTS19 patients and of CT without kidney"


def publish(name: str, folders: Sequence[Path], training: Path | None) -> dict[str, Any]:
    """
    Take over what `studies.protocol.train` made of a bundle's network, render its bundle, and score it.

    Args:
        folders: KiTS folders with the held-out patients and the whole scan.
        training: folder of the training; None scores the weights that ship anew.

    Returns:
        the record that is written.

    Raises:
        InputError: when the training is not complete, a log is gone, or the data are not there.
    """
    variant, record = find_variant(name), read_record(name)
    shipped, cases = BUNDLES / name / "models/model.pt", find_labelled(folders)
    if training:
        weights = training / "models/model.pt"
        if not weights.is_file():
            raise InputError(f"{training}: expected a complete training, found no models/model.pt; run train.py.")
        curves = list(read_curves(training, variant.stages))
        _, earlier_views = read_training(training)
        # a training that goes on with what shipped continues its curves
        earlier = [row for row in read_table(RECORDS / f"{name}.csv") if int(row["views"]) <= earlier_views]
        curves = earlier + [row | {"views": earlier_views + row["views"]} for row in curves]
    # what is scored is what ships, inference.json as the network is now; rendered while weights and record are a pair
    write_bundle(variant, BUNDLES)
    if training:
        ship_weights(weights, shipped)
        write_table(curves, RECORDS / f"{name}.csv")
        record["trained_on"] = TRAINED_ON.format(
            views=int(curves[-1]["views"]),
            patients=len([case for case in _read_patients(training) if not case.startswith("case_9")]),
        )
    record |= score_bundle(BUNDLES / name, cases, REPOSITORY / HOLD_OUT)
    write_record(name, record)
    write_bundle(variant, BUNDLES)
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
    (length, _), epoch = read_training(training), 0
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
        epochs = length.count_epochs(STAGES[name])
        steps = len(losses) // epochs
        for number in range(1, epochs + 1):
            mean = sum(losses[i] for i in range((number - 1) * steps + 1, number * steps + 1)) / steps
            row = {"stage": name, "views": (epoch + number) * length.views_per_epoch, "loss": round(mean, 4)}
            yield row | {key: round(values[number], 4) if number in values else "" for key, values in dice.items()}
        epoch += epochs


def _read_patients(training: Path) -> list[str]:
    """The patients that the last stage of a training saw."""
    records = sorted(training.glob("eval/*/split.json"), key=lambda path: path.stat().st_mtime)
    return read_split(records[-1])["training"]
