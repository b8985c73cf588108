"""Weights on disk: a flat state dict of CPU tensors, loaded strictly, written in one piece."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from ..files import replace_file


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """
    Load a flat state dict into a network, strictly, and return the network.

    Half-precision weights are converted to the network's own precision.

    Raises:
        InputError: when the file is missing, is no state dict, or belongs to another network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no weights here; train first, or download the bundle with its weights.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a file that is no pickle raises whatever its bytes make it do
        raise InputError(f"{path}: expected a PyTorch state dict, found a file that torch.load refuses.") from error
    difference = _find_difference(network.state_dict(), weights)
    if difference:
        raise InputError(f"{path}: weights of another network: {difference}.")
    network.load_state_dict(weights)
    return network


def save_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Write the flat state dict of a network, on the CPU, in one piece."""
    with replace_file(path) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}, temporary)


def _find_difference(expected: dict, found: object) -> str:
    """What first tells a loaded object from the state dict it should be; empty when nothing does."""
    if not isinstance(found, dict):
        return f"expected a state dict, found {type(found).__name__}"
    for name in sorted(expected.keys() | found.keys(), key=str):
        if name not in found:
            return f"expected {name}, found no such key"
        if name not in expected:
            return f"found {name}, expected no such key"
        if not isinstance(found[name], torch.Tensor) or found[name].shape != expected[name].shape:
            return f"{name}: expected shape {tuple(expected[name].shape)}, found {_describe(found[name])}"
    return ""


def _describe(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
