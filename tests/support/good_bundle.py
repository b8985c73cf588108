"""A bundle whose metadata is true, in a repository of its own, and what its verification finds when it is broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from bundle_runs import POCKET, ROOT

from common.app.card import NO_WEIGHTS, describe_weights
from common.app.segmenter import Segmenter
from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.files import hash_file
from common.kits.cases import find_cases
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
DICE = ("Dice of the cross-validation", "Dice of the shipped weights")
FAST = [name for name in CHECKS if name not in (*DICE, "run elsewhere")]
FOLDS = [[0, 1], [2], [3]]
SCORE = "kits-lite score --labels kits19 --predictions out"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def find_problems(bundle: Path, dataset_dir: Path | None = None, check: str = "") -> list[tuple[str, str]]:
    """Every fast check that found a problem, and the problem; of a slow one too, if asked for."""
    outcomes = verify_bundle(bundle, dataset_dir, FAST if check in FAST or not check else [*FAST, check])
    return [(outcome.name, outcome.detail) for outcome in outcomes if outcome.status == "problem"]


def score(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, object]:
    """Dice of pairs of label maps: pooled over the voxels of all, and the mean over the pairs."""
    pooled, alone = measure(pairs), [measure([pair]) for pair in pairs]
    per_case = {name: float(np.mean([dice[name] for dice in alone])) for name in pooled}
    return {"cases": len(pairs), **pooled, "per_case": per_case}


def measure(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    masks = {"kidney_and_tumor": lambda m: m > 0, "tumor": lambda m: m > 1}
    scores = {}
    for name, mask in masks.items():
        counts = np.array([[(mask(a) & mask(b)).sum(), mask(a).sum(), mask(b).sum()] for a, b in pairs]).sum(axis=0)
        scores[name] = float(2 * counts[0] / (counts[1] + counts[2]))
    return scores


def write_good_bundle(root: Path, phantoms: Path) -> Path:
    """Pocket U-Net with untrained weights; its scores are counted here, not by the code that is tested."""
    bundle = write_bundle(next(v for v in VARIANTS if v.name == POCKET), root / "bundles")
    (root / "scripts").symlink_to(ROOT / "scripts")
    torch.manual_seed(0)
    network = LiteUNet(channels=CHANNELS)
    next(network.parameters()).data[:4] = 0
    save_weights(network, bundle / WEIGHTS)
    edit(bundle / INFERENCE, lambda config: config.update(spatial_size=[32, 32]))

    cases, predictions = find_cases(phantoms), root / "docs/cross_validation" / POCKET
    predictions.mkdir(parents=True)
    (root / "docs/protocol.md").write_text("How.")
    segmenter, ours, folds = Segmenter(bundle, backend="torch"), [], []
    labels = [np.asarray(nib.load(case["label"]).dataobj) for case in cases]
    moved = [np.roll(label, 1 + index, axis=1) for index, label in enumerate(labels)]
    for case, label, prediction in zip(cases, labels, moved):
        affine = nib.load(case["label"]).affine
        nib.save(nib.Nifti1Image(prediction, affine), predictions / f"{case['case']}.nii.gz")
        ours.append((segmenter.segment(case).label_map, label))
    for number, held_out in enumerate(FOLDS, start=1):
        path = root / f"docs/folds/fold_{number}.json"
        path.parent.mkdir(exist_ok=True)
        names = [[case["case"] for i, case in enumerate(cases) if (i in held_out) == side] for side in (False, True)]
        path.write_text(json.dumps(dict(zip(("training", "validation"), names))))
        folds.append({"split_file": f"docs/folds/{path.name}", **score([(moved[i], labels[i]) for i in held_out])})

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
        mean = {name: float(np.mean([fold[name] for fold in folds])) for name in ("kidney_and_tumor", "tumor")}
        metadata["scores"] = {
            "protocol": "docs/protocol.md",
            "cross_validation": {
                **score(list(zip(moved, labels))),
                "mean_of_folds": mean,
                "folds": folds,
                "predictions": f"docs/cross_validation/{POCKET}",
                "command": SCORE,
            },
            "shipped_weights": {**score(ours), "command": f"{SCORE} && {SCORE}"},
        }
        assert all(0 < value < 1 for value in (*measure(ours).values(), *measure(list(zip(moved, labels))).values()))
        readme = bundle / README
        text = re.sub(f"{NO_WEIGHTS}|Weights: .*?mean of the cases\\.", describe_weights(metadata), readme.read_text())
        readme.write_text(text)

    edit(bundle / METADATA, record)
    return bundle
