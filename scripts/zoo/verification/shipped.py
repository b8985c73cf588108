"""The exported network that a bundle may ship beside its weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from common.files import hash_file
from common.runtimes.plain import SHIPPED, PlainNetwork, describe_definition, holds

from .bundle import WEIGHTS, Bundle

LARGEST_DIFFERENCE = 1e-3  # of logits, as a share of the largest


def check_shipped(bundle: Bundle) -> Iterator[str]:
    """`models/model.onnx`, where there is one, was made of `models/model.pt`, and computes what it does."""
    config, weights = bundle.open_config(), bundle.find_weights()
    shipped = weights.with_name(SHIPPED)
    if not shipped.is_file():
        return
    network = bundle.trained_network.eval()
    definition = describe_definition(config.get("network_def"))
    if not holds(shipped, hash_file(weights), definition):
        yield f"models/{SHIPPED}: expected the network of {WEIGHTS}, found another; scripts/ship_onnx.py writes it anew"
        return
    divisor = network.size_divisor
    image = torch.rand(2, 1, 4 * divisor, 6 * divisor, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image).numpy()
    difference = np.abs(PlainNetwork(shipped, "onnxruntime").compute(image.numpy()) - expected).max()
    if difference > LARGEST_DIFFERENCE * np.abs(expected).max():
        yield f"models/{SHIPPED}: expected the logits of {WEIGHTS}, found them {difference:.2g} off"
