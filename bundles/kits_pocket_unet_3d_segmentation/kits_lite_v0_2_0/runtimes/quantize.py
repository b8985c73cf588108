"""
Networks in int8 for OpenVINO: quantized after training, calibrated on images as inference sees them.

    images -- the bundle's own preprocessing and inferer --> slices (1, 1, H, W), float32 in [0, 1]
    network, float32, as `common.runtimes.export` converts it -- NNCF, slices --> <bundle>_int8.xml and .bin

No training and no labels. The file runs wherever an exported OpenVINO file does, `common.runtimes.run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bundle_folder import find_bundle, open_bundle
from ..errors import InputError
from ..files import PathLike
from ..kits.cases import find_cases
from .export import (
    METADATA,
    convert_to_openvino,
    describe_export,
    prepare_network,
    quiet,
    read_metadata,
    save_openvino,
    write_files,
)
from .packages import import_package, open_core

INT8, INT8_SUFFIX = "int8", "_int8.xml"
# enough for ranges and means; a folder of whole scans would take hours to read
MAX_CASES, MAX_SLICES = 32, 128
# all that normalizes: squares and means span too many orders of magnitude for 256 steps
KEPT_IN_F32 = ("Add", "Divide", "GroupNormalization", "MVN", "Multiply", "Power", "ReduceMean", "Sqrt", "Subtract")
CONVOLUTIONS = ("Convolution", "GroupConvolution")


def check_int8(format: str, precision: str, dataset_dir: PathLike | None) -> None:
    """
    Raises:
        InputError: when there is no such precision of an export, or int8 comes without OpenVINO or without images.
    """
    if precision not in ("f32", INT8):
        raise InputError(f"precision: expected f32 or {INT8}, found {precision}.")
    if precision == INT8 and format != "openvino":
        raise InputError(f"format: expected openvino, which alone has {INT8}, found {format}.")
    if precision == INT8 and dataset_dir is None:
        raise InputError(f"dataset_dir: expected images to calibrate {INT8} with, found none.")
    if precision != INT8 and dataset_dir is not None:
        raise InputError(f"dataset_dir: expected none, as only {INT8} is calibrated, found {dataset_dir}.")


def export_int8(bundle: PathLike, dataset_dir: PathLike, output_dir: PathLike) -> Path:
    """
    Write the network of a bundle, with its weights, in int8: `<bundle>_int8.xml` with `.bin` beside it.

    Its metadata tells, beside what every export does, "precision" and "calibration": NNCF's version, the names of the
    cases, the number of slices and their sha256.

    Args:
        dataset_dir: images to calibrate with, in any layout that `find_cases` takes; no labels needed.

    Returns:
        the file `.xml`.

    Raises:
        InputError: when a package or the weights are missing, the folder is no bundle, an image is missing or bad, or
            a file cannot be written.
    """
    import_package("nncf")
    parser = open_bundle(bundle)
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    if getattr(network, "spatial_dims", 2) != 2:
        raise InputError(f"precision: expected f32 of a 3-D network, as {INT8} is calibrated on slices, found {INT8}.")
    slices, cases = collect_slices(bundle, dataset_dir)
    metadata = read_metadata(find_bundle(bundle) / "configs" / METADATA, parser.get_parsed_content("weights"))
    metadata["calibration"] = {
        "nncf": version("nncf"),
        "cases": cases,
        "slices": len(slices),
        "sha256": hashlib.sha256(b"".join(slices)).hexdigest(),
    }
    path = Path(output_dir) / f"{find_bundle(bundle).name}{INT8_SUFFIX}"
    export_quantized(network, path, metadata, slices)
    return path


def export_quantized(network: nn.Module, path: Path, metadata: dict[str, Any], slices: Sequence[np.ndarray]) -> None:
    """
    Write a network in int8 as `.xml` and `.bin`, in one piece.

    Args:
        network: see `export_network`.
        slices: (1, 1, H, W) each, float32, as the network sees them.

    Raises:
        InputError: see `export_network`.
    """
    # GroupNorm as OpenVINO has it: its 0.06 %, see `RowwiseGroupNorm`, drown in 256 steps, and it is faster
    named = prepare_network(network)
    model = quantize(convert_to_openvino(named), slices)
    write_files(path, save_openvino(model, describe_export(named, metadata | {"precision": INT8})))


def collect_slices(bundle: PathLike, dataset_dir: PathLike) -> tuple[list[np.ndarray], list[str]]:
    """
    What the network of a bundle sees when it segments a folder: its slices, and the names of their cases.

    Of many cases, `MAX_CASES` spread evenly over their names; of each an equal share of `MAX_SLICES`, spread evenly
    over its axis. The same folder gives the same slices.

    Returns:
        slices (1, 1, *spatial_size), float32 in [0, 1]; names.

    Raises:
        InputError: when the folder holds no image, or a bad one; see `open_bundle` also.
    """
    slices: list[np.ndarray] = []

    def watch(image: torch.Tensor) -> torch.Tensor:
        slices.extend(np.ascontiguousarray(image.cpu().numpy()).copy()[:, None])
        return image.repeat(1, 2, 1, 1)  # as if it were logits

    parser = open_bundle(bundle)
    parser["device"] = "cpu"
    preprocessing, inferer = (parser.get_parsed_content(key) for key in ("preprocessing", "inferer"))
    cases = spread(find_cases(dataset_dir), MAX_CASES)
    for case in cases:
        volume = preprocessing({"image": case["image"]})["image"][None]
        inferer(volume[..., spread(range(volume.shape[-1]), MAX_SLICES // len(cases))], watch)
    return slices, [case["case"] for case in cases]


def spread(items: Sequence, most: int) -> list:
    """At most so many items, evenly spread, the first and the last among them."""
    picked = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in picked]


def quantize(model: Any, slices: Sequence[np.ndarray]) -> Any:
    """
    An `openvino.Model` in int8, convolutions but the first and the last: weights a channel, activations a tensor.

    Post-training quantization of NNCF, https://arxiv.org/abs/2002.08679.

    Raises:
        InputError: when NNCF is not installed.
    """
    open_core()  # before NNCF opens one of its own
    nncf = import_package("nncf")
    convolutions = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in CONVOLUTIONS]
    ends = [convolutions[0], convolutions[-1]]  # see most of the image, and decide; they cost next to nothing
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(list(slices)),
            subset_size=len(slices),
            preset=nncf.QuantizationPreset.MIXED,
            # validate: most networks have few of them
            ignored_scope=nncf.IgnoredScope(ends, types=list(KEPT_IN_F32), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # it moves biases so that means fit: UNet-PWP lost foreground by it, no network gained
                disable_bias_correction=True,
                # weights take half of their range: a CPU without VNNI adds two products in 16 bits, which overflow
                overflow_fix=nncf.OverflowFix.ENABLE,
            ),
        )
