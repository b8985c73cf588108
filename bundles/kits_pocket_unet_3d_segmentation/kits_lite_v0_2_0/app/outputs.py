"""What is written of a segmented case beside its `<case>.nii.gz`: other formats, a page, and a report for programs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ..kits.findings import describe_findings, find_midline
from ..kits.hu_findings import find_hu_problems
from ..kits.metrics import measure_case, score_case
from ..kits.preprocessing import orient_to_ras, spacing_in_ras
from ..kits.scan_warnings import ScanWarning, find_scan_warnings
from ..kits.volumes import open_volume, read_label
from .case_report import make_case_report, write_json
from .dicom_results import make_report, make_segmentation, write_dicom
from .doubt import judge, measure_agreement
from .folder import Outputs
from .report import write_report
from .segmenter import Segmentation, Segmenter
from .slicer_files import write_seg_nrrd


def write_outputs(
    segmenter: Segmenter, case: Mapping[str, str], segmentation: Segmentation, output_dir: Path, outputs: Outputs
) -> None:
    """
    Write all that is wanted of a case but its `<case>.nii.gz`, each file in one piece, and warn of what looks odd.

    Raises:
        InputError: see `make_segmentation`.
        OSError: when a file cannot be written.
    """
    stem, started = output_dir / case["case"], time.perf_counter()
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
        report = make_case_report(case, segmentation, findings, found, doubt, segmenter.fingerprint(case))
        write_json(Path(f"{stem}.json"), report)


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
