"""
What a user can believe of a network: its scores on held-out patients, on slices without kidney, and on a whole scan.

    patients         the held-out patients' crops and whole slices: Dice pooled and per patient, tumours found
    without_kidney   the held-out patients' whole slices without kidney: how much is invented in them
    scan             one whole scan: the official Dice, and how much is invented above and below the kidneys; the same
                     where all pieces stay, and not the two largest alone

Labels hold 0 background, 1 kidney, 2 tumour; "kidney_and_tumor" is the official KiTS19 kidney, labels above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from common.kits.components import AUTO, keep_components
from common.kits.metrics import KITS19, PooledDice, pooled_dice, summarize
from common.kits.preprocessing import orient_to_ras, spacing_in_ras
from common.kits.volumes import open_volume, read_label

# the metadata's names of the KiTS19 classes
CLASSES = {"kidney_and_tumor": "kidney", "tumor": "tumor"}
TUMOR = 2
# a slice without kidney counts as wrong, and a piece of tumour as invented, from so many of its own pixels on
MANY_PIXELS = 80

Predict = Callable[[Mapping[str, str]], np.ndarray]


def read_label_in_ras(case: Mapping[str, str]) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The label of a case, (X, Y, Z) in RAS, and the size of its voxels in mm."""
    image = open_volume(case["label"])
    return orient_to_ras(read_label(image), image.affine), spacing_in_ras(image.affine)


def score_held_out(predict: Predict, cases: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """
    Scores of held-out patients, from slices that need not be contiguous.

    Args:
        predict: gives the label map (X, Y, Z) in RAS of a case.
        cases: "case", the patient, "image" and "label"; a patient may have several.

    Returns:
        "patients" and "without_kidney", see above. Tumours are counted slice by slice: a patient's tumour is found when
        a pixel of it is; a false tumour is a connected piece of at least `MANY_PIXELS` pixels in one slice that touches
        no labelled tumour.
    """
    counts: dict[str, list[torch.Tensor]] = {}
    invented_ml, wrong_slices, false_tumors = [], 0, 0
    with_tumor, found = set(), set()
    for case in cases:
        label, spacing_mm = read_label_in_ras(case)
        prediction = predict(case)
        for z in range(label.shape[2]):
            predicted, labelled = (np.ascontiguousarray(volume[..., z]) for volume in (prediction, label))
            if not labelled.any():
                pixels = np.count_nonzero(predicted)
                invented_ml.append(pixels * float(np.prod(spacing_mm)) / 1000)
                wrong_slices += pixels > MANY_PIXELS
            false_tumors += count_false_tumors(predicted == TUMOR, labelled == TUMOR)
            if (labelled == TUMOR).any():
                with_tumor.add(case["case"])
                if ((labelled == TUMOR) & (predicted == TUMOR)).any():
                    found.add(case["case"])
        counts.setdefault(case["case"], []).append(tally_voxels(prediction, label))
    dice = {name: pooled_dice(torch.cat(parts)).tolist() for name, parts in counts.items()}
    rows = [{"case": name, **dict(zip(CLASSES, values))} for name, values in dice.items()]
    pooled = pooled_dice(torch.cat(sum(counts.values(), []))).tolist()
    return {
        "patients": {
            "patients": len(rows),
            "pooled": {name: round(value, 6) for name, value in zip(CLASSES, pooled)},
            "per_patient": {name: _round(summary) for name, summary in summarize(rows).items()},
            "with_tumor": len(with_tumor),
            "tumor_found": len(found),
            "false_tumors": int(false_tumors),
        },
        "without_kidney": {
            "slices": len(invented_ml),
            "wrong_slices": int(wrong_slices),
            "mean_ml": round(float(np.mean(invented_ml)) if invented_ml else 0.0, 4),
        },
    }


def score_scan(predict: Predict, case: Mapping[str, str], keep_largest: int | str | None = AUTO) -> dict[str, Any]:
    """
    Scores of one whole scan.

    Args:
        predict: gives the label map (X, Y, Z) in RAS of a case, all pieces of it.
        keep_largest: see `keep_components`.

    Returns:
        "kidney_and_tumor", "tumor": the official Dice of KiTS19; "invented_ml": foreground in slices above and below
        all that is labelled; "all_pieces": the same three without `keep_components`; "slices".
    """
    label, spacing_mm = read_label_in_ras(case)
    holds = np.flatnonzero(label.any(axis=(0, 1)))
    outside = np.ones(label.shape[2], bool)
    outside[holds[0] : holds[-1] + 1] = False

    def score(prediction: np.ndarray) -> dict[str, float]:
        dice = pooled_dice(tally_voxels(prediction, label)).tolist()
        invented = np.count_nonzero(prediction[..., outside]) * float(np.prod(spacing_mm)) / 1000
        scores = {name: round(value, 6) for name, value in zip(CLASSES, dice)}
        return scores | {"invented_ml": round(float(invented), 3)}

    every = predict(case)
    kept = every.copy()
    keep_components(kept, spacing_mm, keep_largest)
    return {"case": case["case"], "slices": label.shape[2], **score(kept), "all_pieces": score(every)}


def tally_voxels(prediction: np.ndarray, label: np.ndarray) -> torch.Tensor:
    """Voxels of one case for `pooled_dice`: (1, classes, 3 = intersection, predicted, labelled)."""
    maps = (torch.from_numpy(np.ascontiguousarray(volume))[None, None] for volume in (prediction, label))
    return PooledDice(KITS19.name)(*maps)


def count_false_tumors(predicted: np.ndarray, labelled: np.ndarray) -> int:
    """Connected pieces (8 neighbours) of a predicted tumour, of some size, that touch no labelled one; masks (X, Y)."""
    pieces, number = ndimage.label(predicted, structure=np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=number + 1)[1:]
    touched = set(np.unique(pieces[labelled]))
    return sum(size >= MANY_PIXELS and piece not in touched for piece, size in enumerate(sizes, start=1))


def _round(summary: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in summary.items()}
