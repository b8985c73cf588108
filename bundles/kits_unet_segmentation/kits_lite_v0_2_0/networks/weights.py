"""Weights on disk: a flat state dict of CPU tensors, loaded strictly, written in one piece."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping

import torch
from torch import nn

from ..bundle_path import check_weights
from ..errors import InputError
from ..files import write_whole


def load_weights(network: nn.Module, path: str | os.PathLike | None) -> nn.Module:
    """
    Load a flat state dict into a network, strictly, and return the network.

    Half-precision weights are converted to the network's own precision. Without a path the network stays as it is.

    Raises:
        InputError: when the file is missing, is no state dict, or belongs to another network.
    """
    if path is None:
        return network
    weights = read_weights(path)
    difference = _find_difference(network.state_dict(), weights)
    if difference:
        raise InputError(f"{path}: weights of another network: {difference}.")
    network.load_state_dict(weights)
    return network


def read_weights(path: str | os.PathLike) -> dict:
    """
    Read a state dict to the CPU, without a look at what it holds.

    Raises:
        InputError: when the file is missing, or is no state dict.
    """
    check_weights(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a file that is no pickle raises whatever its bytes make it do
        raise InputError(f"{path}: expected a PyTorch state dict, found a file that torch.load refuses.") from error
    if not isinstance(weights, dict):
        raise InputError(f"{path}: weights of another network: expected a state dict, found {type(weights).__name__}.")
    return weights


def save_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Write the flat state dict of a network, see `write_weights`."""
    write_weights(network.state_dict(), path)


def write_weights(weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    """
    Write a flat state dict, on the CPU, in one piece.

    A checkpoint is a zip archive of tensors. Where zeros make it worth while they are deflated, so a pruned network's
    file is smaller; `torch.load` inflates them like any archive's (its mmap=True does not: it needs plain ones).
    """
    plain, deflated = io.BytesIO(), io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in weights.items()}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(deflated, "w") as target:
        for record in source.infolist():
            # the date of all records torch writes: the file depends on the weights alone
            stamped = zipfile.ZipInfo(record.filename, (1980, 1, 1, 0, 0, 0))
            target.writestr(stamped, source.read(record), zipfile.ZIP_DEFLATED)
    # dense float32 shrinks by 7 %: not worth the time of loading
    smaller = deflated if len(deflated.getbuffer()) < 0.9 * len(plain.getbuffer()) else plain
    with write_whole(path) as temporary:
        temporary.write_bytes(smaller.getbuffer())


def _find_difference(expected: dict, found: dict) -> str:
    """What first tells a loaded state dict from the one it should be; empty when nothing does."""
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
