"""`pip install .`: the wheel, in a fresh environment, is a door that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from bundle_runs import ROOT, read

SCAN = "scan0_synthetic"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment with the wheel; what the wheel needs comes from the tests' own."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    shutil.copytree(ROOT / "common", folder / "source/common", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, *build, str(folder / "source")], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", symlinks=True)
    install = ["--python", str(folder / "env/bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*PIP, *install], check=True, capture_output=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    # the folder alone: its own .pth files, which lead to this checkout, are not read
    (packages / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env"


def run(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [environment / "bin" / words[0], *words[1:]]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_segments_and_reports(environment, weighted_bundle, cases, tmp_path):
    words = ("-b", str(weighted_bundle), "-i", str(cases / f"{SCAN}.nii.gz"), "-o", "out", "--report")
    done = run(environment, tmp_path, "kits-lite", "segment", *words)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / f"out/{SCAN}.nii.gz").shape == read(cases / f"{SCAN}.nii.gz").shape
    assert (tmp_path / f"out/{SCAN}.html").is_file() and (tmp_path / "out/index.html").is_file()


@pytest.mark.slow
def test_the_wheel_s_package_is_the_installed_one(environment, tmp_path):
    done = run(environment, tmp_path, "python", "-c", "import common; print(common.__file__, common.LiteUNet.__name__)")
    file, name = done.stdout.split()
    assert Path(file).is_relative_to(environment) and name == "LiteUNet", done.stderr
