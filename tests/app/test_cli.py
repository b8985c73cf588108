"""The door: one command line, quick to answer, whose `--bundle` is the bundle that it stands in."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bundle_runs import BUNDLES, POCKET, run_python

from common.app.cli import main
from common.bundle_folder import PACKAGE

COMMANDS = ("segment", "score", "check", "export", "prune", "partition", "info", "demo-data")


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from common.app.cli import main; code = main(['--help'])\n"
        "print([name for name in ('torch', 'monai', 'nibabel', 'numpy') if name in sys.modules], code)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[] 0"
    assert all(f"  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_hyphens(command, capsys):
    assert main([command, "--help"]) == 0
    options = [word for word in capsys.readouterr().out.split() if word.startswith("--")]
    assert options and not any("_" in option for option in options)


@pytest.mark.parametrize("words", [["segment"], ["segmnet"], ["segment", "--inputt", "x"], ["export", "--amount", "1"]])
def test_what_the_door_does_not_know_is_exit_code_2(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().out == ""


def test_in_a_bundle_s_folder_the_bundle_is_that_one(copy_bundle, cases, tmp_path):
    bundle = copy_bundle()
    done = run_python(bundle, "-m", PACKAGE, "info")
    assert done.returncode == 0 and f"bundle: {bundle}\n" in done.stdout, done.stderr
    assert "weights: none: train first" in done.stdout


def test_a_bundle_goes_by_its_name_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "-b", POCKET]) == 0
    assert f"bundle: {BUNDLES / POCKET}\n" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_1(tmp_path):
    done = run_python(tmp_path, "-m", "common", "score", "-l", "no", "-p", "no", "-o", "s.csv", "--protocol", "kits20")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: protocol: expected one of kits19, kits23, found kits20."


def test_demo_data_is_written_once(tmp_path, capsys):
    for words in ("writing 1 synthetic cases to", "1 synthetic cases are in"):
        assert main(["demo-data", "-o", str(tmp_path / "cases"), "--count", "1"]) == 0
        assert words in capsys.readouterr().out
