"""Dice in a bundle's metadata, computed anew: from its weights, and from the committed predictions of fold networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from ...kits.cases import read_split
from ...segmentation import Segmenter
from ..records import count_predictions, count_segmentations, pool_dice
from .bundle import Bundle, NotChecked

TOLERANCE = 1e-4


def check_shipped_scores(bundle: Bundle) -> Iterator[str]:
    """Every case, segmented by `network_def` with the weights that ship, and the inferer of `inference.json`."""
    recorded, cases = bundle.find_recorded("scores", "shipped_weights"), bundle.cases
    if len(cases) != recorded["cases"]:
        yield f"scores.shipped_weights: expected {recorded['cases']} cases, found {len(cases)}"
        return
    segmenter = Segmenter(bundle.folder, network=bundle.trained_network)
    bundle.trained_network.to(segmenter.device)
    yield from _compare_dice("scores.shipped_weights", recorded, count_segmentations(segmenter, cases))


def check_fold_scores(bundle: Bundle) -> Iterator[str]:
    """The committed predictions of every fold's network for its held-out cases; paths start at the repository."""
    recorded, cases = bundle.find_recorded("scores", "cross_validation"), bundle.cases
    predictions = bundle.repository / recorded["predictions"]
    if not predictions.is_dir():
        raise NotChecked("no data")
    everything, held_out = [], Counter()
    for fold in recorded["folds"]:
        split_file = bundle.repository / fold["split_file"]
        counts = count_predictions(predictions, cases, split_file)
        yield from _compare_dice(f"scores.cross_validation {fold['split_file']}", fold, counts)
        held_out.update(read_split(split_file)["validation"])
        everything += counts
    for name, times in held_out.items():
        if times > 1:
            yield f"scores.cross_validation: expected {name} held out once, found {times} times"
    yield from _compare_dice("scores.cross_validation", recorded, everything)


def _compare_dice(what: str, recorded: Mapping[str, float], counts: Sequence[torch.Tensor]) -> Iterator[str]:
    for name, found in pool_dice(counts).items():
        if not abs(recorded[name] - found) <= TOLERANCE:
            yield f"{what}.{name}: expected {recorded[name]}, found {found:.6f}"
