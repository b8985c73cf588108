"""Dice in a bundle's metadata, computed anew: from its weights, and from the committed predictions of fold networks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from common.app.segmenter import Segmenter
from common.kits.cases import read_split

from ..records import count_segmentations, score_counts, score_folds
from .bundle import RECOUNTED, Bundle, NotChecked

TOLERANCE = 1e-4


def check_shipped_scores(bundle: Bundle) -> Iterator[str]:
    """Every case, segmented as `inference.json` does."""
    recorded, cases = bundle.find_recorded("scores", "shipped_weights"), bundle.cases
    bundle.find_weights()
    if len(cases) != recorded["cases"]:
        yield f"scores.shipped_weights.cases: expected {recorded['cases']}, found {len(cases)}"
        return
    found = score_counts(count_segmentations(Segmenter(bundle.folder, backend="torch"), cases))
    yield from _compare_scores("scores.shipped_weights", recorded, found)


def check_fold_scores(bundle: Bundle) -> Iterator[str]:
    """The committed predictions of every fold's network for its held-out cases; paths start at the repository."""
    recorded, cases = bundle.find_recorded("scores", "cross_validation"), bundle.cases
    predictions = bundle.repository / recorded["predictions"]
    if not predictions.is_dir():
        raise NotChecked("no data")
    files = [fold["split_file"] for fold in recorded["folds"]]
    held_out = Counter(name for file in files for name in read_split(bundle.repository / file)["validation"])
    for name, times in held_out.items():
        if times > 1:
            yield f"scores.cross_validation: expected {name} held out once, found {times} times"
            return
    found = score_folds(predictions, cases, files, bundle.repository)
    yield from _compare_scores("scores.cross_validation", recorded, found)
    raise NotChecked(f"from {recorded['predictions']}; the weights of the folds do not ship", RECOUNTED)


def _compare_scores(what: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    expected = dict(_list_numbers(recorded, what))
    for name, number in _list_numbers(found, what):
        if not abs(expected.get(name, math.nan) - number) <= TOLERANCE:
            yield f"{name}: expected {expected.get(name)}, found {number}"


def _list_numbers(scores: Mapping[str, Any], what: str) -> Iterator[tuple[str, float]]:
    """Every number and where it stands; a fold goes by its split file."""
    for key, value in scores.items():
        if isinstance(value, (int, float)):
            yield f"{what}.{key}", value
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from _list_numbers(part, f"{what}.{part.get('split_file', key)}")
