"""`pip install .[cpu]`: what it brings segments, and PyTorch and MONAI are no part of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import ROOT, read
from packaging.requirements import Requirement

from zoo.shipped import write_shipped

PACKAGES = Path(sysconfig.get_paths()["purelib"])


def list_needed(requirements: list[str]) -> set[str]:
    """The names of distributions that pip would install for some requirements."""
    needed: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if here and requirement.name not in needed:
            needed.add(requirement.name)
            waiting += [Requirement(text) for text in distribution(requirement.name).requires or []]
    return needed


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment that holds what the extra asks for, linked from the tests' own, and this package."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in list_needed([*project["dependencies"], *project["optional-dependencies"]["cpu"]]):
        for top in {file.parts[0] for file in distribution(name).files if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(PACKAGES / top)
    shutil.copytree(ROOT / "common", packages / "common", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(environment: Path, *words: object) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [environment / "bin/python", *words]
    return subprocess.run(command, cwd=environment, env=clean, capture_output=True, text=True)


@pytest.mark.slow
def test_it_segments_and_has_no_pytorch(environment, weighted_bundle, phantoms, tmp_path):
    for name in ("torch", "monai", "scipy", "matplotlib"):
        assert run(environment, "-c", f"import {name}").returncode != 0
    write_shipped(weighted_bundle)
    scan = phantoms / "case_00000_synthetic/imaging.nii.gz"
    words = ("-b", weighted_bundle, "-i", scan, "-o", tmp_path / "out")
    done = run(environment, "-m", "common", "segment", *words)
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / "out").glob("*.nii.gz")
    assert read(mask).shape == nib.load(scan).shape and len(np.unique(read(mask))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [("score", "-l", ".", "-p", ".", "-o", "scores.csv"), ("info", "-b", ".")])
def test_what_needs_pytorch_says_so_in_one_line(words, environment):
    done = run(environment, "-m", "common", *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "expected this package to be installed, found none" in line
