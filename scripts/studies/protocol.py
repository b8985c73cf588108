"""
The protocol: every network trained the same way on the same views (docs/protocol.md).

A training is a chain of `monai.bundle run`s, its stages, in a bundle folder of its own: each goes on with the weights
of the one before. What is complete is left alone and what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.app.workflows import NOT_COPIED, run_configs
from common.bundle_folder import open_bundle
from common.errors import InputError
from common.files import write_whole
from zoo.pages import read_table
from zoo.records import RECORDS
from zoo.rendering import BUNDLES, count_complexity
from zoo.variants import ROWS, VARIANTS, Variant

SPLITS = Path(__file__).parents[2] / "docs/splits"
HOLD_OUT, INNER = "hold_out", "inner"
RECORD = "training.json"
VIEWS_PER_EPOCH, BATCH_SIZE = 1600, 16
# after so many views the network is validated, and what it invents is looked for
VIEWS_TO_VALIDATE = 8000
VIEWS = 96_000


@dataclass(frozen=True)
class Stage:
    """
    One run of a training.

    Args:
        share: of the training's views.
        settings: values of `train.json` and `prune.json`.
        configs: the configs that run.
    """

    share: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    configs: tuple[str, ...] = ("train",)


# a network that is pruned sees part of its views while zeros grow, over the first half
STAGES = {
    "whole": Stage(),
    "dense": Stage(5 / 8),
    "sparse": Stage(3 / 8, configs=("train", "prune")),
}


@dataclass(frozen=True)
class Length:
    """
    How long a training is.

    Args:
        views: that the network sees, the same for every network that is compared.
        views_per_epoch: a checkpoint is written after every epoch.

    Raises:
        InputError: when a number is not positive.
    """

    views: int = VIEWS
    views_per_epoch: int = VIEWS_PER_EPOCH

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if value < 1:
                raise InputError(f"{key}: expected a positive number, found {value}.")

    def count_epochs(self, stage: Stage) -> int:
        """Epochs of a stage."""
        return max(1, round(stage.share * self.views / self.views_per_epoch))


def train(
    name: str,
    folders: Sequence[Path],
    output: Path,
    split: str = HOLD_OUT,
    seed: int = 0,
    bfloat16: bool = False,
    start: Path | None = None,
    length: Length = Length(),
) -> Path:
    """
    Train a network on the training side of a split.

    Args:
        name: of a bundle, a baseline or an ablation.
        folders: KiTS folders: crops, whole slices, slices without kidney; see docs/protocol.md.
        output: folder of trainings, `<name>/<split>_<seed>/` for this one.
        split: `"hold_out"`, or `"inner"` to compare settings.
        bfloat16: train under autocast to bfloat16, see `configs/bfloat16.json`; a GPU takes `configs/gpu.json` anyway.
        start: weights to begin with; by default the network's initialization.
        length: of the training; one that goes on keeps its own.

    Returns:
        a bundle folder of its own, with its weights.

    Raises:
        InputError: when an argument is unknown, the weights to begin with are missing, or a stage fails.
    """
    variant = find_variant(name)
    find_split(split)
    if start and not start.is_file():
        raise InputError(f"start: expected a file of weights, found none at {start}.")
    folder = output / name / f"{split}_{seed}"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_untrained(variant, part)
        earlier = {"earlier_views": _count_earlier_views(name, start)}
        (part / RECORD).write_text(json.dumps(asdict(length) | earlier) + "\n")
        part.rename(folder)
    length, _ = read_training(folder)
    weights = start and start.resolve()
    for stage in variant.stages:
        weights = _run_stage(folder, stage, folders, split, seed, weights, bfloat16, length)
    with write_whole(folder / "models/model.pt") as temporary:
        shutil.copyfile(weights, temporary)
    return folder


def read_training(training: Path) -> tuple[Length, int]:
    """The length of a training, and how many views its network had seen before, from its folder."""
    record = json.loads((training / RECORD).read_text())
    earlier_views = record.pop("earlier_views")
    return Length(**record), earlier_views


def write_untrained(variant: Variant, folder: Path) -> None:
    """A bundle without weights: a copy of the variant's, or of the U-Net's with another row's network."""
    if variant in VARIANTS:
        shutil.copytree(BUNDLES / variant.name, folder, ignore=NOT_COPIED)
        return
    shutil.copytree(BUNDLES / VARIANTS[0].name, folder, ignore=NOT_COPIED)
    for path in folder.glob("configs/*.json"):
        config = json.loads(path.read_text())
        if "network_def" in config:
            target = {} if "_target_" in variant.network else config["network_def"]
            base = {key: target[key] for key in ("_target_", "in_channels", "out_channels") if key in target}
            config |= {"network_def": base | variant.network} | (variant.training if path.stem == "train" else {})
            config["grid"] |= {"divisor": variant.divisor}
        path.write_text(json.dumps(config, indent=4) + "\n")
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    complexity = metadata["complexity"]
    network = open_bundle(folder).get_parsed_content("network_def")
    complexity |= count_complexity(network, complexity["input_shape"])
    (folder / "configs/metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")


def find_variant(name: str) -> Variant:
    """
    The row of a bundle, a baseline or an ablation.

    Raises:
        InputError: when there is none of that name.
    """
    rows = {variant.name: variant for variant in ROWS}
    if name not in rows:
        raise InputError(f"network: expected one of {', '.join(rows)}, found {name}.")
    return rows[name]


def find_split(split: str) -> Path:
    """
    A split file of docs/splits.

    Raises:
        InputError: when there is none of that name.
    """
    if split not in (HOLD_OUT, INNER):
        raise InputError(f"split: expected {HOLD_OUT} or {INNER}, found {split}.")
    return SPLITS / f"{split}.json"


def _count_earlier_views(name: str, start: Path | None) -> int:
    """The views that the weights which ship have seen, where a training goes on with them."""
    shipped = BUNDLES / name / "models/model.pt"
    if start is None or not shipped.is_file() or shipped.read_bytes() != start.read_bytes():
        return 0
    curves = read_table(RECORDS / f"{name}.csv")
    return int(curves[-1]["views"]) if curves else 0


def _run_stage(
    folder: Path,
    name: str,
    folders: Sequence[Path],
    split: str,
    seed: int,
    weights: Path | None,
    bfloat16: bool,
    length: Length,
) -> Path:
    """Run a stage, or what is left of it; gives its weights."""
    stage, ckpt_dir = STAGES[name], folder / f"models/{name}"
    made = ckpt_dir / "model.pt"
    if made.is_file() and not (ckpt_dir / "checkpoint.pt").is_file():
        return made
    settings = {
        "dataset_dir": [str(path.resolve()) for path in folders],
        "split_file": find_split(split),
        "ckpt_dir": f"models/{name}",
        "output_dir": f"eval/{name}",
        "cache_dir": folder.parents[1] / "cache",
        "epochs": length.count_epochs(stage),
        "views_per_epoch": length.views_per_epoch,
        "batch_size": BATCH_SIZE,
        "val_interval": max(1, VIEWS_TO_VALIDATE // length.views_per_epoch),
        "keep": "last",
        "seed": seed,
        **stage.settings,
    }
    if weights:
        settings["pretrained"] = weights.resolve()
    with (folder / "train.log").open("a") as log:
        device = ["gpu"] if torch.cuda.is_available() else ["bfloat16"] if bfloat16 else []
        succeeded = run_configs(folder, (*stage.configs, *device), settings, log)
    if not succeeded:
        raise InputError(f"{folder / 'train.log'}: stage {name} failed; its own message is at the end.")
    return made
