"""What the five bundles say of themselves, recomputed: the checks of scripts/verify_bundles.py."""

from __future__ import annotations

import pytest
from bundle_runs import BUNDLES, NAMES, SLICES, needs_slices

from common.kits.cases import find_cases
from zoo.records import RECORDS, read_record, score_folds
from zoo.variants import BASELINES
from zoo.verification import CHECKS, verify_bundle

DICE = ("Dice of the cross-validation", "Dice of the shipped weights")


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_dice_is_true(name):
    outcomes = verify_bundle(BUNDLES / name, names=[check for check in CHECKS if check not in DICE])
    assert [outcome.detail for outcome in outcomes if outcome.status == "problem"] == []
    assert [outcome.name for outcome in outcomes if outcome.status == "not recomputed"] == []


@needs_slices
@pytest.mark.parametrize("name", NAMES)
def test_dice_is_true_to_four_digits(name):
    outcomes = verify_bundle(BUNDLES / name, SLICES, DICE)
    assert [(outcome.name, outcome.status) for outcome in outcomes] == list(zip(DICE, ["recounted", "ok"]))


@needs_slices
@pytest.mark.parametrize("name", [row.name for row in BASELINES])
def test_dice_of_the_baselines_is_that_of_their_predictions(name):
    recorded = read_record(name).get("cross_validation")
    files = [fold["split_file"] for fold in recorded["folds"]] if recorded else []
    predictions = RECORDS / name
    assert predictions.is_dir() == bool(files)
    if files:
        assert recorded == score_folds(predictions, find_cases(SLICES, labelled=True), files)
