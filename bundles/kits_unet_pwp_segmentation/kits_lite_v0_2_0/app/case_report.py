"""
A run, for programs: `<case>.json` for every case, and `run.json`, the manifest of all.

Both hold to `report.schema.json` (JSON Schema 2020-12), which ships beside this module. Volumes are in ml, lengths in
mm, and keys say so.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write_whole
from ..kits.scan_warnings import ScanWarning

SCHEMA = Path(__file__).with_name("report.schema.json")
FORMAT = 1  # of the reports; another number may break a reader
PACKAGES = ("torch", "monai", "nibabel", "numpy")
NOTICE = "Research only, not a medical device."


def make_case_report(
    case: Mapping[str, str],
    segmentation: Any,
    findings: Mapping[str, object],
    found: Sequence[ScanWarning],
    doubt: Mapping[str, object] | None,
    fingerprint: str,
) -> dict[str, object]:
    """
    What a program may want to know of one case.

    Args:
        segmentation: a `Segmentation`.
        findings, found, doubt: see `describe_findings`, `find_scan_warnings` and `judge`.
        fingerprint: that of the case's `.nii.gz`.
    """
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "case": case["case"],
        "image": str(Path(case["image"]).resolve()),
        "series": segmentation.series,
        "fingerprint": fingerprint,
        "shape": [*segmentation.label_map.shape],
        "spacing_ras_mm": [round(size, 6) for size in segmentation.spacing_mm],
        "findings": _round(findings),
        "warnings": [{"code": warning.code, "text": warning.text} for warning in found],
        "doubt": _round(doubt) if doubt else None,
        "network": _describe_network(segmentation.algorithm),
        "seconds": _round(segmentation.seconds),
        "peak_memory_mb": measure_peak_memory(),
        "software": _describe_software(),
        "date": _now(),
    }


def make_manifest(bundle: Path, rows: Sequence[Mapping[str, object]], problems: Sequence[str]) -> dict[str, object]:
    """
    What a program may want to know of one run.

    Args:
        rows: "case", "status" and "files", the names of what is there of a case, for all that are done.
        problems: a line for each case that failed.
    """
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "bundle": bundle.name,
        "cases": [*rows],
        "problems": [*problems],
        "peak_memory_mb": measure_peak_memory(),
        "software": _describe_software(),
        "date": _now(),
    }


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON in one piece."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure_peak_memory() -> float | None:
    """The most memory in MB that this process ever had, all its cases so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # of Windows
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _describe_network(algorithm: Any) -> dict[str, object]:
    return {"name": algorithm.name, "version": algorithm.version, **algorithm.parameters}


def _describe_software() -> dict[str, str]:
    packages = {package: version(package) for package in PACKAGES}
    return {"kits-lite": __version__, "Python": platform.python_version(), **packages}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _round(value: Any) -> Any:
    """Numbers with six decimals, in dictionaries and lists, too: what is beyond is noise."""
    if isinstance(value, Mapping):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
