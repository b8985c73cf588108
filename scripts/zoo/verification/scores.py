"""The scores in a bundle's metadata, computed anew from its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import InputError

from ..records import score_bundle
from .bundle import Bundle, NotChecked

# a Dice; a volume in ml; a number of slices or tumours, of which one may lie on a threshold
TOLERANCES = {"ml": 0.05, "count": 1, "dice": 1e-3}


def check_scores(bundle: Bundle) -> Iterator[str]:
    """Held-out patients, slices without kidney and the whole scan, segmented as `inference.json` does."""
    recorded, cases = bundle.find_recorded("scores"), bundle.cases
    bundle.find_weights()
    split_file = bundle.repository / recorded["split_file"]
    if not split_file.is_file():
        raise NotChecked(f"no {recorded['split_file']} beside the folder of bundles")
    try:
        found = score_bundle(bundle.folder, cases, split_file, recorded["scan"]["case"])
    except InputError as error:
        if "dataset_dir" in str(error):
            raise NotChecked("no data") from error
        raise
    expected = dict(list_numbers({key: recorded[key] for key in found.keys() & recorded.keys()}))
    for name, number in list_numbers(found):
        if not abs(expected.get(name, math.nan) - number) <= find_tolerance(name):
            yield f"scores.{name}: expected {expected.get(name)}, found {number}"


def list_numbers(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number and where it stands."""
    for key, value in scores.items():
        if isinstance(value, dict):
            yield from list_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{key}", value


def find_tolerance(name: str) -> float:
    """How far a number may be off, by its name."""
    if name.endswith("_ml"):
        return TOLERANCES["ml"]
    counted = ("wrong_slices", "tumor_found", "false_tumors")
    return TOLERANCES["count"] if name.endswith(counted) else TOLERANCES["dice"]
