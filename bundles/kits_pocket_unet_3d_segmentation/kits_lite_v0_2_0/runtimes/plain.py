"""Exported networks on numpy arrays, by ONNX Runtime or OpenVINO: all that runs them, and nothing of PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..files import PathLike, user_cache
from .packages import choose_cpu_backend, has_bf16, has_cuda, import_package, open_core

METADATA = "metadata.json"  # as an exported file carries it
SHIPPED = "model.onnx"  # beside the weights, which every backend but PyTorch takes first
# the suffixes that a backend runs; it exports to the first
BACKENDS = {"torch": (".ts", ".pt2"), "onnxruntime": (".onnx",), "openvino": (".xml", ".onnx")}
PRECISIONS = ("f32", "bf16")
MOST_STREAMS = 8  # each has activations of its own in memory

Forward = Callable[[np.ndarray], np.ndarray]


class PlainNetwork:
    """
    The logits (B, 3, H, W) of an exported network for an image (B, 1, H, W), or with D before H, computed on the CPU:
    float32 arrays.

    Args:
        path: file that `export_network` wrote.
        backend: `"onnxruntime"` or `"openvino"`.
        precision: of the computation, `"f32"` or, with OpenVINO, `"bf16"`; slower, and warned of, where the CPU
            has none. Of an int8 file, see `common.runtimes.quantize`, what is not int8 is computed so. None takes
            bf16 where the CPU computes in it, see `choose_precision`.
        workers: threads that will call at once, and share the cores; by default one for each. With 1 a single call is
            answered soonest, with more a volume is.

    Raises:
        InputError: when an argument is wrong, the backend's package is missing, or the file is not such a file; on a
            call, when an axis is not divisible by its one of the network's `size_divisors`.
    """

    openers: Mapping[tuple[str, str], Callable[[Path, str, int], tuple[Forward, str]]]

    def __init__(self, path: PathLike, backend: str, precision: str | None = "f32", workers: int | None = None) -> None:
        check_backend(backend, precision)
        self.backend, self.precision = backend, precision or choose_precision(backend)
        path = Path(path)
        if path.suffix not in BACKENDS[backend]:
            raise InputError(f"{path}: expected a file in {' or '.join(BACKENDS[backend])} for backend {backend}.")
        if not path.is_file():
            raise InputError(f"{path}: expected an exported network, found no file.")
        self.workers = 1 if backend == "torch" else workers or min(count_threads(), MOST_STREAMS)
        try:
            self.forward, metadata = self.openers[backend, path.suffix](path, self.precision, self.workers)
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

    def compute(self, image: np.ndarray) -> np.ndarray:
        """The logits; several threads may call at once, `workers` of them to some use."""
        divisors = self.metadata.get("size_divisors") or [self.metadata.get("size_divisor", 1)] * 2
        size = image.shape[2:]
        if len(size) != len(divisors) or any(length % divisor for length, divisor in zip(size, divisors)):
            found, expected = (" x ".join(map(str, lengths)) for lengths in (size, divisors))
            expected = divisors[0] if len({*divisors}) == 1 else expected
            raise InputError(f"height and width must be divisible by {expected}, got {found}.")
        return self.forward(image)


def count_threads() -> int:
    """Threads that this process may use: those of PyTorch where it is loaded, else OMP_NUM_THREADS, else all cores."""
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS", "")
    # not on every system a process can be kept to some cores
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(given)) if given.isdecimal() else allowed


def choose_precision(backend: str) -> str:
    """The precision of a backend where none is wished for: bf16 in OpenVINO on a CPU that computes in it, else f32."""
    return "bf16" if backend == "openvino" and has_bf16() else "f32"


def choose_backend(device: str | None = None, exported: PathLike | None = None) -> str:
    """
    The backend for an exported file; without one OpenVINO on the CPU where it is installed, else PyTorch,
    else ONNX Runtime; PyTorch on a GPU.

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
        known = ", ".join(dict.fromkeys(sum(BACKENDS.values(), ())))
        raise InputError(f"exported: expected a file in one of {known}, found {exported}.")
    return choose_cpu_backend() if (device == "cpu" if device is not None else not has_cuda()) else "torch"


