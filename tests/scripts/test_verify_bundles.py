"""verify_bundles.py."""

from __future__ import annotations

import json
import shutil

import pytest
from bundle_runs import POCKET, load_script

from common.errors import InputError
from zoo.verification import CHECKS

MISSING = "models/model.pt: expected a file, found none"


@pytest.fixture
def verify(monkeypatch):
    """The script's `main` with the checks that take no time, and its module."""
    for name in CHECKS.keys() - {"files", "changelog", "label_classes", "weights file", "scores"}:
        monkeypatch.delitem(CHECKS, name)
    return load_script("verify_bundles")


def test_a_problem_is_one_line_and_exit_code_1(verify, copy_bundle, capsys):
    bundle = copy_bundle()
    assert verify.main([str(bundle)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{POCKET}: {MISSING}"
    assert printed[-1].startswith(f"{POCKET}: 1 problem, ") or ", 1 problem" in printed[-1]


def test_no_problem_is_exit_code_0_and_all_bundles_are_checked_by_default(
    verify, weighted_bundle, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "bundles"
    for name in ("one", "two"):
        shutil.copytree(weighted_bundle, folder / name)
    metadata = folder / "two/configs/metadata.json"
    content = json.loads(metadata.read_text())
    content["scores"] = {"split_file": "docs/splits/hold_out.json"}
    metadata.write_text(json.dumps(content))
    monkeypatch.setattr(verify, "BUNDLES", folder)
    assert verify.main([]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in printed} == {"one", "two"}
    assert "two: scores: not recomputed: no data" in printed
    assert any(line.startswith("one: scores: not recorded: ") for line in printed)


def test_json_holds_every_check(verify, copy_bundle, capsys):
    bundle = copy_bundle()
    assert verify.main([str(bundle), "--json"]) == 1
    (outcomes,) = json.loads(capsys.readouterr().out).values()
    assert [outcome["name"] for outcome in outcomes] == list(CHECKS)
    assert outcomes[0] == {"name": "files", "status": "problem", "detail": MISSING}
    assert {outcome["status"] for outcome in outcomes} <= {"ok", "problem", "not recomputed", "not recorded"}


def test_a_folder_that_is_not_there_is_bad_input(verify, tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a bundle folder, found none"):
        verify.main([str(tmp_path / "nowhere")])
