"""
From an image file to its label map without PyTorch and MONAI: NumPy, nibabel, and ONNX Runtime or OpenVINO.

    file -- RAS, HU window --> uint8 (X, Y, Z) -- `segment_volume`, an exported network --> label map, in file order

What `inference.json` says in numbers is taken from it as it is written. A config that says more is left to MONAI.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle_path import check_weights, find_bundle, read_config
from ..errors import InputError
from ..files import PathLike, hash_file
from ..kits.axial import find_step, segment_volume
from ..kits.components import AUTO, check_components, describe_removed, keep_components
from ..kits.geometry import HU_WINDOW, GridNumbers, check_window, orient_to_ras, spacing_in_ras
from ..kits.masks import FILE, HEADER, make_fingerprint
from ..kits.volumes import describe_range_problem, open_volume, read_ct
from .packages import import_package
from .plain import PlainNetwork, check_backend, choose_backend, describe_definition, find_exported

WEIGHTS = "models/model.pt"
# arguments of the inferer that change what is found
CHOSEN = ("mirror", "keep_largest", "min_volume_ml", "fast")
# what every bundle's `inference.json` says of a scan's way to the network, and this module does
PLAIN = {
    "weights": "$@bundle_root + '/models/model.pt'",
    "grid": {"_target_": "SliceGrid", **{key: f"@{key}" for key in ("spatial_size", "factor", "pixel_mm")}},
    "inferer": {"_target_": "AxialInferer", **{key: f"@{key}" for key in ("grid", "batch_size", *CHOSEN)}},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "LoadImaged",
                "keys": "image",
                "reader": {"_target_": "CTReader", "hu_window": "@hu_window"},
                "dtype": "uint8",
                "ensure_channel_first": True,
            },
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        ],
    },
}


class TorchNeeded(InputError):
    """What was asked for needs PyTorch; the message is for where it is not installed."""


@dataclass
class LabelMap:
    """
    A segmented scan.

    Args:
        label_map: uint8, 0 background, 1 kidney, 2 tumour, on the image's own grid.
        meta: of the image, see `write_mask`.
        seconds: of every step.
    """

    label_map: np.ndarray
    meta: Mapping[str, Any]
    seconds: dict[str, float]


class ScanSegmenter:
    """
    A bundle's network as a file, with the preprocessing of its `inference.json`; to the voxel what `Segmenter` gives.

    Args:
        bundle: bundle folder, or the name of one in a checkout's `bundles/`.
        backend: `"onnxruntime"` or `"openvino"`.
        exported: file that kits-lite export wrote; by default `models/model.onnx`, or what was exported at need.
        precision: see `PlainNetwork`; by default bf16 where the CPU computes in it.
        series, chosen: see `Segmenter`.

    Raises:
        InputError: when the folder is no bundle, its weights are missing, there is no exported file of them, an
            argument is wrong, or a backend's package is missing.

    Example:
        >>> from .export import export_bundle
        >>> exported = export_bundle("kits_pocket_unet_segmentation", "onnx", "exported")
        >>> segmenter = ScanSegmenter("kits_pocket_unet_segmentation", "openvino", exported)
        >>> segmenter.segment({"image": "scan.nii.gz"}).label_map.dtype
        dtype('uint8')
    """

    def __init__(
        self,
        bundle: PathLike,
        backend: str,
        exported: PathLike | None = None,
        precision: str | None = None,
        series: str | None = None,
        **chosen: Any,
    ) -> None:
        check_backend(backend, precision)
        config, weights = read_config(bundle), find_bundle(bundle) / WEIGHTS
        check_weights(weights)
        self.series = series
        self.chosen = {key: config.get(key) if chosen.get(key) is None else chosen[key] for key in CHOSEN}
        check_components(self.chosen["keep_largest"], self.chosen["min_volume_ml"])
        self.hu_window = check_window(config.get("hu_window", HU_WINDOW))
        self.grid = GridNumbers(*(config.get(key) for key in ("spatial_size", "factor", "pixel_mm")))
        self.batch_size = config["batch_size"]
        self.weights_sha256 = hash_file(weights)
        self.network = PlainNetwork(exported or self._find_file(config, weights, backend), backend, precision)
        if self.network.metadata.get("weights_sha256") != self.weights_sha256:
            raise InputError(f"{exported}: expected the weights of {weights}, found others; export it anew.")

    def _find_file(self, config: Mapping[str, Any], weights: Path, backend: str) -> Path:
        path, _ = find_exported(weights, self.weights_sha256, describe_definition(config["network_def"]), backend)
        if path is None:
            raise TorchNeeded(
                f"{weights.with_name('model.onnx')}: expected the network of these weights, found none;"
                " kits-lite export writes it where PyTorch is, for --exported."
            )
        return path

    def segment(self, case: Mapping[str, str]) -> LabelMap:
        """
        Segment one case.

        Args:
            case: dictionary with the path "image", see `find_cases`.

        Raises:
            InputError: when the image is bad, see `open_volume`.
        """
        clock = [time.perf_counter()]
        image = open_volume(case["image"], self.series)
        windowed, values = read_ct(image, self.hu_window)
        if problem := describe_range_problem(*values):
            warnings.warn(f"{case['image']}: {problem}.", stacklevel=2)
        clock.append(time.perf_counter())
        # of the file's own order in memory, and seen in RAS without a copy
        label_map = np.zeros(image.shape, np.uint8, order="F")
        volume, labels = (orient_to_ras(array, image.affine) for array in (windowed, label_map))
        spacing_mm, network = spacing_in_ras(image.affine), self.network
        arguments = self.grid, spacing_mm[:2], self.batch_size, network.workers, labels
        options = {"mirror": bool(self.chosen["mirror"]), "every": find_step(self.chosen["fast"], spacing_mm[2])}
        segment_volume(volume, network.compute, *arguments, **options)
        removed_ml = keep_components(labels, spacing_mm, self.chosen["keep_largest"], self.chosen["min_volume_ml"])
        if told := describe_removed(removed_ml):
            warnings.warn(f"{case['image']}: {told}.", stacklevel=2)
        clock.append(time.perf_counter())
        header = np.frombuffer(image.header.as_byteswapped("<").binaryblock, np.uint8)
        seconds = dict(zip(("read", "infer"), np.diff(clock).tolist()))
        return LabelMap(label_map, {HEADER: header, FILE: case["image"]}, seconds)

    def fingerprint(self, case: Mapping[str, str]) -> str:
        """What a mask of this case carries, see `make_fingerprint`."""
        return make_fingerprint(case["image"], self.weights_sha256, self.series, self.network.settings, **self.chosen)


def open_without_torch(
    bundle: PathLike,
    device: str | None = None,
    backend: str | None = None,
    exported: PathLike | None = None,
    **options: Any,
) -> ScanSegmenter | None:
    """
    A `ScanSegmenter`, or None where PyTorch is needed and installed: for its backend, for a GPU, for a config that says
    more than numbers, or to export the network first.

    Args:
        device: `"cpu"`, or None where the backend decides; what else see `ScanSegmenter`.

    Raises:
        InputError: see `ScanSegmenter`; or when PyTorch is needed and not installed.
    """
    has_torch = find_spec("torch") is not None
    backend = backend or choose_backend(device, exported)
    if backend == "torch":
        import_package("torch")
        return None
    try:
        if device not in (None, "cpu"):
            raise TorchNeeded(f"device: expected cpu, where exported networks run, found {device}.")
        if not is_plain(read_config(bundle)):
            raise TorchNeeded(f"{bundle}: expected a configs/inference.json that kits-lite wrote, found another.")
        return ScanSegmenter(bundle, backend, exported, **options)
    except TorchNeeded:
        if has_torch:
            return None
        raise


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether an `inference.json` says of a scan's way what every bundle's does, and in numbers what may differ."""
    as_written = {key: config.get(key) for key in PLAIN}
    numbers = [config.get(key) for key in ("hu_window", "batch_size", "spatial_size", "factor", "pixel_mm", *CHOSEN)]
    return _shorten(as_written) == PLAIN and not any(isinstance(value, str) and value != AUTO for value in numbers)


def _shorten(config: Any) -> Any:
    """A config whose classes are named without their modules."""
    if isinstance(config, dict):
        return {k: v.rpartition(".")[2] if k == "_target_" else _shorten(v) for k, v in config.items()}
    return [_shorten(value) for value in config] if isinstance(config, list) else config
