"""
The protocol: every network trained, tested and delivered the same way on one small data set (docs/protocol.md).

    fold_1, fold_2, fold_3   train on the fold's training cases -- segment its held-out cases --> cross-validated Dice
    all                      train on all cases --> the models/model.pt that ships

A training is a chain of `monai.bundle run`s, its stages, in a bundle folder of its own: each goes on with the weights
of the one before. What is complete is left alone and what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.app.segmenter import Segmenter, segment_to_folder
from common.app.workflows import CHANNELS_ONLY, NOT_COPIED, run_configs
from common.bundle_folder import open_bundle
from common.errors import InputError
from common.files import replace_file
from common.kits.cases import find_cases, read_split, select_labelled
from zoo.rendering import BUNDLES, count_complexity
from zoo.variants import BASELINES, VARIANTS, Variant

FOLDS = ("fold_1", "fold_2", "fold_3")
ALL = "all"
SPLITS = Path(__file__).parents[2] / "docs/folds"


@dataclass(frozen=True)
class Stage:
    """
    One run of a training.

    Args:
        epochs: fewer where they would cost more than `MAX_FLOPS`, see `plan_length`.
        patch_size: height and width of what the network sees of a slice of 256 x 256.
        settings: values of `train.json` and `prune.json`.
        configs: the configs that run.
    """

    epochs: int
    patch_size: int
    settings: Mapping[str, Any]
    configs: tuple[str, ...] = ("train",)


PATCHES = {"translate_range": [30, 30], "scale_range": [[-0.1, 0.9], [-0.1, 0.9]]}
SLOWER = {"optimizer#lr": "$@learning_rate / 3"}
STAGES = {
    "coarse": Stage(60, 128, PATCHES),
    # SD-UNet's filters have mean zero and see nothing flat: it learns slowly (docs/studies/audit.md)
    "slow": Stage(90, 128, PATCHES),
    "fine": Stage(24, 256, {}),
    # Pocket U-Net costs little and learns to the end of it
    "long": Stage(144, 256, {}),
    # wide networks lose more by a high learning rate after a change of size than they gain by it
    "gentle": Stage(24, 256, SLOWER),
    # SD-UNet's loss still falls when the first is over
    "long_gentle": Stage(48, 256, SLOWER),
    "narrow": Stage(60, 128, PATCHES | CHANNELS_ONLY, ("train", "prune")),
    "sparse": Stage(36, 256, {}, ("train", "prune")),
    # three quarters of UNet-PWP's channels are gone: more epochs gain it more than WP-UNet
    "long_sparse": Stage(72, 256, {}, ("train", "prune")),
}
# of one stage; a backward pass counts as two forward ones
MAX_FLOPS = 240e12
SLICES, SPATIAL_SIZE = 66, 256


def plan_length(stage: Stage, flops: int) -> dict[str, int]:
    """
    Epochs and batch size of a stage: all epochs with batches of 4, or, where that would cost more than `MAX_FLOPS`, as
    many as it pays for with batches of 2, which takes about as many steps.

    Args:
        flops: of the network for one slice of 256 x 256.
    """
    affordable = int(MAX_FLOPS / (3 * flops * SLICES * (stage.patch_size / SPATIAL_SIZE) ** 2))
    if affordable < stage.epochs:
        return {"epochs": affordable, "batch_size": 2}
    return {"epochs": stage.epochs, "batch_size": 4}


def plan_stage(folder: Path, name: str) -> dict[str, int]:
    """`plan_length` of a stage for the network of a bundle folder."""
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    return plan_length(STAGES[name], metadata["complexity"]["flops"])


def train(name: str, fold: str, dataset_dir: Path, output: Path, bfloat16: bool = False) -> Path:
    """
    Train a network on the training cases of a fold, or on all cases.

    Args:
        name: of a bundle or a baseline.
        fold: one of `FOLDS`, or `ALL`.
        dataset_dir: KiTS folder.
        output: folder of trainings, `<name>/<fold>/` for this one.
        bfloat16: train under autocast to bfloat16, see `common.training.BFloat16Inferer`.

    Returns:
        a bundle folder of its own, with its weights.

    Raises:
        InputError: where a stage fails, or the network that this one is pruned from is not trained yet.
    """
    variant = find_variant(name)
    folder = output / name / fold
    if not folder.is_dir():
        part = folder.with_name(f".{fold}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_untrained(variant, part)
        part.rename(folder)
    weights = output / variant.pruned_from / fold / "models/model.pt" if variant.pruned_from else None
    if weights and not weights.is_file():
        raise InputError(f"{weights}: expected the weights that {name} is pruned from; train {variant.pruned_from}.")
    for stage in variant.stages:
        weights = _run_stage(folder, stage, fold, dataset_dir, weights, bfloat16)
    with replace_file(folder / "models/model.pt") as temporary:
        shutil.copyfile(weights, temporary)
    return folder


def write_untrained(variant: Variant, folder: Path) -> None:
    """A bundle without weights: a copy of the variant's, or the skeleton with a baseline's network."""
    if variant in VARIANTS:
        shutil.copytree(BUNDLES / variant.name, folder, ignore=NOT_COPIED)
        return
    shutil.copytree(BUNDLES / VARIANTS[0].name, folder, ignore=NOT_COPIED)
    for path in folder.glob("configs/*.json"):
        config = json.loads(path.read_text())
        if "network_def" in config:
            config |= {"network_def": variant.network} | (variant.training if path.stem == "train" else {})
        path.write_text(json.dumps(config, indent=4) + "\n")
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    complexity = metadata["complexity"]
    network = open_bundle(folder).get_parsed_content("network_def")
    complexity |= count_complexity(network, complexity["input_shape"])
    (folder / "configs/metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")


def segment_held_out(folder: Path, fold: str, dataset_dir: Path, output: Path) -> None:
    """Segment the held-out cases of a fold with the network trained on it: `<output>/<case>.nii.gz`."""
    output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter(folder, backend="torch")
    for case in select_labelled(find_cases(dataset_dir), read_split(find_split(fold))["validation"]):
        (output / f"{case['case']}.nii.gz").unlink(missing_ok=True)
        segment_to_folder(segmenter, case, output)


def find_variant(name: str) -> Variant:
    """
    The row of a bundle or a baseline.

    Raises:
        InputError: when there is none of that name.
    """
    rows = {variant.name: variant for variant in (*VARIANTS, *BASELINES)}
    if name not in rows:
        raise InputError(f"network: expected one of {', '.join(rows)}, found {name}.")
    return rows[name]


def find_split(fold: str) -> Path:
    """The split file of a fold; all cases are both sides of the first."""
    if fold not in (*FOLDS, ALL):
        raise InputError(f"fold: expected one of {', '.join(FOLDS)}, {ALL}, found {fold}.")
    return SPLITS / f"{FOLDS[0] if fold == ALL else fold}.json"


def _run_stage(folder: Path, name: str, fold: str, dataset_dir: Path, weights: Path | None, bfloat16: bool) -> Path:
    """Run a stage, or what is left of it; gives its weights."""
    stage, ckpt_dir = STAGES[name], folder / f"models/{name}"
    made = ckpt_dir / "model.pt"
    if made.is_file() and not (ckpt_dir / "checkpoint.pt").is_file():
        return made
    settings = {
        "dataset_dir": dataset_dir.resolve(),
        "split_file": find_split(fold),
        "ckpt_dir": f"models/{name}",
        "output_dir": f"eval/{name}",
        "cache_dir": folder.parents[1] / "cache",
        "patch_size": [stage.patch_size, stage.patch_size],
        **plan_stage(folder, name),
        "val_interval": 5,
        "keep": "last",
        "bfloat16": bfloat16,
        **stage.settings,
    }
    if weights:
        settings["pretrained"] = weights.resolve()
    if fold == ALL:
        settings["train#dataset#data"] = "$@split['training'] + @split['validation']"
    with (folder / "train.log").open("a") as log:
        succeeded = run_configs(folder, stage.configs, settings, log)
    if not succeeded:
        raise InputError(f"{folder / 'train.log'}: stage {name} failed; its own message is at the end.")
    return made
