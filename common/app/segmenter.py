"""Segment images with a bundle folder, case by case, outside of `monai.bundle run`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import PathLike
from monai.transforms import Invertd
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from ..bundle_folder import build_on_meta, open_bundle
from ..compression.complexity import count_parameters
from ..errors import InputError
from ..files import hash_file
from ..kits.masks import make_fingerprint, write_mask
from ..kits.metrics import measure_case, score_case
from ..kits.preprocessing import HU_WINDOW, orient_to_ras, spacing_in_ras
from ..kits.volumes import open_volume, read_label
from ..runtimes.run import check_device, open_network
from .report import write_report

PACKAGES = ("torch", "monai", "nibabel", "numpy")
STAGES = ("read", "orient", "infer", "restore")


@dataclass
class Segmentation:
    """One segmented case: volumes (X, Y, Z) in RAS for looking at, the label map on the case's own grid for keeping,
    with the metadata of its image."""

    image: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    label_map: np.ndarray
    affine: np.ndarray
    meta: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


class Segmenter:
    """
    A bundle's network with the preprocessing and inferer of its `inference.json`.

    Args:
        bundle: bundle folder.
        device: `"cpu"`, `"cuda"`, ...; by default what the bundle chooses.
        series: DICOM series to read, see `open_with_itk`.
        keep_largest: keep so many connected components (26 neighbours) of kidney and tumour together; None keeps all.
        network: computes in the stead of the bundle's network, as its weights would.
        backend, exported, precision: what computes, see `open_network`.

    Raises:
        InputError: when the folder is no bundle, its weights are missing or another network's, an argument is wrong, or
            a backend's package is missing.
    """

    def __init__(
        self,
        bundle: PathLike,
        device: str | None = None,
        series: str | None = None,
        keep_largest: int | None = None,
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
        backend: str = "torch",
        exported: PathLike | None = None,
        precision: str = "f32",
    ) -> None:
        self.bundle = Path(bundle).resolve()
        parser = open_bundle(bundle)
        if keep_largest is not None and keep_largest < 1:
            raise InputError(f"keep_largest: expected a positive number, found {keep_largest}.")
        self.keep_largest, self.series = keep_largest, series
        self.backend = backend
        if device is not None:
            parser["device"] = check_device(device)
        if series is not None:
            parser["preprocessing#transforms#0#reader#series"] = series
        self.device = parser.get_parsed_content("device")
        self.network = open_network(parser, backend, exported, precision) if network is None else network
        # int8 is a property of a file, see `common.runtimes.quantize`
        stored = getattr(self.network, "metadata", {})
        self.precision = f"{stored['precision']}, the rest {precision}" if "precision" in stored else precision
        self.calibration = stored.get("calibration")
        self.weights_sha256 = hash_file(parser.get_parsed_content("weights"))
        self.hu_window = parser.get("hu_window", HU_WINDOW)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.restore = Invertd("pred", self.preprocessing, orig_keys="image", nearest_interp=False)

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
        if self.keep_largest:
            keep_largest_components(prediction.numpy()[0], self.keep_largest)
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
            seconds=dict(zip(STAGES, np.diff(clock).tolist())),
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
            "Kept": f"{self.keep_largest} largest components" if self.keep_largest else "all components",
            "Software": ", ".join(f"{package} {version(package)}" for package in packages),
            "Precision": self.precision,
            "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }

    def fingerprint(self, case: Mapping[str, str]) -> str:
        """What a mask of this case carries, see `make_fingerprint`."""
        backend = getattr(self.network, "settings", ())
        return make_fingerprint(case["image"], self.weights_sha256, self.keep_largest, self.series, backend)


def keep_largest_components(label_map: np.ndarray, count: int) -> None:
    """Set all but the largest connected components (26 neighbours) of the foreground to background, in place."""
    found = ndimage.find_objects((label_map > 0).view(np.uint8))
    if not found:
        return
    inside = label_map[found[0]]
    components, number = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    kept = np.zeros(number + 1, bool)
    kept[1 + np.argsort(sizes)[::-1][:count]] = True
    inside[~kept[components]] = 0


def segment_to_folder(
    segmenter: Segmenter, case: Mapping[str, str], output_dir: Path, report: bool = False
) -> dict[str, float]:
    """
    Write `<case>.nii.gz`, uint8 on the case's own grid, and `<case>.html` if a report is wanted, each in one piece.

    A case that was segmented before, from the same file by the same weights, is left as it is.

    Returns:
        the seconds of every stage; none for a case that was left.

    Raises:
        InputError: when the image is bad, a file cannot be written, or `<case>.nii.gz` holds another segmentation.
    """
    path, page = (output_dir / f"{case['case']}{suffix}" for suffix in (".nii.gz", ".html"))
    fingerprint = segmenter.fingerprint(case)
    if is_done(path, fingerprint) and (page.is_file() or not report):
        return {}
    segmentation = segmenter.segment(case)
    started = time.perf_counter()
    try:
        if report:
            volumes = segmentation.image, segmentation.prediction, segmentation.spacing_mm
            scores = read_scores(case, segmentation)
            write_report(
                page, case["case"], *volumes, segmenter.describe(case), hu_window=segmenter.hu_window, **scores
            )
        write_mask(path, segmentation.label_map, segmentation.meta, fingerprint)
    except OSError as error:
        raise InputError(f"{path}: expected to write it, found: {error.strerror or error}.") from error
    return segmentation.seconds | {"write": time.perf_counter() - started}


def is_done(path: Path, fingerprint: str) -> bool:
    """
    Whether a file holds the segmentation that would be written to it.

    Raises:
        InputError: when it holds another.
    """
    if not path.exists():
        return False
    try:
        found = nib.load(path).header["descrip"].item().decode(errors="replace")
    except (ImageFileError, EOFError, OSError):
        found = ""
    if found != fingerprint:
        raise InputError(
            f"{path}: expected no file or this case's own segmentation, found another; choose another --output."
        )
    return True


def read_scores(case: Mapping[str, str], segmentation: Segmentation) -> dict[str, object]:
    """The label of a case (X, Y, Z) in RAS and the KiTS19 scores of its segmentation, where the case has a label."""
    if "label" not in case:
        return {}
    label = orient_to_ras(read_label(open_volume(case["label"])), open_volume(case["label"]).affine)
    scores = score_case(segmentation.prediction, label, segmentation.spacing_mm)
    return {"label": label, "scores": scores}


def measure_file(path: Path) -> dict[str, float]:
    """Volumes, lesions and diameter of a written label map, see `measure_case`."""
    image = nib.load(path)
    label_map = orient_to_ras(np.asarray(image.dataobj), image.affine)
    return measure_case(label_map, spacing_in_ras(image.affine))
