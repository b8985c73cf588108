"""Overrides of monai.bundle run: what configs know is taken, a slip is told with the nearest name."""

from __future__ import annotations

import json

import pytest
from bundle_runs import BUNDLES, POCKET
from refusals import error_message

from common.overrides import check_overrides

CONFIGS = BUNDLES / POCKET / "configs"
PROGRAM = "/anywhere/site-packages/monai/bundle/__main__.py"


def check(*words: str, config_file: str = str(CONFIGS / "inference.json")) -> None:
    check_overrides([PROGRAM, "run", "--config_file", config_file, *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset_dir", "x", "--output_dir=y"],
        ["--output-dir", "y"],  # Python Fire makes an underscore of it
        ["--bundle_root", "x", "--meta_file", "y", "--logging_file", "z"],
        ["--network_def#dropout", "0.1"],
        ["--network_def::dropout", "0.1"],
        ["--evaluator#amp", "false"],
        ["--preprocessing#transforms#0#reader#series", "1.2"],
        ["--device#type", "cpu"],
        ["--", "--verbose"],
    ],
)
def test_what_the_configs_or_their_components_take_is_taken(words):
    check(*words)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--outptu_dir", "--output_dir"),
        ("--output_dirs=y", "--output_dir"),
        ("--dataset-dri", "--dataset_dir"),
        ("--confgi_file", "--config_file"),
        ("--evaluatr#amp", "--evaluator"),
        ("--zzzzzz", ""),
    ],
)
def test_a_slip_is_refused_with_the_nearest_name(word, near):
    message = error_message(lambda: check(word, "value"))
    assert message.startswith(
        f"{word.partition('=')[0].replace('dataset-', 'dataset_')}: expected a key of the configs"
    )
    assert ("did you mean" in message) == bool(near) and message.endswith(f"{near}?" if near else "of this name")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mirror", "false"], "--mirror: expected True or False, found false."),
        (["--pictures=1"], "--pictures: expected True or False, found 1."),
        (["--batch_size", "many"], "--batch_size: expected a number, found many."),
        (["--batch_size", "True"], "--batch_size: expected a number, found True."),
    ],
)
def test_a_word_in_the_stead_of_a_truth_value_or_a_number_is_refused(words, told):
    assert error_message(lambda: check(*words)) == told


def test_truth_values_numbers_and_expressions_are_taken():
    check("--mirror", "--pictures", "True", "--batch_size", "$2 * 2", "--pixel_mm", "2", "--mirror=False")


def test_keys_of_several_configs_and_nested_ones_are_known():
    both = json.dumps([str(CONFIGS / f"{name}.json") for name in ("train", "evaluate")])
    check("--subset", "all", "--train#trainer#max_epochs", "2", "--validate#dataset#x", "1", config_file=both)
    message = error_message(lambda: check("--train#trainr#max_epochs", "2", config_file=both))
    assert message.endswith("did you mean --train#trainer?")
    assert "did you mean --subset" in error_message(lambda: check("--subest", "all", config_file=both))
    joined = ",".join(str(CONFIGS / f"{name}.json") for name in ("train", "prune"))
    check("--amount", "0.5", config_file=joined)


@pytest.mark.parametrize("program", ["/usr/bin/pytest", "scripts/segment.py", "/x/monai/bundle/__main__.py"])
def test_other_programs_are_left_alone(program):
    check_overrides([program, "verify_metadata", "--outptu_dir", "x"])
    check_overrides([program])
