"""Run an exported network in ONNX Runtime, OpenVINO or PyTorch, in the stead of the network itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from ..errors import InputError
from ..files import PathLike
from ..networks import load_weights
from .export import export_network, read_metadata
from .plain import (
    BACKENDS,
    METADATA,
    Forward,
    PlainNetwork,
    check_backend,
    choose_backend,
    choose_precision,
    describe_definition,
    find_exported,
)

__all__ = ["BACKENDS", "ExportedNetwork", "check_device", "choose_backend", "choose_network"]
__all__ += ["load_exported", "open_network"]


class ExportedNetwork(PlainNetwork):
    """
    The same on tensors, and of files of PyTorch, too, with backend `"torch"`; takes as many threads as PyTorch has.

    Its arguments, and what it raises, see `PlainNetwork`.
    """

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.compute(image.cpu().contiguous().numpy())).to(image.device)


def check_device(device: str | torch.device) -> str | torch.device:
    """
    A device, given back when it is here.

    Raises:
        InputError: when torch knows no such device, or this machine has none.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device: expected one that is here, cpu or cuda, found {device}.") from error
    return device


def open_network(
    parser: ConfigParser, backend: str, exported: PathLike | None = None, precision: str | None = "f32"
) -> nn.Module | ExportedNetwork:
    """
    What computes the logits in a bundle's inference: with backend `"torch"` and no file, its network on its device.

    Args:
        parser: see `open_bundle`.
        backend, exported, precision: see `load_exported`.

    Raises:
        InputError: when a device other than the CPU is asked of an exported network; see `load_exported` also.
    """
    check_backend(backend, precision)
    if backend == "torch" and exported is None:
        return parser.get_parsed_content("network").eval()
    # an expression is what the configs say, a plain name what the user said
    if parser["device"] != "cpu" and not str(parser["device"]).startswith("$"):
        raise InputError(f"device: expected cpu, where exported networks run, found {parser['device']}.")
    network, weights = (parser.get_parsed_content(key) for key in ("network_def", "weights"))
    metadata = Path(parser["bundle_root"]) / "configs" / METADATA
    definition = describe_definition(parser.config["network_def"])
    return load_exported(network, weights, metadata, backend, exported, precision, definition)


def choose_network(
    network: nn.Module | ExportedNetwork,
    weights: PathLike,
    metadata: PathLike,
    device: str | torch.device,
    backend: str | None = None,
    precision: str | None = None,
) -> nn.Module | ExportedNetwork:
    """
    What computes the logits in `inference.json`, as in `kits-lite segment`: on a CPU an exported network by default.

    Args:
        network: of the bundle, on its device; an exported one is given back.
        device: where the network is.
        backend: by default see `choose_backend`.
        weights, metadata, precision: see `load_exported`.

    Raises:
        InputError: see `load_exported`.
    """
    if isinstance(network, ExportedNetwork):
        return network
    backend = backend or choose_backend(torch.device(device).type)
    check_backend(backend, precision)
    if backend == "torch":
        return network
    return load_exported(network, weights, metadata, backend, precision=precision)


def name_settings(
    device: str | torch.device, backend: str | None = None, precision: str | None = None
) -> tuple[str, ...]:
    """
    `ExportedNetwork.settings` of what `choose_network` chooses, without it: MONAI Label, which has a network of its
    own, builds a bundle's postprocessing alone.
    """
    backend = backend or choose_backend(torch.device(device).type)
    return () if backend == "torch" else (backend, precision or choose_precision(backend))


def load_exported(
    network: nn.Module,
    weights: PathLike,
    metadata: PathLike,
    backend: str,
    path: PathLike | None = None,
    precision: str | None = "f32",
    definition: str | None = None,
) -> ExportedNetwork:
    """
    A network with its weights, run by a backend from an exported file.

    Args:
        network: what the weights are for.
        metadata: `metadata.json` of the bundle.
        path: exported file; by default `model.onnx` beside the weights, where it was made of them, or one in the folder
            `exported` there, or where that takes no files in the user's cache, written when it is not there. Its name
            follows from the weights, the network and the version: others get another.
        definition: of the network, see `describe_definition`; by default what PyTorch prints of it.

    Raises:
        InputError: when the file holds other weights; see `ExportedNetwork` and `export_network` also.
    """
    check_backend(backend, precision)
    content = read_metadata(metadata, weights)
    if path is None:
        weights = Path(weights)
        path, places = find_exported(weights, content["weights_sha256"], definition or network, backend)
        path = path or _export_once(load_weights(network, weights), places, content)
    exported = ExportedNetwork(path, backend, precision)
    if exported.metadata.get("weights_sha256") != content["weights_sha256"]:
        raise InputError(f"{path}: expected the weights of {weights}, found others; export it anew.")
    return exported


def _export_once(network: nn.Module, paths: Sequence[Path], metadata: dict[str, Any]) -> Path:
    """Export to the first path that takes it, and give that."""
    for path in paths:
        try:
            export_network(network, path, metadata)
            return path
        except InputError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            problem = error
    raise InputError(f"{str(problem).rstrip('.')}; backend torch needs no file.") from problem


def _open_torchscript(path: Path, _: str, workers: int) -> tuple[Forward, str]:
    extra = {METADATA: ""}
    return _on_arrays(torch.jit.load(path, "cpu", _extra_files=extra)), extra[METADATA]


def _open_pt2(path: Path, _: str, workers: int) -> tuple[Forward, str]:
    extra = {METADATA: ""}
    return _on_arrays(torch.export.load(path, extra_files=extra).module()), extra[METADATA]


def _on_arrays(network: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    def forward(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(image)).numpy()

    return forward


ExportedNetwork.openers = PlainNetwork.openers | {
    ("torch", ".ts"): _open_torchscript,
    ("torch", ".pt2"): _open_pt2,
}
