"""A bundle to verify, and a release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundle_runs import POCKET
from good_bundle import write_good_bundle

from zoo.packaging import package_bundles


@pytest.fixture(scope="session")
def good(tmp_path_factory, phantoms) -> Path:
    """A repository with one bundle whose metadata is true."""
    return write_good_bundle(tmp_path_factory.mktemp("repository"), phantoms)


@pytest.fixture
def broken(good, tmp_path) -> Path:
    """A copy of the good bundle in a repository of its own, to be broken."""
    copy = tmp_path / "repository"
    # without compiled code: an edit within the second, of the same length, would not be seen
    shutil.copytree(good.parents[1], copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy / "bundles" / POCKET


@pytest.fixture
def release(weighted_bundle, tmp_path) -> Path:
    """A release of one bundle."""
    package_bundles([weighted_bundle], tmp_path / "dist")
    return tmp_path / "dist"
