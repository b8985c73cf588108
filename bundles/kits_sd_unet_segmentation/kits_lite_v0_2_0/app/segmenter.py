"""`Segmenter`: a bundle's network and all that turns a scan into a label map, from Python and for the command line."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Invertd
from monai.utils import ImageMetaKey
from torch import nn

from ..bundle_folder import build_on_meta, find_bundle, open_bundle
from ..compression.complexity import count_parameters
from ..errors import InputError
from ..files import PathLike, hash_file
from ..kits.components import check_components
from ..kits.masks import make_fingerprint, write_mask
from ..kits.preprocessing import HU_WINDOW
from ..kits.volumes import LABELS, NIFTI_SUFFIXES
from ..runtimes.run import check_device, choose_backend, open_network
from ..runtimes.scans import CHOSEN
from .dicom_results import Algorithm, make_segmentation, write_dicom
from .slicer_files import write_seg_nrrd

PACKAGES = ("torch", "monai", "nibabel", "numpy")
OPTIONAL_PACKAGES = ("onnxruntime", "openvino", "nncf", "itk")
# of arrays; others are stored as float32
NIFTI_TYPES = (np.uint8, np.int16, np.int32, np.float32, np.float64)
STEPS = ("read", "orient", "infer", "restore")
SUFFIXES = (*NIFTI_SUFFIXES, ".seg.nrrd", ".dcm")


@dataclass
class Segmentation:
    """
    One segmented case.

    Args:
        image, prediction: (X, Y, Z) in RAS, uint8, for looking at; spacing_mm is theirs.
        label_map: uint8, 0 background, 1 kidney, 2 tumour, on the image's own grid, for keeping.
        affine: (4, 4) of that grid, to RAS mm.
        meta: of the image, see `write_mask`.
        seconds: of every step.
        algorithm: what made it.
        series: of DICOM, where one was chosen.
        mirrored: like prediction, made of the mirrored image and mirrored back, where that was wanted.
    """

    image: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    label_map: np.ndarray
    affine: np.ndarray
    meta: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    algorithm: Algorithm | None = None
    series: str | None = None
    mirrored: np.ndarray | None = None

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of kidney, without its tumours, and of tumour."""
        voxel_ml = abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000
        return {name: voxel_ml * int((self.label_map == LABELS[name]).sum()) for name in ("kidney", "tumor")}

    def save(self, path: PathLike) -> None:
        """
        Write the label map in one piece, as what the name's ending says.

        Args:
            path: ends in .nii.gz or .nii; .seg.nrrd, for 3D Slicer; or .dcm, a DICOM Segmentation of a DICOM series.

        Raises:
            InputError: when the name ends otherwise, the file cannot be written, it is the image, or a DICOM
                Segmentation cannot be made, see `make_segmentation`.
        """
        name, image = str(path), self.meta[ImageMetaKey.FILENAME_OR_OBJ]
        if not name.endswith(SUFFIXES):
            raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, found another.")
        if Path(path).resolve() == Path(image).resolve():
            raise InputError(f"{path}: expected another file than the image, found the image.")
        try:
            if name.endswith(".seg.nrrd"):
                write_seg_nrrd(path, self.label_map, self.affine)
            elif name.endswith(".dcm"):
                write_dicom(path, make_segmentation(image, self.label_map, self.algorithm, self.series))
            else:
                write_mask(path, self.label_map, self.meta)
        except OSError as error:
            raise InputError(f"{path}: expected to write it, found: {error.strerror or error}.") from error


