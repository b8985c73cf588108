"""Copies of the bundles, and synthetic cases, for every folder of tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bundle_runs import BUNDLES, POCKET
from exported_networks import BACKEND_OF, TINY, build

from common.files import hash_file
from common.kits.phantom import write_phantom_dataset
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.runtimes.export import export_network

pytest_plugins = ["kits_fixtures", "script_fixtures"]
ABOUT_WEIGHTS = ("weights", "scores")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run in several processes at once: more threads than cores make small layers ten times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four synthetic cases of 10 x 48 x 48 voxels."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, 4, seed=3, shape=(10, 48, 48), spacing_mm=(12.0, 8.0, 8.0))
    return folder


@pytest.fixture
def copy_bundle(tmp_path):
    """A function that copies a bundle, without weights and what is said of them, so that runs leave ours alone."""

    def copy(name: str = POCKET) -> Path:
        bundle = shutil.copytree(BUNDLES / name, tmp_path / name, ignore=shutil.ignore_patterns("eval", "models"))
        path = bundle / "configs/metadata.json"
        metadata = {key: value for key, value in json.loads(path.read_text()).items() if key not in ABOUT_WEIGHTS}
        path.write_text(json.dumps(metadata, indent=4) + "\n")
        return bundle

    return copy


@pytest.fixture
def weighted_bundle(copy_bundle) -> Path:
    """Pocket U-Net with untrained weights, always the same."""
    bundle = copy_bundle()
    torch.manual_seed(0)
    save_weights(LiteUNet(channels=[16] * 5), bundle / "models/model.pt")
    return bundle


@pytest.fixture(scope="session")
def exports(tmp_path_factory) -> tuple[LiteUNet, dict[str, Path], dict]:
    """A tiny network in every format: itself, its files by suffix, what they were given as metadata."""
    folder, network = tmp_path_factory.mktemp("exports"), build(TINY)
    save_weights(network, folder / "model.pt")
    metadata = {"name": 'Ä "quoted" <name>', "version": "1", "weights_sha256": hash_file(folder / "model.pt")}
    files = {suffix: folder / f"model{suffix}" for suffix in BACKEND_OF}
    for path in files.values():
        export_network(network, path, metadata)
    return network, files, metadata
