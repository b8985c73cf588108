"""The layers of the zoo's networks, measured once."""

from __future__ import annotations

from functools import cache

import torch

from common.networks import LiteUNet
from common.partitioning.layers import Layer, measure_layers
from zoo.variants import VARIANTS

ROWS = {variant.title: variant.network for variant in VARIANTS}


@cache
def measure(title: str) -> list[Layer]:
    """The layers of a network at 1 x 1 x 256 x 256."""
    with torch.device("meta"):
        return measure_layers(LiteUNet(**ROWS[title]))
