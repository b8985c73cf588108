"""
SD-UNet's Table 2 on its own data, the 30 slices of ISBI 2012: what do separable convolutions lose, and does weight
standardization give it back?

Every network is trained the same way on four fifths of the stack and scored on the rest, six neighbouring slices, as
wholes. See docs/studies/isbi.md.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from monai.utils import set_determinism
from skimage.measure import label as label_components
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.morphology import thin
from torch import nn

from common.errors import InputError
from common.files import write_whole
from common.kits.metrics import summarize
from common.kits.pairs import PairSlices, PairViews, find_pairs
from common.networks import LiteUNet, initialize_as
from zoo.pages import format_markdown_table, read_table
from zoo.rendering import SKELETON
from zoo.variants import ABLATIONS, VARIANTS

FOLDS = 5
SCORES = ("loss", "accuracy", "mean_iou", "dice", "v_rand", "v_info")
THRESHOLDS = tuple(n / 10 for n in range(1, 10))
SD_UNET = next(variant.network for variant in VARIANTS if variant.title == "SD-UNet")
NETWORKS: dict[str, dict[str, Any]] = {
    "U-Net": {},
    "U-Net (GN)": ABLATIONS["U-Net (GN)"],
    "U-Net (depthwise + BN)": ABLATIONS["U-Net (depthwise + BN)"],
    "U-Net (depthwise + GN)": ABLATIONS["U-Net (depthwise + GN)"],
    "SD-UNet with BN": ABLATIONS["SD-UNet with BN"],
    "SD-UNet, filter": ABLATIONS["SD-UNet (filter)"],
    "SD-UNet, layer": SD_UNET,
    "SD-UNet, no standardization": {**SD_UNET, "weight_standardization": False},
}


@dataclass(frozen=True)
class Settings:
    """
    How every network is trained.

    Args:
        channels: of all levels, the bottleneck last; the papers' are 64 to 1024.
        steps: of Adam, with a constant learning rate.
        side: of the training windows in pixels.
        bfloat16: train under autocast.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    steps: int = 2000
    batch_size: int = 4
    side: int = 256
    learning_rate: float = 1e-4
    bfloat16: bool = False


def split_by_blocks(pairs: Sequence[Mapping[str, str]], fold: int) -> tuple[list, list]:
    """Training and held-out pairs: held out is one of five runs of neighbouring slices."""
    if not 0 <= fold < FOLDS:
        raise InputError(f"folds: expected numbers from 0 to {FOLDS - 1}, found {fold}.")
    blocks = np.array_split(np.arange(len(pairs)), FOLDS)
    held_out = set(blocks[fold].tolist())
    return [p for i, p in enumerate(pairs) if i not in held_out], [p for i, p in enumerate(pairs) if i in held_out]


def make_network(name: str, settings: Settings) -> LiteUNet:
    """A network of the table with the channels of the settings, started as Keras does."""
    if name not in NETWORKS:
        raise InputError(f"networks: expected some of {', '.join(NETWORKS)}, found {name}.")
    arguments = {"num_convs": [2] * 5, **NETWORKS[name], "channels": list(settings.channels), "out_channels": 2}
    arguments["num_convs"] = arguments["num_convs"][: len(settings.channels)]
    return initialize_as(LiteUNet(**arguments), "keras")


def run(name: str, data: Path, cache_dir: Path, fold: int, seed: int, settings: Settings) -> dict[str, float]:
    """
    Train a network without one fold, and score it on that.

    Returns:
        the mean of every score over the held-out slices.
    """
    config = json.loads((SKELETON / "configs/data/isbi_em.json").read_text())
    training, held_out = split_by_blocks(find_pairs(data), fold)
    shared = {key: config[key] for key in ("class_names", "label_values")}
    shared |= {"window": config["hu_window"], "cache_dir": cache_dir}
    views = PairViews(
        training,
        **shared,
        side=settings.side,
        foreground_share=0,
        batch_size=settings.batch_size,
        views_per_epoch=settings.steps * settings.batch_size,
        seed=seed,
    )
    augment = ConfigParser({"augment": config["train#augmentation"]}).get_parsed_content("augment")
    set_determinism(seed)
    network = make_network(name, settings).to(memory_format=torch.channels_last)
    loss_function = make_loss()
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    network.train()
    for step in range(settings.steps):
        image, label = augment(views[step], "cpu")
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            logits = network(image.contiguous(memory_format=torch.channels_last))
        loss_function(logits.float(), label).backward()
        optimizer.step()
    return score(network, PairSlices(held_out, **shared, batch_size=1), loss_function)


