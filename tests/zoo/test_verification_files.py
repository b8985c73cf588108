"""What the verification finds in a bundle's files: nothing in good ones, else the one line that says which."""

from __future__ import annotations

import shutil
import sys

import pytest
from good_bundle import FAST, INFERENCE, LABELS, METADATA, README, SCORE, SCORES, SWAPPED, WEIGHTS, find_problems

from common.errors import InputError
from zoo.rendering import PACKAGE
from zoo.verification import CHECKS, verify_bundle
from zoo.verification.bundle import FILES


@pytest.mark.slow
def test_a_good_bundle_passes_every_check(good, phantoms):
    modules, path = dict(sys.modules), list(sys.path)
    outcomes = verify_bundle(good, phantoms)
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert [(o.name, o.status) for o in outcomes if o.status != "ok"] == []
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
        f"{PACKAGE}/kits/axial.py",
        "box.argmax(axis=0)",
        "box[::-1].argmax(axis=0)",
        "inferer",
        "codes that the inferer writes: expected [0, 1, 2], found [0, 1, 0]",
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


def test_no_score_is_called_good_that_was_not_recomputed(broken, phantoms, tmp_path):
    (outcome,) = verify_bundle(broken, None, [SCORES])
    assert (outcome.status, outcome.detail) == ("not recomputed", "no data")
    other = tmp_path / "other"
    for case in sorted(phantoms.iterdir())[:1]:
        shutil.copytree(case, other / "case_77777")
    (outcome,) = verify_bundle(broken, other, [SCORES])
    assert (outcome.status, outcome.detail) == ("not recomputed", "no data")
    (broken.parents[1] / "docs/splits/hold_out.json").unlink()
    (outcome,) = verify_bundle(broken, phantoms, [SCORES])
    assert outcome.detail == "no docs/splits/hold_out.json beside the folder of bundles"
    (broken / WEIGHTS).unlink()
    (outcome,) = verify_bundle(broken, phantoms, [SCORES])
    assert (outcome.status, outcome.detail) == ("not recomputed", f"no {WEIGHTS}")


def test_commands_of_scores_are_not_called_good_outside_the_repository(broken):
    (broken.parents[1] / "scripts").unlink()
    (outcome,) = verify_bundle(broken, names=["documented commands"])
    assert outcome.status == "not recomputed" and SCORE not in outcome.detail


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (
            METADATA,
            set(FAST)
            - {"files", "state dict", "weights on the CPU", "weights that run", "configs", "absolute paths"}
            - {"shipped network"},
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


def test_no_folder_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a bundle folder, found none"):
        verify_bundle(tmp_path / "nowhere")
