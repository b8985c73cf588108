"""What the five bundles say of themselves, recomputed: the checks of scripts/verify_bundles.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, NAMES, SLICES, needs_slices

from common.zoo.bundling import NO_WEIGHTS
from common.zoo.records import read_record
from common.zoo.verification import CHECKS, verify_bundle

DICE = ("Dice of the cross-validation", "Dice of the shipped weights")


TRAINED = [name for name in NAMES if read_record(name)]
SCORED = [name for name in TRAINED if "cross_validation" in read_record(name)]


@pytest.mark.parametrize("name", TRAINED)
def test_everything_but_dice_is_true(name):
    outcomes = verify_bundle(BUNDLES / name, names=[check for check in CHECKS if check not in DICE])
    assert [outcome.detail for outcome in outcomes if outcome.status == "problem"] == []
    assert [outcome.name for outcome in outcomes if outcome.status == "not recomputed"] == []


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(TRAINED)))
def test_a_bundle_without_weights_says_so_and_nothing_else_is_wrong(name):
    outcomes = verify_bundle(BUNDLES / name, names=[check for check in CHECKS if check not in DICE])
    problems = [outcome.detail for outcome in outcomes if outcome.status == "problem"]
    assert problems == ["models/model.pt: expected a file, found none"]
    assert NO_WEIGHTS in (BUNDLES / name / "docs/README.md").read_text()


@needs_slices
@pytest.mark.parametrize("name", NAMES)
def test_dice_is_true_to_four_digits_or_not_claimed(name):
    outcomes = verify_bundle(BUNDLES / name, SLICES, DICE)
    status = "ok" if name in SCORED else "not recorded"
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [(check, status) for check in DICE]
