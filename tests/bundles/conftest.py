"""Small bundles and studies for MONAI Label."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, POCKET, read_network
from good_bundle import edit

from common.kits.phantom import make_phantom
from common.kits.preprocessing import resize_slices, scale_intensity
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights
from zoo.label.check import write_studies
from zoo.rendering import write_bundle
from zoo.variants import VARIANTS

SIZE = (32, 32)


@pytest.fixture(scope="module")
def make_bundle(tmp_path_factory) -> Callable[[str], Path]:
    """A function that gives a bundle at a small slice size, with the weights that it ships or with random ones."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def make(name: str) -> Path:
        bundle = write_bundle(next(variant for variant in VARIANTS if variant.name == name), folder)
        for config in ("inference", "train"):
            edit(bundle / f"configs/{config}.json", lambda content: content.update(spatial_size=SIZE))
        edit(bundle / "configs/train.json", lambda content: content.update(windows={"32": 1}))
        torch.manual_seed(0)
        network = read_network(bundle)
        if (shipped := BUNDLES / name / "models/model.pt").is_file():
            load_weights(network, shipped)
        save_weights(balance(network), bundle / "models/model.pt")
        edit(bundle / "configs/metadata.json", lambda content: content.pop("weights", None))  # of other weights
        return bundle

    return make


def balance(network: LiteUNet) -> LiteUNet:
    """Shift the logits so that every label wins somewhere: a map of one label looks right however it is turned."""
    image, _ = make_phantom(0, (10, 48, 64), (12.0, 8.0, 7.0))
    slices = scale_intensity(torch.from_numpy(image.clip(0, 255).astype(np.uint8))[:, None])
    with torch.no_grad():
        network.head.bias -= network.eval()(resize_slices(slices, SIZE)).mean(dim=(0, 2, 3))
    return network


@pytest.fixture
def pocket(make_bundle, tmp_path) -> Path:
    return shutil.copytree(make_bundle(POCKET), tmp_path / POCKET)


@pytest.fixture
def studies(tmp_path) -> Path:
    return write_studies(tmp_path / "studies")
