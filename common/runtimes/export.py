"""
Networks as files that other runtimes open: TorchScript, torch.export, ONNX and OpenVINO.

    bundle, weights -- fold weight standardization -- export --> <name>.ts | .pt2 | .onnx | .xml and .bin

Whatever the format, the file maps `image`, float32 (B, 1, H, W), to the logits `pred` (B, 3, H, W) for any B and any
multiples H and W of the network's `size_divisor` (.pt2: from twice that on); of a 3-D network with D before H. It
carries `metadata.json`, the bundle's own with the sha256 of the weights. BatchNorm stays: a ReLU stands between it and
the convolution before, and zero padding between it and the one after.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..bundle_folder import find_bundle, open_bundle
from ..bundle_path import check_weights
from ..errors import InputError
from ..files import PathLike, hash_file, write_whole
from ..networks import fold_weight_standardization
from .packages import import_package
from .plain import METADATA, describe_definition, mark_network


class NamedNetwork(nn.Module):
    """A network whose argument has the name that the exported file gives it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)


class RowwiseGroupNorm(nn.GroupNorm):
    """
    `nn.GroupNorm` that averages rows first, then their means.

    ONNX Runtime and OpenVINO add up a group, 131,072 values at 256 x 256 in SD-UNet, nearly one after the other: their
    logits were off by 0.4 % and 0.06 % of the largest; this way by 0.003 %, as PyTorch's own, in a quarter more time.
    """

    @staticmethod
    def average(groups: torch.Tensor) -> torch.Tensor:
        # a mean and a sum: of two means or two sums, OpenVINO would make one again
        return groups.mean(3, keepdim=True).sum(2, keepdim=True) / groups.shape[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = x.reshape(x.shape[0], self.num_groups, -1, x.shape[-1])
        centered = groups - self.average(groups)
        normalized = (centered * torch.rsqrt(self.average(centered.square()) + self.eps)).reshape(x.shape)
        shape = [-1] + [1] * (x.dim() - 2)
        return normalized * self.weight.view(shape) + self.bias.view(shape)


def export_bundle(bundle: PathLike, format: str, output_dir: PathLike) -> Path:
    """
    Write the network of a bundle, with its weights, as `<bundle>.ts`, `.pt2`, `.onnx` or `.xml` with `.bin` beside it.

    Args:
        format: `"torchscript"`, `"pt2"`, `"onnx"` or `"openvino"`.

    Returns:
        the file.

    Raises:
        InputError: when the format is unknown or its packages are missing, the folder is no bundle, its weights are
            missing or another network's, or a file cannot be written.

    Example:
        >>> export_bundle("kits_pocket_unet_segmentation", "onnx", "exported").name
        'kits_pocket_unet_segmentation.onnx'
    """
    if format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, found {format}.")
    parser = open_bundle(bundle)
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    weights = parser.get_parsed_content("weights")
    metadata = read_metadata(find_bundle(bundle) / "configs" / METADATA, weights)
    definitions = describe_definition(parser.config["network_def"]), parser.get_parsed_content("network_def")
    metadata |= mark_network(*definitions)
    path = Path(output_dir) / f"{find_bundle(bundle).name}{FORMATS[format]}"
    export_network(network, path, metadata)
    return path


def read_metadata(path: PathLike, weights: PathLike) -> dict[str, Any]:
    """What an exported file carries: the content of `metadata.json`, and the sha256 of the file of the weights."""
    check_weights(weights)
    return json.loads(Path(path).read_text()) | {"weights_sha256": hash_file(weights)}


def export_network(network: nn.Module, path: Path, metadata: dict[str, Any]) -> None:
    """
    Write a network in the format that the suffix of a path says, in one piece.

    Args:
        network: a `LiteUNet`, or another 2-D network with its `size_divisor`.

    Raises:
        InputError: when a package is missing, the network has no `size_divisor`, or the file cannot be written.
    """
    named = prepare_network(network)
    write_files(path, WRITERS[path.suffix](named, describe_export(named, metadata)))


def prepare_network(network: nn.Module) -> NamedNetwork:
    """
    The same on the CPU, ready for a converter: weight standardization folded, its argument named.

    Raises:
        InputError: when the network has no `size_divisor`.
    """
    if not hasattr(network, "size_divisor"):
        raise InputError(f"network_def: expected a LiteUNet, found {type(network).__name__}.")
    return NamedNetwork(fold_weight_standardization(network)).cpu().eval()


def describe_export(named: NamedNetwork, metadata: Mapping[str, Any]) -> str:
    """Metadata as a file carries it, with "size_divisor": OpenVINO computes nonsense of other sizes without a word."""
    divisors = list_divisors(named.network)
    several = {"size_divisors": divisors} if divisors != [divisors[0]] * 2 else {}
    return json.dumps({**metadata, "size_divisor": named.network.size_divisor, **several})


def list_divisors(network: nn.Module) -> list[int]:
    """What every axis of an image must be divisible by."""
    return getattr(network, "size_divisors", [network.size_divisor] * 2)


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """
    Write the files of one export, content by suffix, all or none of them.

    Raises:
        InputError: when a file cannot be written.
    """
    try:
        with ExitStack() as stack:
            for suffix, content in files.items():
                stack.enter_context(write_whole(path.with_suffix(suffix))).write_bytes(content)
            if len(files) > 1:
                path.unlink(missing_ok=True)  # an old graph must never stand beside new weights
    except OSError as error:
        found = error.strerror or error
        raise InputError(f"{path}: expected to write it, found: {found}.") from error


def _write_torchscript(named: NamedNetwork, metadata: str) -> dict[str, bytes]:
    buffer = io.BytesIO()
    with quiet():
        torch.jit.save(torch.jit.script(named), buffer, _extra_files={METADATA: metadata})
    return {".ts": buffer.getvalue()}


def _write_pt2(named: NamedNetwork, metadata: str) -> dict[str, bytes]:
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(_export(named), buffer, extra_files={METADATA: metadata})
    return {".pt2": buffer.getvalue()}


def _write_onnx(named: NamedNetwork, metadata: str) -> dict[str, bytes]:
    for name in ("onnx", "onnxscript"):
        import_package(name)
    with quiet():
        exported = _export(_split_group_norm(named))
        program = torch.onnx.export(exported, dynamo=True, output_names=["pred"], verbose=False)
    program.model.metadata_props[METADATA] = metadata
    model = program.model_proto
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        for axis, name in {0: "batch", -3: "depth", -2: "height", -1: "width"}.items():
            if axis != -3 or len(axes) == 5:
                axes[axis].dim_param = name
    return {".onnx": model.SerializeToString()}


def _write_openvino(named: NamedNetwork, metadata: str) -> dict[str, bytes]:
    return save_openvino(convert_to_openvino(_split_group_norm(named)), metadata)


def convert_to_openvino(named: NamedNetwork) -> Any:
    """The network as an `openvino.Model`, float32, from `image` to `pred`, of any batch, height and width."""
    with quiet():
        model = import_package("openvino").convert_model(_export(named))
    model.inputs[0].set_names({"image"})
    model.outputs[0].set_names({"pred"})
    return model


def save_openvino(model: Any, metadata: str) -> dict[str, bytes]:
    """The files of an `openvino.Model` by suffix, its weights as they are, metadata inside."""
    model.set_rt_info(metadata, [METADATA])
    with tempfile.TemporaryDirectory() as folder:
        import_package("openvino").save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)
        # renamed last to first: the graph, which stands for the whole, appears after its weights
        return {suffix: (Path(folder) / f"model{suffix}").read_bytes() for suffix in (".xml", ".bin")}


# .xml leads to its .bin
WRITERS: dict[str, Callable[[NamedNetwork, str], dict[str, bytes]]] = {
    ".ts": _write_torchscript,
    ".pt2": _write_pt2,
    ".onnx": _write_onnx,
    ".xml": _write_openvino,
}
FORMATS = dict(zip(("torchscript", "pt2", "onnx", "openvino"), WRITERS))


def _split_group_norm(named: NamedNetwork) -> NamedNetwork:
    """The same, its GroupNorm replaced in place."""
    for module in named.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = RowwiseGroupNorm
    return named


def _export(named: NamedNetwork) -> ExportedProgram:
    divisors = list_divisors(named.network)
    names = ("planes", "rows", "columns")[-len(divisors) :]
    shape = {0: Dim("batch")} | {axis: d * Dim(name) for axis, (d, name) in enumerate(zip(divisors, names), 2)}
    # sizes that differ from each other and from 1 stay dynamic
    sizes = [(axis + 2) * divisor for axis, divisor in enumerate(divisors)]
    example = torch.zeros(2, next(named.parameters()).shape[1], *sizes)
    with torch.no_grad():
        return torch.export.export(named, (example,), dynamic_shapes={"image": shape})


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' pages of warnings and progress off the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