def check_backend(backend: str, precision: str | None) -> None:
    """
    Raises:
        InputError: when there is no such backend, it is not installed, or it has no such precision.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend}.")
    precisions = PRECISIONS if backend == "openvino" else PRECISIONS[:1]
    if precision is not None and precision not in precisions:
        remedy = "; kits-lite export writes int8 files" if precision == "int8" else ""
        raise InputError(f"precision: expected {' or '.join(precisions)} with {backend}, found {precision}{remedy}.")
    import_package(backend)


def find_exported(
    weights: Path, weights_sha256: str, definition: object, backend: str
) -> tuple[Path | None, list[Path]]:
    """
    The exported file of some weights for a backend, and where it may be written when there is none.

    Args:
        weights: file of the weights; beside it `model.onnx` is taken first, if it was made of them.
        definition: what else the file's name follows from: the network.
    """
    key = hash_text(f"{weights_sha256} {definition} {__version__}")[:16]
    name = f"{weights.stem}-{key}{BACKENDS[backend][0]}"
    # a bundle in an image of Apptainer, or installed for all users, takes no files
    places = [folder / name for folder in (weights.parent / "exported", user_cache() / "exported")]
    shipped = weights.with_name(SHIPPED)
    if shipped.suffix in BACKENDS[backend] and shipped.is_file() and holds(shipped, weights_sha256, definition):
        return shipped, places
    return next((path for path in places if path.is_file()), None), places


def holds(shipped: Path, weights_sha256: str, definition: object) -> bool:
    """Whether a file `model.onnx` was made of these weights and this network: its metadata are text in it."""
    content = shipped.read_bytes()
    return all(mark.encode() in content for mark in (weights_sha256, hash_text(definition)))


def mark_network(*definitions: object) -> dict[str, list[str]]:
    """What an exported file's metadata say of its network, described in any of several ways, for `holds`."""
    return {"network_sha256": [hash_text(definition) for definition in definitions]}


def hash_text(definition: object) -> str:
    """The sha256 of what is printed of something, in hexadecimal."""
    return hashlib.sha256(str(definition).encode()).hexdigest()


def describe_definition(network_def: Mapping[str, Any]) -> str:
    """A `network_def` as a line that is the same whichever bundle's package its class is in."""
    arguments = {key: value for key, value in network_def.items() if key != "_target_"}
    return json.dumps(arguments, sort_keys=True)


def _open_onnx(path: Path, _: str, workers: int) -> tuple[Forward, str]:
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, count_threads() // workers)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return (
        lambda image: session.run(["pred"], {"image": image})[0],
        session.get_modelmeta().custom_metadata_map[METADATA],
    )


def _open_openvino(path: Path, precision: str, workers: int) -> tuple[Forward, str]:
    core = open_core()
    if precision == "bf16" and not has_bf16():
        warnings.warn("this CPU has no bf16 arithmetic: it will be slower than f32", stacklevel=2)
    model = core.read_model(path)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": count_threads(),
        "NUM_STREAMS": workers,
        # processes side by side would all be pinned to the same first cores
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core.compile_model(model, "CPU", settings | {"CACHE_DIR": str(user_cache() / "openvino")})
    except RuntimeError:  # no folder there that takes files
        compiled = core.compile_model(model, "CPU", settings)

    def forward(image: np.ndarray) -> np.ndarray:
        return compiled.create_infer_request().infer({"image": image})["pred"]

    place = ["framework", METADATA] if path.suffix == ".onnx" else [METADATA]
    return forward, model.get_rt_info(place).astype(str)


PlainNetwork.openers = {
    ("onnxruntime", ".onnx"): _open_onnx,
    ("openvino", ".onnx"): _open_openvino,
    ("openvino", ".xml"): _open_openvino,
}
