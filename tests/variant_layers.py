"""The layers of the zoo's networks, measured once."""

from __future__ import annotations

from functools import cache

import torch

from common.layer_graph import Layer, measure_layers
from common.networks import LiteUNet
from common.zoo.variants import VARIANTS

ROWS = {variant.title: variant.network for variant in VARIANTS}


@cache
def measure(title: str) -> list[Layer]:
    """The layers of a network at 1 x 1 x 256 x 256."""
    with torch.device("meta"):
        return measure_layers(LiteUNet(**ROWS[title]))
