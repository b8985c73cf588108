"""What the five bundles say of themselves, recomputed: the checks of scripts/verify_bundles.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, NAMES

from common.zoo.verification import CHECKS, verify_bundle

SLICES = Path(os.environ.get("KITS_SLICES", BUNDLES.parents[1] / "shared/kits19-slices"))
DICE = ("Dice of the cross-validation", "Dice of the shipped weights")


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_dice_is_true(name):
    outcomes = verify_bundle(BUNDLES / name, names=[check for check in CHECKS if check not in DICE])
    assert [outcome.detail for outcome in outcomes if outcome.status == "problem"] == []
    assert [outcome.name for outcome in outcomes if outcome.status == "not recomputed"] == []


@pytest.mark.skipif(not SLICES.is_dir(), reason=f"no KiTS19 slices in {SLICES}; set KITS_SLICES")
@pytest.mark.parametrize("name", NAMES)
def test_dice_is_true_to_four_digits(name):
    outcomes = verify_bundle(BUNDLES / name, SLICES, DICE)
    assert [(outcome.name, outcome.status, outcome.detail) for outcome in outcomes] == [(n, "ok", "") for n in DICE]
