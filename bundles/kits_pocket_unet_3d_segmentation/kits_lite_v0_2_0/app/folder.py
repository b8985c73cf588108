"""Segmented cases as files of a folder; a second run goes on where the first one stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib

from ..errors import InputError, tell_failure
from ..files import PathLike
from ..kits.masks import write_mask
from ..runtimes.packages import import_package
from ..runtimes.scans import open_without_torch

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
            from .dicom_results import check_source

            check_source(image, series)


NIFTI_ALONE = Outputs()


class CaseSegmenter(Protocol):
    """What both `Segmenter` and `ScanSegmenter` are."""

    series: str | None

    def fingerprint(self, case: Mapping[str, str]) -> str: ...

    def segment(self, case: Mapping[str, str]) -> Any: ...


def open_segmenter(bundle: PathLike, outputs: Outputs = NIFTI_ALONE, **options: Any) -> CaseSegmenter:
    """
    What segments cases by a bundle: without PyTorch where that can do it, see `open_without_torch`, else `Segmenter`.

    Args:
        outputs: what is wanted; more than NIfTI takes the latter.
        options: of the `Segmenter`.

    Raises:
        InputError: see `Segmenter`.
    """
    segmenter = open_without_torch(bundle, **options) if outputs == NIFTI_ALONE else None
    if segmenter is None:
        from .segmenter import Segmenter  # which imports PyTorch and MONAI

        segmenter = Segmenter(bundle, **options)
    return segmenter


@dataclass(frozen=True)
class Outcome:
    """
    What became of a case.

    Args:
        row: of the reports' index; empty without pages.
        entry: of the run's manifest; empty where the case failed.
        problem: the line that says why; empty with none.
    """

    row: Mapping[str, Any] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def segment_case(
    segmenter: CaseSegmenter,
    case: Mapping[str, str],
    output_dir: Path,
    outputs: Outputs = NIFTI_ALONE,
    debug: bool = False,
) -> Outcome:
    """The same as `segment_to_folder`, for one case among many: what is wrong with it is printed and given back."""
    name = case["case"]
    try:
        seconds = segment_to_folder(segmenter, case, output_dir, outputs)
        row = {}
        if outputs.page:
            from .outputs import measure_file

            row = {"case": name, "report": f"{name}.html", **measure_file(output_dir / f"{name}.nii.gz")}
    except Exception as error:
        return Outcome(problem=tell_failure(name, error, debug))
    files = [file.name for file in outputs.list_files(output_dir, name)]
    return Outcome(row, {"case": name, "status": "segmented" if seconds else "done before", "files": files})


def segment_to_folder(
    segmenter: CaseSegmenter, case: Mapping[str, str], output_dir: Path, outputs: Outputs = NIFTI_ALONE
) -> dict[str, float]:
    """
    Write `<case>.nii.gz`, uint8 on the case's own grid, and all else that is wanted, each file in one piece.

    `<case>.nii.gz` is written last: by it a second run knows what is done. A case that was segmented before, from the
    same file by the same weights, is left as it is.

    Returns:
        the seconds of every step; none for a case that was left.

    Raises:
        InputError: when the image is bad, a file cannot be written, or `<case>.nii.gz` holds another segmentation.
    """
    files = outputs.list_files(output_dir, case["case"])
    fingerprint = segmenter.fingerprint(case)
    if is_done(files[0], fingerprint) and all(file.is_file() for file in files):
        return {}
    outputs.check_source(case["image"], segmenter.series)
    segmentation = segmenter.segment(case)
    started = time.perf_counter()
    try:
        if outputs != NIFTI_ALONE:
            from .outputs import write_outputs

            write_outputs(segmenter, case, segmentation, output_dir, outputs)
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
    except Exception:  # of nibabel, of zlib, or of whatever damaged bytes lead to
        found = ""
    if found != fingerprint:
        raise InputError(
            f"{path}: expected no file or this case's own segmentation, found another; choose another --output."
        )
    return True
