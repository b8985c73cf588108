"""A pruned bundle from a bundle: a complete new folder, its numbers counted anew."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle_folder import find_bundle, open_bundle
from ..compression.channels import prune_channels, scale_channels
from ..compression.complexity import measure_complexity
from ..compression.zeros import METHODS, LayerSparsity, measure_sparsity, prune_weights
from ..errors import InputError
from ..files import check_writable
from ..networks import LiteUNet, load_weights
from ..networks.weights import save_weights
from .card import NO_WEIGHTS, count_complexity, count_zeros, render_weights, replace_weights_text
from .workflows import CHANNELS_ONLY, NOT_COPIED, run_configs

TRAINED_ON = "the cases that the bundle pruned here was trained or fine-tuned on"


@dataclass(frozen=True)
class Pruning:
    """
    What to prune.

    Args:
        method: `"magnitude"`, `"sigma"` (see `compute_masks`) or `"channel"` (see `prune_channels`).
        amount: share of the weights or channels, or for `"sigma"` the ratio to the standard deviation.
        channels: width of every level in place of `amount`, for `"channel"`.
    """

    method: str
    amount: float = 0.0
    signed: bool = False
    importance: str = "l1"
    channels: Sequence[int] | None = None


@dataclass(frozen=True)
class Finetuning:
    """
    How long to train while and after pruning.

    Args:
        epochs: at the bundle's slice size.
        coarse_epochs: before them, at half that height and width, which takes a quarter of the time.
    """

    epochs: int
    coarse_epochs: int = 0


@dataclass(frozen=True)
class Cost:
    """What is compared before and after: counts, FLOPs, and bytes of the file of weights."""

    parameters: int
    nonzero_parameters: int
    flops: int
    file_bytes: int


@dataclass(frozen=True)
class PrunedBundle:
    """The new folder, what the first unpruned network cost, the given one and the new one, and where the zeros are."""

    folder: Path
    original: dict[str, int]
    before: Cost
    after: Cost
    layers: list[LayerSparsity]


def write_pruned_bundle(
    bundle: Path,
    output: Path,
    pruning: Pruning,
    finetuning: Finetuning | None = None,
    dataset_dir: Path | None = None,
    options: dict[str, Any] | None = None,
) -> PrunedBundle:
    """
    Prune the network of a bundle and write a complete bundle around it, all or nothing.

    Args:
        bundle: bundle folder with weights; its configs name a `LiteUNet`.
        output: the new folder, whose name becomes the bundle's; must not exist.
        finetuning: with it, pruning happens in the new bundle's own `prune.json` workflow.
        dataset_dir: KiTS folder, needed to fine-tune and for the importance `"taylor"`.
        options: further settings of `train.json`, such as `split_file`.

    Raises:
        InputError: where something is missing, or the pruning does not fit the network.
    """
    bundle = find_bundle(bundle)
    if output.exists():
        raise InputError(f"{output}: expected a new folder, found one that exists.")
    check_writable(output.parent)
    if dataset_dir is None and (finetuning or pruning.importance == "taylor"):
        raise InputError("dataset_dir: expected a KiTS folder to fine-tune on or take gradients from, found none.")
    weights = bundle / "models/model.pt"
    network = load_weights(_build_network(bundle), weights)
    pruned = _prune(network, pruning, bundle, dataset_dir, options or {})

    # a run that was killed may have left another's, which what it started may still write to
    part = output.with_name(f".{os.getpid()}.{output.name}.part")
    try:
        shutil.copytree(bundle, part, ignore=NOT_COPIED)
        _write_channels(part, pruned.channels)
        if finetuning:
            settings = {"dataset_dir": dataset_dir.resolve(), **(options or {}), "importance": pruning.importance}
            _finetune(part, weights.resolve(), pruning, finetuning, settings)
            load_weights(pruned, part / "models/pruned/model.pt")
            shutil.rmtree(part / "models")
            shutil.rmtree(part / "eval", ignore_errors=True)
        save_weights(pruned, part / "models/model.pt")
        metadata = json.loads((part / "configs/metadata.json").read_text())
        shape = metadata["complexity"]["input_shape"]
        before, after = _measure(network, weights, shape), _measure(pruned, part / "models/model.pt", shape)
        original = _write_card(part, metadata, network, pruned, pruning)
        _put_in_place(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return PrunedBundle(output, original, before, after, measure_sparsity(pruned))


def _put_in_place(part: Path, output: Path) -> None:
    try:
        part.rename(output)
    except OSError as error:  # somebody else was faster
        raise InputError(f"{output}: expected a new folder, found: {error.strerror or error}.") from error


def read_channels(text: str) -> list[int]:
    """
    Widths as they are typed, "16,32,64,128,256".

    Raises:
        InputError: when they are no numbers.
    """
    try:
        return [int(width) for width in text.split(",")]
    except ValueError as error:
        raise InputError(f"--channels: expected numbers with commas between, found {text}.") from error


def _build_network(bundle: Path) -> LiteUNet:
    network = open_bundle(bundle).get_parsed_content("network_def")
    if not isinstance(network, LiteUNet):
        raise InputError(f"{bundle}: expected network_def to be a LiteUNet, found {type(network).__name__}.")
    return network


def _prune(
    network: LiteUNet, pruning: Pruning, bundle: Path, dataset_dir: Path | None, options: dict[str, Any]
) -> LiteUNet:
    if pruning.method in METHODS:
        return prune_weights(network, pruning.method, pruning.amount, pruning.signed)
    if pruning.method != "channel":
        raise InputError(f"method must be one of {', '.join(METHODS)}, channel, got method={pruning.method!r}.")
    channels = pruning.channels or scale_channels(network, pruning.amount)
    if pruning.importance != "taylor":
        return prune_channels(network, channels, pruning.importance)
    with tempfile.TemporaryDirectory() as folder:
        parser = open_bundle(bundle, "train")
        parser.update({"dataset_dir": str(dataset_dir), "output_dir": folder, **options})
        batches, loss_function = (parser.get_parsed_content(key) for key in ("train#dataloader", "loss"))
        return prune_channels(network, channels, pruning.importance, batches, loss_function)


def _finetune(bundle: Path, weights: Path, pruning: Pruning, finetuning: Finetuning, settings: dict[str, Any]) -> None:
    """Run `prune.json`, where the channels follow from `network_def`, and an amount of 0 keeps zeros zero."""
    if finetuning.coarse_epochs:
        coarse = {"epochs": finetuning.coarse_epochs, **_halve(json.loads((bundle / "configs/train.json").read_text()))}
        folders = {"ckpt_dir": "models/coarse", "output_dir": "eval/coarse"}
        _run(bundle, settings | CHANNELS_ONLY | coarse | folders | {"pretrained": weights})
        weights = "models/coarse/model.pt"
    zeros = {"method": pruning.method, "amount": pruning.amount, "signed": pruning.signed}
    zeros = CHANNELS_ONLY if pruning.method == "channel" else zeros
    _run(bundle, settings | zeros | {"epochs": finetuning.epochs, "pretrained": weights})


def _halve(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the network of a training see everything at half its size."""
    settings: dict[str, Any] = {}
    if "windows" in config:
        settings["windows"] = {str(int(side) // 2): share for side, share in config["windows"].items()}
    if "patch_size" in config:
        settings["patch_size"] = [*(length // 2 for length in config["patch_size"][:2]), config["patch_size"][2]]
    if config["spatial_size"] is not None:
        settings["spatial_size"] = [length // 2 for length in config["spatial_size"]]
    for key, factor in (("factor", 0.5), ("pixel_mm", 2)):
        if config[key] is not None:
            settings[key] = config[key] * factor
    return settings


def _run(bundle: Path, settings: dict[str, Any]) -> None:
    if not run_configs(bundle, ("train", "prune"), settings):
        raise InputError(f"{bundle.name}: the fine-tuning run failed; its own message stands above.")


def _write_channels(bundle: Path, channels: Sequence[int]) -> None:
    for path in bundle.glob("configs/*.json"):
        config = json.loads(path.read_text())
        if "network_def" in config:
            config["network_def"]["channels"] = list(channels)
            path.write_text(json.dumps(config, indent=4) + "\n")


def _measure(network: LiteUNet, weights: Path, input_shape: Sequence[int]) -> Cost:
    complexity = measure_complexity(network, input_shape)
    return Cost(complexity.parameters, complexity.nonzero_parameters, complexity.flops, weights.stat().st_size)


def _write_card(
    bundle: Path, metadata: dict[str, Any], network: LiteUNet, pruned: LiteUNet, pruning: Pruning
) -> dict[str, int]:
    """Put the new numbers into metadata and README; gives those of the first network that was not pruned."""
    complexity = metadata["complexity"]
    before, after = (count_complexity(n, complexity["input_shape"]) for n in (network, pruned))
    original = complexity.setdefault("original", {"channels": list(network.channels), **before})
    complexity |= after | count_zeros(pruned) | {"pruning": [*complexity.get("pruning", []), asdict(pruning)]}
    metadata["name"] = metadata["name"].removesuffix(", pruned") + ", pruned"
    metadata["description"] = metadata["description"].removesuffix(f" {NO_WEIGHTS}")
    # whatever was measured of the given weights does not hold for these
    metadata.pop("scores", None)
    metadata["weights"] = render_weights(bundle / "models/model.pt", {"trained_on": TRAINED_ON})
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    readme = bundle / "docs/README.md"
    text = readme.read_text()
    for key, old in before.items():
        text = text.replace(f"{old:,}", f"{after[key]:,}")
    readme.write_text(replace_weights_text(text, metadata))
    return original
