"""Run an exported network in ONNX Runtime, OpenVINO or PyTorch, in the stead of the network itself."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from .. import __version__
from ..errors import InputError
from ..files import PathLike, user_cache
from ..networks import check_size, load_weights
from .export import METADATA, export_network, read_metadata
from .packages import has_bf16, import_package, open_core

# the suffixes that a backend runs; it exports to the first
BACKENDS = {"torch": (".ts", ".pt2"), "onnxruntime": (".onnx",), "openvino": (".xml",)}
PRECISIONS = ("f32", "bf16")

Forward = Callable[[torch.Tensor], torch.Tensor]


class ExportedNetwork:
    """
    The logits (B, 3, H, W) of an exported network for an image (B, 1, H, W), computed on the CPU; or with D before H.

    Args:
        path: file that `export_network` wrote.
        backend: `"torch"`, `"onnxruntime"` or `"openvino"`; takes as many threads as PyTorch has.
        precision: of the computation, `"f32"` or, with OpenVINO, `"bf16"`; slower, and warned of, where the CPU
            has none. Of an int8 file, see `common.runtimes.quantize`, what is not int8 is computed so.

    Raises:
        InputError: when an argument is wrong, the backend's package is missing, or the file is not such a file; on a
            call, when height or width is not divisible by the network's `size_divisor`.
    """

    def __init__(self, path: PathLike, backend: str, precision: str = "f32") -> None:
        check_backend(backend, precision)
        self.backend, self.precision = backend, precision
        path = Path(path)
        if path.suffix not in BACKENDS[backend]:
            raise InputError(f"{path}: expected a file in {' or '.join(BACKENDS[backend])} for backend {backend}.")
        if not path.is_file():
            raise InputError(f"{path}: expected an exported network, found no file.")
        try:
            self.run, metadata = OPENERS[path.suffix](path, precision)
            self.metadata = json.loads(metadata)
        except InputError:
            raise
        except Exception as error:  # every runtime has errors of its own
            raise InputError(f"{path}: expected what kits-lite export writes, found what {backend} refuses.") from error

    @property
    def settings(self) -> tuple[str, ...]:
        """What tells masks of this network from those of PyTorch, whose last bits it does not share."""
        if self.backend == "torch":
            return ()
        calibration = self.metadata.get("calibration")
        return (self.backend, self.precision, *([str(calibration)] if calibration else []))

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        check_size(image, self.metadata.get("size_divisors") or [self.metadata.get("size_divisor", 1)] * 2)
        return self.run(image.cpu().contiguous()).to(image.device)


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


def choose_backend(device: str | None = None, exported: PathLike | None = None) -> str:
    """
    The backend for an exported file; without one OpenVINO on the CPU where it is installed, else PyTorch.

    Raises:
        InputError: when no backend runs such a file.

    Example:
        >>> choose_backend(exported="kits_unet_segmentation.onnx")
        'onnxruntime'
    """
    if exported is not None:
        suffix = Path(exported).suffix
        for name, suffixes in BACKENDS.items():
            if suffix in suffixes:
                return name
        known = ", ".join(sum(BACKENDS.values(), ()))
        raise InputError(f"exported: expected a file in one of {known}, found {exported}.")
    on_cpu = device == "cpu" if device is not None else not torch.cuda.is_available()
    return "openvino" if on_cpu and find_spec("openvino") else "torch"


def open_network(
    parser: ConfigParser, backend: str, exported: PathLike | None = None, precision: str = "f32"
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
    return load_exported(network, weights, metadata, backend, exported, precision)


def load_exported(
    network: nn.Module,
    weights: PathLike,
    metadata: PathLike,
    backend: str,
    path: PathLike | None = None,
    precision: str = "f32",
) -> ExportedNetwork:
    """
    A network with its weights, run by a backend from an exported file.

    Args:
        network: what the weights are for.
        metadata: `metadata.json` of the bundle.
        path: exported file; by default one in the folder `exported` beside the weights, or where that takes no files
            in the user's cache, written when it is not there. Its name follows from the weights, the network and the
            version: others get another.

    Raises:
        InputError: when the file holds other weights; see `ExportedNetwork` and `export_network` also.
    """
    check_backend(backend, precision)
    content = read_metadata(metadata, weights)
    if path is None:
        key = hashlib.sha256(f"{content['weights_sha256']} {network} {__version__}".encode()).hexdigest()[:16]
        weights = Path(weights)
        name = f"{weights.stem}-{key}{BACKENDS[backend][0]}"
        # a bundle in an image of Apptainer, or installed for all users, takes no files
        folders = weights.parent / "exported", user_cache() / "exported"
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        path = path or _export_once(load_weights(network, weights), [folder / name for folder in folders], content)
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


def check_backend(backend: str, precision: str) -> None:
    """
    Raises:
        InputError: when there is no such backend, it is not installed, or it has no such precision.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend}.")
    precisions = PRECISIONS if backend == "openvino" else PRECISIONS[:1]
    if precision not in precisions:
        remedy = "; kits-lite export writes int8 files" if precision == "int8" else ""
        raise InputError(f"precision: expected {' or '.join(precisions)} with {backend}, found {precision}{remedy}.")
    import_package(backend)


def _open_torchscript(path: Path, _: str) -> tuple[Forward, str]:
    extra = {METADATA: ""}
    return torch.jit.load(path, "cpu", _extra_files=extra), extra[METADATA]


def _open_pt2(path: Path, _: str) -> tuple[Forward, str]:
    extra = {METADATA: ""}
    return torch.export.load(path, extra_files=extra).module(), extra[METADATA]


def _open_onnx(path: Path, _: str) -> tuple[Forward, str]:
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map[METADATA]


def _open_openvino(path: Path, precision: str) -> tuple[Forward, str]:
    core = open_core()
    if precision == "bf16" and not has_bf16():
        warnings.warn("this CPU has no bf16 arithmetic: it will be slower than f32", stacklevel=2)
    model = core.read_model(path)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # processes side by side would all be pinned to the same first cores
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", settings)

    def run(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(image.numpy())["pred"])

    return run, model.get_rt_info([METADATA]).astype(str)


OPENERS: dict[str, Callable[[Path, str], tuple[Forward, str]]] = {
    ".ts": _open_torchscript,
    ".pt2": _open_pt2,
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
}
