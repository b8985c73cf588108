"""
The protocol: every network trained the same way on the same views (docs/protocol.md).

A training is a chain of `monai.bundle run`s, its stages, in a bundle folder of its own: each goes on with the weights
of the one before. What is complete is left alone and what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.app.workflows import NOT_COPIED, run_configs
from common.bundle_folder import open_bundle
from common.errors import InputError
from common.files import write_whole
from zoo.rendering import BUNDLES, count_complexity
from zoo.variants import ROWS, VARIANTS, Variant

SPLITS = Path(__file__).parents[2] / "docs/splits"
HOLD_OUT, INNER = "hold_out", "inner"
VIEWS_PER_EPOCH, BATCH_SIZE = 1600, 16


@dataclass(frozen=True)
class Stage:
    """
    One run of a training.

    Args:
        epochs: of `VIEWS_PER_EPOCH` views each.
        settings: values of `train.json` and `prune.json`.
        configs: the configs that run.
        split: whose training side is trained on, a file of docs/splits; None: the training's own.
    """

    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    configs: tuple[str, ...] = ("train",)
    split: str | None = None


# docs/protocol.md says how many views every network saw
STAGES = {
    "whole": Stage(74),
    # Pocket U-Net's settings were chosen in this one, without the patients of the inner validation
    "first": Stage(18, split=INNER),
    "second": Stage(32),
    "third": Stage(24, {"learning_rate": 0.002}),
    # from the weights of version 0.1.0, as long as two CPU cores had time
    "dense_10": Stage(10),
    "dense_20": Stage(20),
    "short_3": Stage(3),
    "gentle_3": Stage(3, {"learning_rate": 0.005}),
    # zeros grow over the first half
    "sparse_8": Stage(8, configs=("train", "prune")),
    "sparse_14": Stage(14, configs=("train", "prune")),
}


def train(
    name: str,
    folders: Sequence[Path],
    output: Path,
    split: str = HOLD_OUT,
    seed: int = 0,
    bfloat16: bool = False,
    start: Path | None = None,
) -> Path:
    """
    Train a network on the training side of a split.

    Args:
        name: of a bundle, a baseline or an ablation.
        folders: KiTS folders: crops, whole slices, slices without kidney; see docs/protocol.md.
        output: folder of trainings, `<name>/<split>_<seed>/` for this one.
        split: `"hold_out"`, or `"inner"` to compare settings.
        bfloat16: train under autocast to bfloat16, see `configs/bfloat16.json`.
        start: weights to begin with; by default the network's initialization.

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
        part.rename(folder)
    weights = start and start.resolve()
    for stage in variant.stages:
        weights = _run_stage(folder, stage, folders, split, seed, weights, bfloat16)
    with write_whole(folder / "models/model.pt") as temporary:
        shutil.copyfile(weights, temporary)
    return folder


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


def _run_stage(
    folder: Path, name: str, folders: Sequence[Path], split: str, seed: int, weights: Path | None, bfloat16: bool
) -> Path:
    """Run a stage, or what is left of it; gives its weights."""
    stage, ckpt_dir = STAGES[name], folder / f"models/{name}"
    made = ckpt_dir / "model.pt"
    if made.is_file() and not (ckpt_dir / "checkpoint.pt").is_file():
        return made
    settings = {
        "dataset_dir": [str(path.resolve()) for path in folders],
        "split_file": find_split(stage.split or split),
        "ckpt_dir": f"models/{name}",
        "output_dir": f"eval/{name}",
        "cache_dir": folder.parents[1] / "cache",
        "epochs": stage.epochs,
        "views_per_epoch": VIEWS_PER_EPOCH,
        "batch_size": BATCH_SIZE,
        "val_interval": 5,
        "keep": "last",
        "seed": seed,
        **stage.settings,
    }
    if weights:
        settings["pretrained"] = weights.resolve()
    with (folder / "train.log").open("a") as log:
        succeeded = run_configs(folder, (*stage.configs, *(["bfloat16"] if bfloat16 else [])), settings, log)
    if not succeeded:
        raise InputError(f"{folder / 'train.log'}: stage {name} failed; its own message is at the end.")
    return made
