"""The examples in the docstrings, run in a folder with a scan, a KiTS folder and the bundles."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest
from bundle_runs import BUNDLES

MODULES = (
    "common",
    "common.bundle_folder",
    "common.app.segmenter",
    "common.compression.channels",
    "common.compression.complexity",
    "common.compression.zeros",
    "common.kits.cases",
    "common.kits.geometry",
    "common.kits.metrics",
    "common.kits.paper_scores",
    "common.kits.phantom",
    "common.networks.initialization",
    "common.networks.lite_unet",
    "common.networks.norm_folding",
    "common.partitioning.algorithms",
    "common.partitioning.layers",
    "common.partitioning.sub_models",
    "common.runtimes.export",
    "common.runtimes.plain",
    "common.runtimes.scans",
    "studies.isbi",
    "studies.training_cost",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name, phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").symlink_to(BUNDLES)
    (tmp_path / "kits").symlink_to(phantoms)
    (tmp_path / "scan.nii.gz").symlink_to(phantoms / "case_00000_synthetic/imaging.nii.gz")
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed
