"""package.py from the command line: a release, the check of its zips, and one line where something is wrong."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from bundle_runs import POCKET, ROOT, load_script

from common import __version__
from common.errors import InputError

ZIP = f"{POCKET}_v{__version__}.zip"


@pytest.fixture
def package(weighted_bundle) -> ModuleType:
    """The script, whose bundles/ is a folder with one bundle."""
    script = load_script("package")
    script.BUNDLES = weighted_bundle.parent
    return script


@pytest.fixture
def dist(package, weighted_bundle, tmp_path) -> Path:
    """A release of it."""
    output = tmp_path / "release" / "dist"
    assert package.main(["--output", str(output), "--bundle", str(weighted_bundle)]) == 0
    return output


def test_all_of_bundles_is_written_and_told(package, tmp_path, capsys):
    output = tmp_path / "release" / "dist"
    (tmp_path / ".hidden").mkdir()
    assert package.main(["--output", str(output), "--base-url", "https://example.org"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and printed[0].startswith(f"{output / ZIP}: ") and "bytes, sha256 " in printed[0]
    assert f'"https://example.org/{ZIP}"' in (output / "model_info.json").read_text()
    assert printed[0].split()[-1] in (output / "SHA256SUMS").read_text()


def test_a_bundle_may_be_given_by_its_name(package, tmp_path):
    assert package.main(["--output", str(tmp_path / "dist"), "--bundle", POCKET]) == 0
    assert (tmp_path / "dist" / ZIP).is_file()


def test_every_zip_is_checked_and_every_bad_one_told(package, dist, tmp_path, capsys):
    good, bad = dist / ZIP, tmp_path / ZIP
    bad.write_bytes(good.read_bytes()[:-5000])
    assert package.main(["--check", str(bad), str(good), str(tmp_path / "missing.zip")]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"{good}: whole, as in SHA256SUMS"
    first, second = told.err.splitlines()
    assert first.startswith(f"error: {bad}: expected") and second.startswith(f"error: {tmp_path}/missing.zip: expected")
    assert package.main(["--check", str(good)]) == 0


@pytest.mark.parametrize("name", ["nowhere", "docs"])
def test_a_name_that_is_no_bundle_is_one_line(package, tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: expected a bundle with weights, found no LICENSE, configs/metadata"):
        package.main(["--output", str(tmp_path / "dist"), "--bundle", name])
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("words", [[], ["--output", "a", "--check", "b.zip"]], ids=["neither", "both"])
def test_it_writes_or_checks_not_neither_nor_both(package, words, capsys):
    with pytest.raises(SystemExit) as caught:
        package.main(words)
    assert caught.value.code == 2 and "--check" in capsys.readouterr().err


@pytest.mark.slow
def test_a_zip_that_climbs_out_and_a_bundle_without_weights_end_the_process_with_one_line(weighted_bundle, tmp_path):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("evil/../../evil.py", "")
    (weighted_bundle / "models/model.pt").unlink()
    writing = ["--output", str(tmp_path / "dist"), "--bundle", str(weighted_bundle)]
    for words, line in (["--check", str(evil)], "evil/../../evil.py"), (writing, "found no models/model.pt in it"):
        command = [sys.executable, str(ROOT / "scripts/package.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and line in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {POCKET, "evil.zip"}