def make_loss() -> nn.Module:
    """Binary cross-entropy minus Dice, and one: of two classes by softmax it is the same as of one by sigmoid."""
    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


@torch.no_grad()
def score(network: nn.Module, slices: PairSlices, loss_function: nn.Module) -> dict[str, float]:
    """Mean scores over whole slices; of the thresholds of V_rand and V_info the best over all slices."""
    rows, curves = [], []
    network.eval()
    for index in range(len(slices)):
        batch = slices[index]
        logits = network(batch["image"])
        inside = logits.softmax(dim=1)[0, 1].numpy()
        label = batch["label"][0, 0].numpy() > 0
        rows.append({"loss": loss_function(logits, batch["label"]).item(), **score_pixels(inside > 0.5, label)})
        curves.append([score_cells(inside > threshold, label) for threshold in THRESHOLDS])
    best = np.mean(curves, axis=0).max(axis=0)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return means | {"v_rand": float(best[0]), "v_info": float(best[1])}


def score_pixels(predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """
    Accuracy, mean IoU of both classes and Dice of the inside of cells.

    Example:
        >>> score_pixels(np.array([True, True]), np.array([True, False]))["accuracy"]
        0.5
    """
    ious = [(p & q).sum() / max((p | q).sum(), 1) for p, q in ((predicted, label), (~predicted, ~label))]
    return {
        "accuracy": float((predicted == label).mean()),
        "mean_iou": float(np.mean(ious)),
        "dice": float(2 * (predicted & label).sum() / max(predicted.sum() + label.sum(), 1)),
    }


def score_cells(inside: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """
    V_rand and V_info of the cells that a membrane, thinned to a line, leaves: 1 is perfect.

    Pixels of labelled membrane do not count. V_rand is the F-score of pairs of pixels, V_info twice the mutual
    information by the sum of the entropies.

    Source: Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142.
    """
    # a frame keeps the ends of thinned lines at the border
    found = label_components(~thin(np.pad(~inside, 1, constant_values=True))[1:-1, 1:-1], connectivity=1)
    truth = label_components(label, connectivity=1)
    rand = 1 - adapted_rand_error(truth, found, ignore_labels=(0,))[0]
    where = truth > 0
    split, merge = variation_of_information(truth[where], found[where])
    entropy = _entropy(truth[where]) + _entropy(found[where])
    return float(rand), float(1 - (split + merge) / entropy) if entropy else 1.0


def _entropy(labels: np.ndarray) -> float:
    shares = np.unique(labels, return_counts=True)[1] / labels.size
    return float(-(shares * np.log2(shares)).sum())


def run_all(
    data: Path,
    table: Path,
    cache_dir: Path,
    networks: Sequence[str],
    folds: Sequence[int],
    seeds: Sequence[int],
    settings: Settings,
) -> None:
    """Run what is not in a table yet, fold by fold, and write it after every run."""
    rows = read_table(table)
    done = {(row["network"], row["fold"], row["seed"]) for row in rows}
    for seed in seeds:
        for fold in folds:
            for name in networks:
                if (name, str(fold), str(seed)) not in done:
                    scores = run(name, data, cache_dir, fold, seed, settings)
                    print(name, fold, seed, {key: round(value, 4) for key, value in scores.items()}, flush=True)
                    rows.append({"network": name, "fold": str(fold), "seed": str(seed)})
                    rows[-1] |= {key: f"{scores[key]:.6f}" for key in SCORES} | _describe(settings)
                    write_rows(rows, table)


def _describe(settings: Settings) -> dict[str, str]:
    described = {key: str(value) for key, value in vars(settings).items()}
    return described | {"channels": "-".join(map(str, settings.channels))}


def write_rows(rows: Sequence[Mapping[str, str]], table: Path) -> None:
    """Write a table in one piece."""
    with write_whole(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def format_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Mean of every score over folds and seeds, with its 95 % bootstrap interval, network by network."""
    lines = []
    for name in NETWORKS:
        own = [{key: float(row[key]) for key in SCORES} for row in rows if row["network"] == name]
        if own:
            columns = summarize(own)
            cells = {
                key: f"{column['mean']:.3f} ({column['ci95_low']:.3f} to {column['ci95_high']:.3f})"
                for key, column in columns.items()
            }
            lines.append({"network": name, "runs": str(len(own)), **cells})
    return format_markdown_table(lines) if lines else ""
