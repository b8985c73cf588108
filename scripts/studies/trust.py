"""
What warnings and doubt are worth: counted on held-out patients and on the whole scan, for docs/explanation/warnings.md.

The held-out patients are slices around the kidneys: what needs a whole kidney, such as its volume, cannot be counted on
them, and is counted on the whole scan alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from common.app.doubt import LEVELS
from common.app.segmenter import Segmenter
from common.files import write_whole
from common.kits.findings import describe_findings, find_midline
from common.kits.metrics import pooled_dice
from common.kits.scan_warnings import PHASE_HU, find_scan_warnings, is_liver_on_the_left, measure_kidney_hu
from zoo.held_out import read_label_in_ras, tally_voxels
from zoo.pages import format_markdown_table, replace_section
from zoo.records import SCAN, select_held_out
from zoo.variants import VARIANTS

CLASSES = ("kidney", "tumor")


def study(bundle: Path, cases: Sequence[Mapping[str, str]], split_file: Path) -> dict[str, Any]:
    """
    Agreements and Dice of the held-out patients, and warnings, of one network.

    Args:
        cases: of the data folders, with labels: held-out patients' slices, and the whole scan.

    Returns:
        "calibration" and "warnings", see `calibrate` and `count_warnings`.
    """
    segmenter = Segmenter(bundle, doubt=True)
    rows: dict[str, dict[str, list]] = {}
    for case in select_held_out(cases, split_file):
        label, _ = read_label_in_ras(case)
        segmentation = segmenter.segment(case)
        row = rows.setdefault(case["case"], {"counts": [], "mirrored": [], "phase": [], "sides": [], "exchanged": []})
        row["counts"].append(tally_voxels(segmentation.prediction, label))
        row["mirrored"].append(tally_voxels(segmentation.prediction, segmentation.mirrored))
        volumes = segmentation.image, segmentation.prediction, segmentation.spacing_mm
        row["phase"].append(measure_kidney_hu(*volumes[:2], segmenter.hu_window))
        row["sides"].append(is_liver_on_the_left(*volumes, segmenter.hu_window))
        flipped = [volume[::-1] for volume in volumes[:2]]
        row["exchanged"].append(is_liver_on_the_left(*flipped, volumes[2], segmenter.hu_window))
    (scan,) = [case for case in cases if case["case"] == SCAN]
    return {
        "sha256": segmenter.weights_sha256,
        "calibration": {"network": segmenter.algorithm.name, **calibrate(list(rows.values()))},
        "warnings": count_warnings(segmenter, list(rows.values()), scan),
    }


def calibrate(rows: Sequence[Mapping[str, list]]) -> dict[str, Any]:
    """
    Thirds of patients by agreement, and the mean Dice of each.

    Returns:
        "patients", and for each class "edges" of the thirds, "dice" and "patients" of each, from the least agreement,
        and "correlation", Spearman's, of agreement and Dice.
    """
    agreement, dice = (
        torch.stack([pooled_dice(torch.cat(row[key])) for row in rows]).numpy() for key in ("mirrored", "counts")
    )
    classes = {}
    for number, name in enumerate(CLASSES):
        # where neither image gives any, there is nothing to agree about
        some = np.array([torch.cat(row["mirrored"])[:, number].sum() > 0 for row in rows])
        values, scores = agreement[some, number], dice[some, number]
        edges = np.quantile(values, [1 / 3, 2 / 3])
        thirds = np.searchsorted(edges, values, side="right")
        classes[name] = {
            "edges": edges.round(4).tolist(),
            "dice": [round(float(scores[thirds == third].mean()), 4) for third in range(len(LEVELS))],
            "patients": [int((thirds == third).sum()) for third in range(len(LEVELS))],
            "correlation": round(float(spearmanr(values, scores).statistic), 3),
        }
    return {"patients": len(rows), "classes": classes}


def count_warnings(segmenter: Segmenter, rows: Sequence[Mapping[str, list]], scan: Mapping[str, str]) -> dict[str, Any]:
    """How many patients get a warning of the phase or the sides, how many do when exchanged, and the scan's codes."""
    segmentation = segmenter.segment(scan)
    volumes = segmentation.image, segmentation.prediction, segmentation.spacing_mm
    findings = describe_findings(*volumes[1:], find_midline(*volumes[:2]))
    low, high = PHASE_HU
    medians = [float(np.median(known)) for row in rows if (known := [hu for hu in row["phase"] if hu is not None])]
    return {
        "patients": len(rows),
        "contrast_phase": sum(not low <= median <= high for median in medians),
        "sides": sum(any(row["sides"]) for row in rows),
        "exchanged": sum(any(row["exchanged"]) for row in rows),
        "scan": [warning.code for warning in find_scan_warnings(*volumes, findings, segmenter.hu_window)],
    }


def write_study(name: str, study: Mapping[str, Any], record: Path, calibration: Path, page: Path) -> None:
    """
    Write what `common.app.doubt` reads, and the tables of the page, with one network measured anew.

    Args:
        name: of its bundle.
        record: JSON with what was measured last of every bundle.
    """
    known = json.loads(record.read_text()) if record.is_file() else {}
    known[name] = study
    # in the order of the README
    studies = [known[variant.name] for variant in VARIANTS if variant.name in known]
    calibrations = {study["sha256"]: study["calibration"] for study in studies}
    for path, content in ((record, known), (calibration, calibrations)):
        with write_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    replace_section(page, "doubt", format_markdown_table([row for study in studies for row in _list_levels(study)]))
    replace_section(page, "warnings", format_markdown_table([_format_warnings(study) for study in studies]))


def _list_levels(study: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, values in study["calibration"]["classes"].items():
        dice = dict(zip(LEVELS, zip(values["dice"], values["patients"])))
        rows.append(
            {
                "network": study["calibration"]["network"],
                "class": "tumour" if name == "tumor" else "kidney and tumour",
                "doubt is high below, low from": "{:.3f}, {:.3f}".format(*values["edges"]),
                **{f"Dice, {level} doubt": "{:.3f} ({} patients)".format(*dice[level]) for level in LEVELS[::-1]},
                "Spearman's correlation": f"{values['correlation']:.2f}",
            }
        )
    return rows


def _format_warnings(study: Mapping[str, Any]) -> dict[str, str]:
    counted = study["warnings"]
    return {
        "network": study["calibration"]["network"],
        **{f"false `{code}`": f"{counted[code]} of {counted['patients']}" for code in ("contrast_phase", "sides")},
        "`sides` found where exchanged": f"{counted['exchanged']} of {counted['patients']}",
        "on the whole scan": ", ".join(f"`{code}`" for code in counted["scan"]) or "none",
    }
