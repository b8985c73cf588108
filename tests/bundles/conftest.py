"""Copies of the bundles, and synthetic cases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, POCKET

from common.kits.phantom import write_phantom_dataset


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four synthetic cases of 10 x 48 x 48 voxels."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, 4, seed=3, shape=(10, 48, 48), spacing_mm=(12.0, 8.0, 8.0))
    return folder


@pytest.fixture
def copy_bundle(tmp_path):
    """A function that copies a bundle to a fresh folder, so that runs leave the committed one alone."""

    def copy(name: str = POCKET) -> Path:
        return shutil.copytree(BUNDLES / name, tmp_path / name, ignore=shutil.ignore_patterns("eval", "models"))

    return copy
