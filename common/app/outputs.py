"""
What is written of a segmented case beside its `<case>.nii.gz`: other formats, a page, and a report for programs.

`<case>.nii.gz` is always written, and last: by it a second run knows what is done.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from ..errors import InputError
from ..kits.findings import describe_findings, find_midline
from ..kits.hu_findings import find_hu_problems
from ..kits.masks import write_mask
from ..kits.metrics import measure_case, score_case
from ..kits.preprocessing import orient_to_ras, spacing_in_ras
from ..kits.scan_warnings import ScanWarning, find_scan_warnings
from ..kits.volumes import open_volume, read_label
from ..runtimes.packages import import_package
from .case_report import make_case_report, write_json
from .dicom_results import check_source, make_report, make_segmentation, write_dicom
from .doubt import judge, measure_agreement
from .report import write_report
from .segmenter import Segmentation, Segmenter
from .slicer_files import write_seg_nrrd

# a structured report measures a segmentation, which it refers to and comes with
SUFFIXES = {
    "nifti": (".nii.gz",),
    "seg.nrrd": (".seg.nrrd",),
    "dicom-seg": (".seg.dcm",),
    "dicom-sr": (".seg.dcm", ".sr.dcm"),
}
PACKAGES = {"seg.nrrd": "slicerio", "dicom-seg": "highdicom", "dicom-sr": "highdicom"}


@dataclass(frozen=True)
class Outputs:
    """
    What is wanted of every case.

    Args:
        formats: keys of `SUFFIXES`.
        page: `<case>.html`.
        report_json: `<case>.json`, see `case_report`.

    Raises:
        InputError: when a format is unknown, or its package is missing.
    """

    formats: tuple[str, ...] = ("nifti",)
    page: bool = False
    report_json: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in SUFFIXES:
                raise InputError(f"output-format: expected one of {', '.join(SUFFIXES)}, found {name}.")
            if name in PACKAGES:
                import_package(PACKAGES[name])

    @property
    def described(self) -> bool:
        """Whether findings and warnings are wanted."""
        return self.page or self.report_json

    def list_files(self, folder: Path, case: str) -> list[Path]:
        """All files of a case."""
        suffixes = [suffix for name in ("nifti", *self.formats) for suffix in SUFFIXES[name]]
        suffixes += [".html"] * self.page + [".json"] * self.report_json
        return [folder / f"{case}{suffix}" for suffix in dict.fromkeys(suffixes)]

    def check_source(self, image: str, series: str | None) -> None:
        """
        Raises:
            InputError: when the image cannot give what is wanted.
        """
        if any(name.startswith("dicom") for name in self.formats):
            check_source(image, series)


NIFTI_ALONE = Outputs()


def segment_to_folder(
    segmenter: Segmenter, case: Mapping[str, str], output_dir: Path, outputs: Outputs = NIFTI_ALONE
) -> dict[str, float]:
    """
    Write `<case>.nii.gz`, uint8 on the case's own grid, and all else that is wanted, each file in one piece.

    A case that was segmented before, from the same file by the same weights, is left as it is.

    Returns:
        the seconds of every step; none for a case that was left.

    Raises:
        InputError: when the image is bad, a file cannot be written, or `<case>.nii.gz` holds another segmentation.
    """
    files, stem = outputs.list_files(output_dir, case["case"]), output_dir / case["case"]
    fingerprint = segmenter.fingerprint(case)
    if is_done(files[0], fingerprint) and all(file.is_file() for file in files):
        return {}
    outputs.check_source(case["image"], segmenter.series)
    segmentation = segmenter.segment(case)
    started = time.perf_counter()
    volumes = segmentation.image, segmentation.prediction, segmentation.spacing_mm
    findings, found, doubt = {}, [], None
    if outputs.described:
        findings = describe_findings(*volumes[1:], find_midline(*volumes[:2]))
        found = find_scan_warnings(*volumes, findings, segmenter.hu_window)
        found += [ScanWarning("hu", text) for text in find_hu_problems(open_volume(case["image"], segmenter.series))]
        if segmentation.mirrored is not None:
            agreement = measure_agreement(segmentation.prediction, segmentation.mirrored)
            elsewhere = any(warning.code == "elsewhere" for warning in found)
            doubt = judge(agreement, segmenter.weights_sha256, elsewhere)
        for warning in found:
            warnings.warn(f"{case['image']}: {warning.text}.", stacklevel=2)
    segmentation.seconds["describe"] = time.perf_counter() - started
    started = time.perf_counter()
    try:
        write_formats(stem, outputs.formats, case, segmentation)
        if outputs.page:
            write_report(
                Path(f"{stem}.html"),
                case["case"],
                *volumes,
                segmenter.describe(case),
                hu_window=segmenter.hu_window,
                findings=findings,
                found=found,
                doubt=doubt,
                **read_scores(case, segmentation),
            )
        if outputs.report_json:
            report = make_case_report(case, segmentation, findings, found, doubt, fingerprint)
            write_json(Path(f"{stem}.json"), report)
        write_mask(files[0], segmentation.label_map, segmentation.meta, fingerprint)
    except OSError as error:
        raise InputError(f"{files[0]}: expected to write it, found: {error.strerror or error}.") from error
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


def write_formats(stem: Path, formats: Sequence[str], case: Mapping[str, str], segmentation: Segmentation) -> None:
    """
    Write a segmentation in other formats than NIfTI, each file in one piece.

    Args:
        stem: folder and name of the case.

    Raises:
        InputError: see `make_segmentation`.
    """
    if "seg.nrrd" in formats:
        write_seg_nrrd(f"{stem}.seg.nrrd", segmentation.label_map, segmentation.affine)
    if {"dicom-seg", "dicom-sr"} & {*formats}:
        image, algorithm, series = case["image"], segmentation.algorithm, segmentation.series
        made = make_segmentation(image, segmentation.label_map, algorithm, series)
        if "dicom-sr" in formats:
            measures = measure_case(segmentation.prediction, segmentation.spacing_mm)
            write_dicom(f"{stem}.sr.dcm", make_report(image, made, measures, algorithm, series))
        write_dicom(f"{stem}.seg.dcm", made)
