"""A bundle whose metadata is true, in a repository of its own, and what its verification finds when it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import skimage.measure
import torch
from bundle_runs import POCKET, ROOT
from scipy import ndimage

from common.app.card import replace_weights_text
from common.app.segmenter import Segmenter
from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.files import hash_file
from common.kits.cases import find_cases
from common.kits.metrics import summarize
from common.networks import LiteUNet
from common.networks.weights import save_weights
from zoo.rendering import write_bundle
from zoo.variants import VARIANTS
from zoo.verification import CHECKS, verify_bundle

CHANNELS, WIDER = [16] * 5, [20] * 5
METADATA, INFERENCE = "configs/metadata.json", "configs/inference.json"
README, WEIGHTS = "docs/README.md", "models/model.pt"
LABELS = "0 background, 1 kidney, 2 tumor"
SWAPPED = "0 background, 1 tumor, 2 kidney"
SCORES = "scores"
FAST = [name for name in CHECKS if name not in (SCORES, "run elsewhere")]
SCORE = "kits-lite score --labels kits19 --predictions out"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def find_problems(bundle: Path, dataset_dir: Path | None = None, check: str = "") -> list[tuple[str, str]]:
    """Every fast check that found a problem, and the problem; of a slow one too, if asked for."""
    outcomes = verify_bundle(bundle, dataset_dir, FAST if check in FAST or not check else [*FAST, check])
    return [(outcome.name, outcome.detail) for outcome in outcomes if outcome.status == "problem"]


def measure(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    masks = {"kidney_and_tumor": lambda m: m > 0, "tumor": lambda m: m > 1}
    scores = {}
    for name, mask in masks.items():
        counts = np.array([[(mask(a) & mask(b)).sum(), mask(a).sum(), mask(b).sum()] for a, b in pairs]).sum(axis=0)
        scores[name] = float(2 * counts[0] / (counts[1] + counts[2]))
    return scores


def keep_two_largest(prediction: np.ndarray) -> np.ndarray:
    pieces = skimage.measure.label(prediction > 0, connectivity=3)
    largest = sorted(skimage.measure.regionprops(pieces), key=lambda piece: piece.area)[-2:]
    return prediction * np.isin(pieces, [piece.label for piece in largest])


def count_scores(pairs: dict[str, tuple[np.ndarray, np.ndarray]], spacing_mm: Sequence[float]) -> dict[str, object]:
    """The scores of prediction and label (X, Y, Z) of some patients; the last is the scan, the first two held out."""
    *held_out, scan = pairs
    held_out = held_out[:2]
    own = [{"case": name, **measure([pairs[name]])} for name in held_out]
    slices = [pair for name in held_out for pair in zip(*(np.moveaxis(volume, 2, 0) for volume in pairs[name]))]
    empty = [np.count_nonzero(prediction) for prediction, label in slices if not label.any()]
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    prediction, label = pairs[scan]
    holds = np.flatnonzero(label.any(axis=(0, 1)))
    outside = [z for z in range(label.shape[2]) if not holds[0] <= z <= holds[-1]]

    def score_scan(prediction: np.ndarray) -> dict[str, float]:
        invented = np.count_nonzero(prediction[..., outside])
        return measure([(prediction, label)]) | {"invented_ml": invented * voxel_ml}

    pieces = [(ndimage.label(prediction == 2, np.ones((3, 3))), label == 2) for prediction, label in slices]
    false = [
        piece
        for (labels, number), tumor in pieces
        for piece in range(1, number + 1)
        if (labels == piece).sum() >= 80 and not (tumor & (labels == piece)).any()
    ]
    with_tumor = [name for name in held_out if (pairs[name][1] == 2).any()]
    return {
        "patients": {
            "patients": 2,
            "pooled": measure([pairs[name] for name in held_out]),
            "per_patient": summarize(own),
            "with_tumor": len(with_tumor),
            "tumor_found": sum(((pairs[n][0] == 2) & (pairs[n][1] == 2)).any().item() for n in with_tumor),
            "false_tumors": len(false),
        },
        "without_kidney": {
            "slices": len(empty),
            "wrong_slices": sum(pixels > 80 for pixels in map(int, empty)),
            "mean_ml": float(np.mean(empty)) * voxel_ml,
        },
        "scan": {
            "case": scan,
            "slices": label.shape[2],
            **score_scan(keep_two_largest(prediction)),
            "all_pieces": score_scan(prediction),
        },
    }


def write_good_bundle(root: Path, phantoms: Path) -> Path:
    """Pocket U-Net with untrained weights; its scores are counted here, not by the code that is tested."""
    bundle = write_bundle(next(v for v in VARIANTS if v.name == POCKET), root / "bundles")
    (root / "scripts").symlink_to(ROOT / "scripts")
    torch.manual_seed(0)
    network = LiteUNet(channels=CHANNELS)
    next(network.parameters()).data[:4] = 0
    save_weights(network, bundle / WEIGHTS)
    edit(bundle / INFERENCE, lambda config: config.update(spatial_size=[32, 32]))

    cases = find_cases(phantoms)
    (root / "docs/splits").mkdir(parents=True)
    (root / "docs/protocol.md").write_text("How.")
    split = {"training": [case["case"] for case in cases[2:]], "validation": [case["case"] for case in cases[:2]]}
    (root / "docs/splits/hold_out.json").write_text(json.dumps(split))
    segmenter, pairs = Segmenter(bundle, backend="torch"), {}
    for case in cases:
        label = nib.as_closest_canonical(nib.load(case["label"]))
        pairs[case["case"]] = segmenter.segment(case).prediction, np.asarray(label.dataobj)
    scores = count_scores(pairs, label.header.get_zooms())

    def record(metadata: dict) -> None:
        data_format = metadata["network_data_format"]
        for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
            tensor["spatial_shape"] = [32, 32]
        nonzero, parameters = count_nonzero_parameters(network), count_parameters(network)
        assert nonzero < parameters
        metadata["complexity"] |= {"nonzero_parameters": nonzero, "sparsity": round(1 - nonzero / parameters, 6)}
        wider = LiteUNet(channels=WIDER)
        counted = {"parameters": count_parameters(wider), "flops": count_flops(wider)}
        metadata["complexity"]["original"] = {"channels": WIDER, **counted}
        file = {"file": WEIGHTS, "bytes": (bundle / WEIGHTS).stat().st_size, "sha256": hash_file(bundle / WEIGHTS)}
        metadata["weights"] = file | {"license": "CC BY-NC-SA 4.0", "trained_on": "nothing"}
        metadata["scores"] = {
            "protocol": "docs/protocol.md",
            "split_file": "docs/splits/hold_out.json",
            "command": f"{SCORE} && {SCORE}",
            **scores,
        }
        assert all(0 < value < 1 for value in measure(list(pairs.values())).values())
        readme = bundle / README
        readme.write_text(replace_weights_text(readme.read_text(), metadata))

    edit(bundle / METADATA, record)
    return bundle
