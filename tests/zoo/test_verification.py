"""Every check of a bundle: a good bundle passes, and one broken in one way gives the one line that says which."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from good_bundle import DICE, FAST, METADATA, README, SCORE, WEIGHTS, edit, find_problems

from common.errors import InputError
from common.zoo.bundling import PACKAGE
from common.zoo.verification import CHECKS, verify_bundle
from common.zoo.verification.bundle import FILES

LABELS = "0 background, 1 kidney, 2 tumor"
SWAPPED = "0 background, 1 tumor, 2 kidney"
INFERENCE = "configs/inference.json"


@pytest.mark.slow
def test_a_good_bundle_passes_every_check(good, phantoms):
    modules, path = dict(sys.modules), list(sys.path)
    outcomes = verify_bundle(good, phantoms)
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert [(o.name, o.status) for o in outcomes if o.status != "ok"] == [(DICE[0], "recounted")]
    ours = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    assert sys.path == path and ours == {name: modules[name] for name in modules if name.startswith(PACKAGE)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_empty_is_named(broken, name):
    (broken / name).unlink()
    assert find_problems(broken) == [("files", f"{name}: expected a file, found none")]
    (broken / name).touch()
    assert find_problems(broken)[0] == ("files", f"{name}: expected content, found none")


@pytest.mark.parametrize("name", [METADATA, INFERENCE, "configs/train.json"])
def test_a_config_that_is_no_json_object_is_named(broken, name):
    (broken / name).write_text("{")
    ((check, problem),) = find_problems(broken)
    assert check == "files" and problem.startswith(f"{name}: expected JSON, found ")
    if name == METADATA:
        (broken / name).write_text("[]")
        assert find_problems(broken) == [("files", f"{name}: expected dict, found list")]


def set_io(side: str, name: str, **values: object) -> Callable[[dict], object]:
    return lambda metadata: metadata["network_data_format"][side][name].update(values)


def add(amount: float, *keys: str | int) -> Callable[[dict], None]:
    """Add to the number that keys lead to."""

    def change(metadata: dict) -> None:
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] += amount

    return change


def put(value: object, *keys: str) -> Callable[[dict], None]:
    """Set the value that keys lead to."""

    def change(metadata: dict) -> None:
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] = value

    return change


def keep_one_fold(metadata: dict) -> None:
    """Sell the second fold as the cross-validation."""
    scores = metadata["scores"]["cross_validation"]
    (fold,) = scores["folds"] = scores["folds"][1:2]
    scores |= {key: fold[key] for key in ("kidney_and_tumor", "tumor", "per_case")}


SWAP = set_io("outputs", "pred", channel_def={"0": "background", "1": "tumor", "2": "kidney"})
SCORES, SHIPPED = ("scores", "cross_validation"), ("scores", "shipped_weights")
# what the metadata says, the check that is to find it out, and words of its one problem
METADATA_BREAKS = [
    (lambda m: m.pop("version"), "metadata schema", "found 'version' is a required property"),
    (lambda m: m.update(authors=1), "metadata schema", "found 1 is not of type 'string'"),
    (lambda m: m.update(version="9.9"), "changelog", "changelog: expected 9.9, found 0.1.0"),
    (SWAP, "labels", f"channel_def: expected {LABELS}, found {SWAPPED}"),
    (lambda m: m.update(label_classes="1 tumour, 2 kidney"), "labels", f"label_classes: expected {LABELS}, found 0 b"),
    (lambda m: m.update(pred_classes="0 background, 1 kidney"), "labels", f"pred_classes: expected {LABELS}, found 0"),
    (set_io("outputs", "pred", num_channels=4), "network", "outputs.pred.num_channels: expected 4, found 3"),
    (set_io("inputs", "image", num_channels=2), "network", "expected a network that takes (1, 2, 32, 32), found"),
    (set_io("outputs", "pred", spatial_shape=[16, 32]), "network", "expected [16, 32], found [32, 32]"),
    (set_io("outputs", "pred", dtype="float16"), "network", "pred.dtype: expected float16, found float32"),
    (add(1, "weights", "bytes"), "weights file", "models/model.pt bytes: expected "),
    (put("0" * 64, "weights", "sha256"), "weights file", f"models/model.pt sha256: expected {'0' * 64}, found "),
    (
        put("models/other.pt", "weights", "file"),
        "weights file",
        "weights.file: expected models/model.pt, found models/o",
    ),
    (
        put("MIT", "weights", "license"),
        "card",
        "weights.license: expected what docs/README.md and docs/data_license.txt",
    ),
    (lambda m: m["weights"].pop("license"), "card", "weights.license: expected what docs/README.md and docs/data_lic"),
    (put("all of KiTS19", "weights", "trained_on"), "card", "expected that the weights are trained on all of KiTS19"),
    (add(1, "complexity", "parameters"), "complexity", "complexity.parameters: expected 53028, found 53027"),
    (add(2, "complexity", "flops"), "complexity", "complexity.flops: expected 1775501314, found 1775501312"),
    (put("1 x", "complexity", "convention"), "complexity", "complexity.convention: expected parameters are "),
    (add(1, "complexity", "original", "parameters"), "complexity", "complexity.original.parameters: expected"),
    (add(2, "complexity", "original", "flops"), "complexity", "complexity.original.flops: expected"),
    (add(1, "complexity", "nonzero_parameters"), "sparsity", "complexity.nonzero_parameters: expected"),
    (add(0.001, "complexity", "sparsity"), "sparsity", "complexity.sparsity: expected"),
    (
        put(3, "complexity", "latency_ms"),
        "metadata keys",
        "complexity: expected no key that nobody recomputes, found late",
    ),
    (put(1, *SHIPPED, "hausdorff_mm"), "metadata keys", "scores.shipped_weights: expected no key that nobody recomp"),
    (
        put("docs/nothere.md", "scores", "protocol"),
        "documented commands",
        "docs/nothere.md: expected a file, found none",
    ),
    (
        put("python scripts/score.py --label x", *SHIPPED, "command"),
        "documented commands",
        "scores.shipped_weights.command: scripts/score.py --label: expected an option of the script, found none",
    ),
    (put("make dice", *SCORES, "command"), "documented commands", "expected python scripts/*.py, found make dice"),
    (add(0.001, *SHIPPED, "tumor"), DICE[1], "scores.shipped_weights.tumor: expected"),
    (add(0.001, *SHIPPED, "per_case", "tumor"), DICE[1], "scores.shipped_weights.per_case.tumor: expected"),
    (add(1, *SHIPPED, "cases"), DICE[1], "scores.shipped_weights.cases: expected 5, found 4"),
    (add(-0.0004, *SCORES, "kidney_and_tumor"), DICE[0], "scores.cross_validation.kidney_and_tumor: expected"),
    (add(0.001, *SCORES, "mean_of_folds", "tumor"), DICE[0], "scores.cross_validation.mean_of_folds.tumor: expected"),
    (add(0.001, *SCORES, "folds", 1, "tumor"), DICE[0], "cross_validation.docs/folds/fold_2.json.tumor: expected"),
    (add(1, *SCORES, "cases"), DICE[0], "scores.cross_validation.cases: expected 5, found 4"),
]


@pytest.mark.parametrize(
    ("change", "check", "words"), METADATA_BREAKS, ids=[f"{b[1]} {i}" for i, b in enumerate(METADATA_BREAKS)]
)
def test_metadata_that_is_not_true_gives_one_line(change, check, words, broken, phantoms):
    edit(broken / METADATA, change)
    found = find_problems(broken, phantoms, check)
    assert [name for name, _ in found] == [check], found
    assert words in found[0][1]


def test_one_fold_is_no_cross_validation(broken, phantoms):
    edit(broken / METADATA, keep_one_fold)
    details = [detail for name, detail in find_problems(broken, phantoms, DICE[0]) if name == DICE[0]]
    assert "scores.cross_validation.cases: expected 4, found 1" in details


def test_versions_that_are_not_installed_or_not_required_are_named(broken):
    changed = {"nibabel": "0.1", "no-such-package": "2"}
    edit(broken / METADATA, lambda m: m.update(numpy_version="1.0"))
    edit(broken / METADATA, lambda m: m["required_packages_version"].update(changed))
    details = {detail for name, detail in find_problems(broken) if name == "versions"}
    assert details == {
        f"numpy: expected 1.0, found {np.__version__}",
        f"docs/requirements.txt numpy: expected 1.0, found {np.__version__}",
        f"nibabel: expected 0.1, found {nib.__version__}",
        f"docs/requirements.txt nibabel: expected 0.1, found {nib.__version__}",
        "no-such-package: expected 2, found none installed",
        "docs/requirements.txt no-such-package: expected 2, found None",
    }


# a file, what stands there, what is put in its place, the check that is to find it out, and words of its one problem
FILE_BREAKS = [
    (README, "1 kidney, 2 tumour", "1 tumour, 2 kidney", "labels", f"{README}: expected {LABELS}, found {SWAPPED}"),
    (README, "53,027 param", "3,027 param", "card", f"{README}: expected 53,027, found 3,027"),
    (README, "1,775,501,312", "1.8 G", "card", f"{README}: expected 1,775,501,312, found none"),
    (README, "## Use", "A Dice of 0.999.\n## Use", "card", f"{README}: expected no other number, found 0.999"),
    (
        README,
        "trained on nothing",
        "trained",
        "card",
        "expected that the weights are trained on nothing, found it nowh",
    ),
    (
        "docs/data_license.txt",
        "CC BY-NC-SA 4.0",
        "MIT",
        "card",
        "expected what docs/data_license.txt says, found CC BY",
    ),
    ("docs/requirements.txt", "torch==", "torch==1", "versions", "docs/requirements.txt torch: expected "),
    (
        f"{PACKAGE}/kits/volumes.py",
        '"kidney": 1, "tumor": 2',
        '"kidney": 2, "tumor": 1',
        "labels",
        f"{PACKAGE}/kits/volumes.py LABELS: expected {LABELS}, found {SWAPPED}",
    ),
    (
        f"{PACKAGE}/kits/inferer.py",
        "choose_classes(logits)",
        "choose_classes(logits.flip(1))",
        "inferer",
        "codes that the inferer writes: expected [0, 1, 2], found [2, 1, 0]",
    ),
    (INFERENCE, ".LiteUNet", ".NoUNet", "network", "network: expected no error, found ModuleNotFoundError"),
    (INFERENCE, "/model.pt'", "/other.pt'", "weights that run", "/other.pt: no weights here"),
    (
        INFERENCE,
        "\"$@bundle_root + '/models/model.pt'\"",
        "null",
        "weights that run",
        f"{INFERENCE} network: expected the weights of {WEIGHTS}, found others",
    ),
    (
        "configs/train.json",
        '"@loss"',
        '"@loos"',
        "configs",
        "train.json: expected a config with the key loos",
    ),
    (
        "configs/train.json",
        '"DiceCELoss"',
        '"NoLoss"',
        "configs",
        "train.json: NoLoss: expected a class or function, fo",
    ),
    (
        "configs/evaluate.json",
        f"{PACKAGE}.kits.cases.read_subset",
        "common.kits.cases.read_subset",
        "configs",
        "evaluate.json: common.kits.cases.read_subset: expected code of the bundle or of a package that it pins",
    ),
    (INFERENCE, '"dataset_dir": "data"', '"dataset_dir": "/home/a/kits"', "absolute paths", "path, found /home/a/kits"),
    (INFERENCE, '"dataset_dir": "data"', '"dataset_dir": "/kits"', "absolute paths", "no absolute path, found /kits"),
    (INFERENCE, '"dataset_dir": "data"', '"dataset_dir": "D:/kits"', "absolute paths", "absolute path, found D:/kits"),
    (INFERENCE, '"dataset_dir": "data"', '"dataset_dir": "~/kits"', "absolute paths", "no absolute path, found ~/kits"),
    (
        f"{PACKAGE}/kits/phantom.py",
        "from __future__",
        'HERE = "C:\\\\data"\nfrom __future__',
        "absolute paths",
        f"{PACKAGE}/kits/phantom.py: expected no absolute path, found C:",
    ),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "check", "words"), FILE_BREAKS, ids=[f"{b[3]} {i}" for i, b in enumerate(FILE_BREAKS)]
)
def test_a_file_that_is_not_true_gives_one_line(name, old, new, check, words, broken):
    text = (broken / name).read_text()
    assert old in text
    (broken / name).write_text(text.replace(old, new, 1 if old == "/model.pt'" else -1))
    found = find_problems(broken)
    assert [name for name, _ in found] == [check], found
    assert words in found[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\"$@bundle_root + '/models/model.pt'\"", '"models/model.pt"', "no weights here"),
        (f"{PACKAGE}.", "common.", "ModuleNotFoundError: No module named 'common'"),
    ],
)
def test_a_bundle_that_runs_in_one_place_only_is_found_out(old, new, words, broken):
    text = (broken / INFERENCE).read_text()
    assert old in text
    (broken / INFERENCE).write_text(text.replace(old, new))
    (outcome,) = verify_bundle(broken, names=["run elsewhere"])
    assert "run in another folder: expected exit code 0, found 1: " in outcome.detail and words in outcome.detail


def test_no_dice_is_called_good_that_was_not_recomputed(broken, phantoms):
    for outcome in verify_bundle(broken, None, DICE):
        assert (outcome.status, outcome.detail) == ("not recomputed", "no data")
    shutil.rmtree(broken.parents[1] / "docs/cross_validation")
    (broken / WEIGHTS).unlink()
    outcomes = verify_bundle(broken, phantoms, DICE)
    assert [(o.status, o.detail) for o in outcomes] == [
        ("not recomputed", "no data"),
        ("not recomputed", f"no {WEIGHTS}"),
    ]


def test_commands_of_scores_are_not_called_good_outside_the_repository(broken):
    (broken.parents[1] / "scripts").unlink()
    (outcome,) = verify_bundle(broken, names=["documented commands"])
    assert outcome.status == "not recomputed" and SCORE not in outcome.detail


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (
            METADATA,
            set(FAST) - {"files", "state dict", "weights on the CPU", "weights that run", "configs", "absolute paths"},
        ),
        (
            INFERENCE,
            {"inferer", "network", "state dict", "weights that run", "complexity", "sparsity", "card", "configs"},
        ),
        (WEIGHTS, {"state dict", "weights on the CPU", "weights file", "weights that run", "sparsity"}),
    ],
)
def test_what_a_missing_file_hides_is_not_called_good(name, hidden, broken):
    (broken / name).unlink()
    outcomes = {outcome.name: outcome for outcome in verify_bundle(broken, None, FAST)}
    assert outcomes["files"].status == "problem"
    assert hidden <= {check for check, outcome in outcomes.items() if outcome.status != "ok"}
    assert all(outcome.status != "problem" for check, outcome in outcomes.items() if check != "files"), outcomes


def test_a_schema_that_is_not_here_is_not_called_good(broken):
    edit(broken / METADATA, lambda m: m.update(schema="https://example.org/meta_schema_19990101.json"))
    (outcome,) = verify_bundle(broken, None, ["metadata schema"])
    assert (outcome.status, outcome.detail) == ("not recomputed", "no copy of the schema meta_schema_19990101.json")


def test_no_folder_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a bundle folder, found none"):
        verify_bundle(tmp_path / "nowhere")
