"""The networks of the papers and their ablations, row by row."""

from __future__ import annotations

import json
from functools import cache

import torch

from common.networks import LiteUNet
from zoo.variants import ABLATIONS, VARIANTS

ROWS = {variant.title: variant.network for variant in VARIANTS} | ABLATIONS
# the papers print UNet-PWP's dense network
UNPRUNED = {variant.title: variant.network | variant.original for variant in VARIANTS}


@cache
def build_from_json(arguments: str) -> LiteUNet:
    torch.manual_seed(0)
    return LiteUNet(**json.loads(arguments)).eval()


def build(row: str) -> LiteUNet:
    """The network of a row in eval mode, built once: not to be changed."""
    return build_from_json(json.dumps(ROWS[row]))


def build_narrow(row: str) -> LiteUNet:
    """A new network of a row with 32 channels on every level (what GroupNorm's 32 groups allow)."""
    return LiteUNet(**ROWS[row] | {"channels": [32] * 5})


def build_on_meta(**kwargs) -> LiteUNet:
    """A network without memory, for counting."""
    with torch.device("meta"):
        return LiteUNet(**kwargs)
