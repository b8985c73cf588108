"""Segmented cases as files of a folder; a second run goes on where the first one stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib

from ..errors import InputError, tell_failure
from ..files import PathLike
from ..kits.masks import write_mask
from ..runtimes.scans import open_without_torch


class CaseSegmenter(Protocol):
    """What both `Segmenter` and `ScanSegmenter` are."""

    def fingerprint(self, case: Mapping[str, str]) -> str: ...

    def segment(self, case: Mapping[str, str]) -> Any: ...


def open_segmenter(bundle: PathLike, report: bool = False, **options: Any) -> CaseSegmenter:
    """
    What segments cases by a bundle: without PyTorch where that can do it, see `open_without_torch`, else `Segmenter`.

    Args:
        report: whether pages are wanted, which takes the latter.
        options: of the `Segmenter`.

    Raises:
        InputError: see `Segmenter`.
    """
    segmenter = None if report else open_without_torch(bundle, **options)
    if segmenter is None:
        from .segmenter import Segmenter  # which imports PyTorch and MONAI

        segmenter = Segmenter(bundle, **options)
    return segmenter


def segment_case(
    segmenter: CaseSegmenter, case: Mapping[str, str], output_dir: Path, report: bool = False, debug: bool = False
) -> tuple[dict[str, Any], str]:
    """
    The same as `segment_to_folder`, for one case among many: what is wrong with it is printed and given back.

    Returns:
        its row of the reports' index, empty without; its problem, empty with none.
    """
    name = case["case"]
    try:
        segment_to_folder(segmenter, case, output_dir, report)
        if not report:
            return {}, ""
        from .segmenter import measure_file

        return {"case": name, "report": f"{name}.html", **measure_file(output_dir / f"{name}.nii.gz")}, ""
    except Exception as error:
        return {}, tell_failure(name, error, debug)


def segment_to_folder(
    segmenter: CaseSegmenter, case: Mapping[str, str], output_dir: Path, report: bool = False
) -> dict[str, float]:
    """
    Write `<case>.nii.gz`, uint8 on the case's own grid, and `<case>.html` if a report is wanted, each in one piece.

    A case that was segmented before, from the same file by the same weights, is left as it is.

    Returns:
        the seconds of every step; none for a case that was left.

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
            from .report import write_report
            from .segmenter import read_scores

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
    except Exception:  # of nibabel, of zlib, or of whatever damaged bytes lead to
        found = ""
    if found != fingerprint:
        raise InputError(
            f"{path}: expected no file or this case's own segmentation, found another; choose another --output."
        )
    return True