class Segmenter:
    """
    A bundle's network with the preprocessing and inferer of its `inference.json`; call it with an image.

    Args:
        bundle: bundle folder, or the name of one in a checkout's `bundles/`.
        device: `"cpu"`, `"cuda"`, ...; by default what the bundle chooses.
        series: DICOM series to read, see `open_with_itk`.
        keep_largest, min_volume_ml, mirror, fast: see `AxialInferer`; by default as the bundle's `inference.json` says.
        network: computes in the stead of the bundle's network, as its weights would.
        backend: `"torch"`, `"onnxruntime"` or `"openvino"`; by default as on the command line, see `choose_backend`.
        exported, precision: see `open_network`; by default bf16 where OpenVINO runs on a CPU that computes in it.
        doubt: segment the mirrored image, too, which doubles the time, see `measure_agreement`.

    Raises:
        InputError: when the folder is no bundle, its weights are missing or another network's, an argument is wrong, or
            a backend's package is missing.

    Example:
        >>> segmentation = Segmenter("kits_pocket_unet_segmentation")("scan.nii.gz")
        >>> segmentation.label_map.shape == nib.load("scan.nii.gz").shape
        True
        >>> image = nib.load("scan.nii.gz")
        >>> segmentation = Segmenter("kits_pocket_unet_segmentation")(image.get_fdata(), image.affine)
        >>> sorted(segmentation.volumes_ml)
        ['kidney', 'tumor']
    """

    def __init__(
        self,
        bundle: PathLike,
        device: str | None = None,
        series: str | None = None,
        keep_largest: int | str | None = None,
        min_volume_ml: float | None = None,
        mirror: bool | None = None,
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
        backend: str | None = None,
        exported: PathLike | None = None,
        precision: str | None = None,
        doubt: bool = False,
        fast: bool | None = None,
    ) -> None:
        self.bundle = find_bundle(bundle)
        parser = open_bundle(bundle)
        check_components(keep_largest, min_volume_ml)
        given = {"keep_largest": keep_largest, "min_volume_ml": min_volume_ml, "mirror": mirror, "fast": fast}
        for key, value in given.items():
            if value is not None and key not in parser:
                raise InputError(f"{key}: expected an inference.json that has it, found one without in {self.bundle}.")
            if value is not None:
                parser[key] = value
        self.chosen = {key: parser.get(key) for key in CHOSEN}
        if doubt and self.chosen["mirror"]:
            raise InputError("doubt: expected without mirror, whose results a mirror does not change, found both.")
        self.series, self.doubt = series, doubt
        backend = backend or ("torch" if network else choose_backend(device, exported))
        self.backend = backend
        if device is not None:
            parser["device"] = check_device(device)
        if series is not None:
            parser["preprocessing#transforms#0#reader#series"] = series
        self.device = parser.get_parsed_content("device")
        self.network = open_network(parser, backend, exported, precision) if network is None else network
        precision = getattr(self.network, "precision", "f32")
        # int8 is a property of a file, see `common.runtimes.quantize`
        stored = getattr(self.network, "metadata", {})
        self.precision = f"{stored['precision']}, the rest {precision}" if "precision" in stored else precision
        self.calibration = stored.get("calibration")
        self.weights_sha256 = hash_file(parser.get_parsed_content("weights"))
        metadata = json.loads((self.bundle / "configs/metadata.json").read_text())
        parameters = {"weights_sha256": self.weights_sha256, "backend": backend, "precision": self.precision}
        parameters |= {key: str(value) for key, value in self.chosen.items() if value}
        self.algorithm = Algorithm(metadata["name"], metadata["version"], parameters)
        self.hu_window = parser.get("hu_window", HU_WINDOW)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.restore = Invertd("pred", self.preprocessing, orig_keys="image", nearest_interp=False)

    def __call__(self, image: Any, affine: np.ndarray | None = None) -> Segmentation:
        """
        Segment one image.

        Args:
            image: the path of a NIfTI or NRRD file or of a folder with a DICOM series; an image of nibabel or ITK; or
                an array (X, Y, Z) of Hounsfield units.
            affine: (4, 4) of an array, to RAS mm.

        Raises:
            InputError: when the image is bad, see `open_volume`, or an array comes without its affine.
        """
        if isinstance(image, (str, os.PathLike)):
            return self.segment({"image": str(image)})
        with tempfile.TemporaryDirectory() as folder:
            path = _write_image(image, affine, Path(folder))
            try:
                return self.segment({"image": str(path)})
            except InputError as error:
                raise InputError(str(error).replace(str(path), "image")) from None

    def segment(self, case: Mapping[str, str]) -> Segmentation:
        """
        Segment one case.

        Args:
            case: dictionary with the path "image", see `find_cases`.
        """
        clock = [time.perf_counter()]
        item = {"image": case["image"]}
        for transform in self.preprocessing.transforms:
            item = transform(item)
            clock.append(time.perf_counter())
        prediction = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
        mirrored = None
        if self.doubt:
            mirrored = self.inferer(item["image"][None].flip(2).to(self.device), self.network)[0, 0].cpu().numpy()[::-1]
        clock.append(time.perf_counter())
        restored = self.restore({"image": item["image"], "pred": prediction})["pred"]
        clock.append(time.perf_counter())
        return Segmentation(
            image=item["image"].numpy()[0],
            prediction=prediction.numpy()[0],
            spacing_mm=tuple(float(s) for s in item["image"].pixdim),
            label_map=restored.numpy()[0],
            affine=restored.affine.numpy(),
            meta=restored.meta,
            seconds=dict(zip(STEPS, np.diff(clock).tolist())),
            algorithm=self.algorithm,
            series=self.series,
            mirrored=mirrored,
        )

    def describe(self, case: Mapping[str, str]) -> dict[str, str]:
        """What made a segmentation, from what and when, to be printed in a report."""
        metadata = json.loads((self.bundle / "configs/metadata.json").read_text())
        packages = dict.fromkeys((self.backend, *PACKAGES))
        return {
            "Network": f"{metadata['name']}, bundle {self.bundle.name} {metadata['version']}",
            "Parameters": f"{count_parameters(build_on_meta(self.bundle)):,}",
            "Weights sha256": self.weights_sha256,
            "Input": str(Path(case["image"]).resolve()),
            "Chosen": ", ".join(f"{key} {value}" for key, value in self.chosen.items() if value) or "nothing",
            "Software": ", ".join(f"{package} {version(package)}" for package in packages),
            "Precision": self.precision,
            "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }

    def fingerprint(self, case: Mapping[str, str]) -> str:
        """What a mask of this case carries, see `make_fingerprint`."""
        backend = getattr(self.network, "settings", ())
        return make_fingerprint(case["image"], self.weights_sha256, self.series, backend, **self.chosen)


def _write_image(image: Any, affine: np.ndarray | None, folder: Path) -> Path:
    """An image in memory as a file, so that it passes whatever files have to pass."""
    if type(image).__module__.startswith("itk"):
        import itk

        path = folder / "image.nrrd"
        itk.imwrite(image, str(path))
        return path
    if isinstance(image, np.ndarray):
        if np.shape(affine) != (4, 4):
            found = "none" if affine is None else f"shape {np.shape(affine)}"
            raise InputError(f"affine: expected (4, 4) with an array, found {found}.")
        image = nib.Nifti1Image(image if image.dtype in NIFTI_TYPES else image.astype(np.float32), affine)
    if not isinstance(image, nib.spatialimages.SpatialImage):
        found = type(image).__name__
        raise InputError(f"image: expected a path, an image of nibabel or ITK, or an array, found {found}.")
    path = folder / "image.nii"
    nib.save(image, path)
    return path


def load(bundle: PathLike, device: str = "cpu") -> nn.Module:
    """
    The network of a bundle with its weights, ready to compute logits (B, 3, H, W) of slices (B, 1, H, W) in [0, 1].

    Args:
        bundle: see `Segmenter`.

    Raises:
        InputError: when the folder is no bundle, or its weights are missing or another network's.

    Example:
        >>> network = load("kits_pocket_unet_segmentation")
        >>> network(torch.zeros(1, 1, 256, 256)).shape
        torch.Size([1, 3, 256, 256])
    """
    parser = open_bundle(bundle)
    parser["device"] = check_device(device)
    return open_network(parser, "torch").requires_grad_(False)


def describe_bundle(bundle: PathLike) -> dict[str, str]:
    """What a bundle is, and the versions of the packages that run it here."""
    folder, network = find_bundle(bundle), build_on_meta(bundle)
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    complexity, weights = metadata["complexity"], folder / "models/model.pt"
    size = complexity["input_shape"][2:]
    return {
        "bundle": str(folder),
        "network": f"{metadata['name']} {metadata['version']}",
        "description": metadata["description"],
        "parameters": f"{count_parameters(network):,}",
        f"FLOPs of a {' x '.join(map(str, size))} {('slice', 'patch')[len(size) - 2]}": f"{complexity['flops']:,}",
        "weights": f"sha256 {hash_file(weights)}" if weights.is_file() else "none: train first",
        "packages": ", ".join(f"{package} {_find_version(package)}" for package in (*PACKAGES, *OPTIONAL_PACKAGES)),
        "Python": f"{platform.python_version()} on {platform.machine()}, {torch.get_num_threads()} threads",
    }


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
