"""What the five bundles say of themselves, recomputed: the checks of scripts/verify_bundles.py."""

from __future__ import annotations

import json

import pytest
from bundle_runs import BUNDLES, DATA, NAMES, needs_data

from zoo.verification import CHECKS, verify_bundle

# half a minute each, where the wide ones take minutes
QUICK = [pytest.param(name, marks=[] if "pocket" in name or "pwp" in name else pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_the_scores_is_true(name):
    outcomes = verify_bundle(BUNDLES / name, names=[check for check in CHECKS if check != "scores"])
    assert [outcome.detail for outcome in outcomes if outcome.status == "problem"] == []
    assert [outcome.name for outcome in outcomes if outcome.status == "not recomputed"] == []


@needs_data
@pytest.mark.parametrize("name", QUICK)
def test_the_scores_are_those_of_the_weights_that_ship(name):
    (outcome, *others) = verify_bundle(BUNDLES / name, DATA, ["scores"])
    assert (outcome.status, outcome.detail, others) == ("ok", "", [])


def test_nobody_is_trained_on_and_held_out_and_no_one_of_the_old_slices_is_held_out():
    """Weights of version 0.1.0, trained on kits19-slices, may be a start without having seen a held-out patient."""
    splits = {path.stem: json.loads(path.read_text()) for path in (BUNDLES.parent / "docs/splits").glob("*.json")}
    held_out = set(splits["hold_out"]["validation"])
    assert len(held_out) == len(set(splits["inner"]["validation"])) == 32
    for split in splits.values():
        assert not held_out & set(split["training"])
        assert not set(split["validation"]) & set(split["training"])
    assert set(splits["inner"]["validation"]) < set(splits["hold_out"]["training"])
    assert not any("case_00001" in side for split in splits.values() for side in split.values())
