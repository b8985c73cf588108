"""
How much a network doubts: it segments the mirrored image, too, and the two label maps are compared.

A network is not trained to say how sure it is, but where it guesses, it guesses otherwise in the mirror. What an
agreement is worth was measured for the weights that ship on held-out patients (`scripts/study_trust.py`): their
agreements, cut into thirds, are high, medium and low doubt, with the Dice that each third had. For other weights there
is an agreement and no level. The patients are slices around the kidneys: a whole scan has more to disagree about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..kits.metrics import pooled_dice
from ..kits.volumes import LABELS

CALIBRATION = Path(__file__).with_name("doubt.json")
LEVELS = ("high", "medium", "low")  # from the third of patients that agree least


def measure_agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float | None]:
    """Dice of two label maps by class, a tumour being part of its kidney as in KiTS19; None where both are empty."""
    agreement = {}
    for name in ("kidney", "tumor"):
        masks = first >= LABELS[name], second >= LABELS[name]
        counts = [np.count_nonzero(mask) for mask in (masks[0] & masks[1], *masks)]
        agreement[name] = pooled_dice(torch.tensor([[counts]])).item() if any(counts) else None
    return agreement


@cache
def read_calibration() -> dict[str, dict[str, Any]]:
    """By the sha256 of weights: "network", "patients", and of each class the edges of the thirds and their Dice."""
    return json.loads(CALIBRATION.read_text()) if CALIBRATION.is_file() else {}


def judge(
    agreement: Mapping[str, float | None], weights_sha256: str, elsewhere: bool = False
) -> dict[str, dict[str, object]]:
    """
    The level of doubt by class.

    Args:
        elsewhere: whether there is a warning of findings far from the kidneys. No held-out patient was like that, and
            what is invented in a spleen is invented in the mirror, too: doubt is high then, whatever the agreement.

    Returns:
        "agreement"; "level", low, medium or high, and "dice", the mean Dice of the held-out patients with this level,
        both None where nothing was found or the weights were never calibrated; "dice" is also None with elsewhere.
    """
    known = read_calibration().get(weights_sha256, {}).get("classes", {})
    judged = {}
    for name, value in agreement.items():
        level = dice = None
        if value is not None and name in known:
            third = int(np.searchsorted(known[name]["edges"], value, side="right"))
            level, dice = (LEVELS[0], None) if elsewhere else (LEVELS[third], known[name]["dice"][third])
        judged[name] = {"agreement": value, "level": level, "dice": dice}
    return judged
