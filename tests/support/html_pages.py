"""HTML reports of a small case, and what is read from them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from common.app.report import write_report

SHAPE, SPACING_MM = (20, 30, 8), (2.0, 1.0, 3.0)
PROVENANCE = {"Network": "Pocket U-Net", "Parameters": "53,027", "Date": "2026-03-02"}


def make_label_map(first: int = 2, last: int = 5) -> np.ndarray:
    """A kidney in the slices from first to last, with a tumour in all of them but the first."""
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[3:9, 4:14, first : last + 1] = 1
    label_map[5:8, 6:10, first + 1 : last + 1] = 2
    return label_map


def make_image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_page(path: Path, case: str = "case_00007", **changes: object) -> str:
    """Write a report with some arguments changed; returns its HTML."""
    arguments = {
        "image": make_image(),
        "prediction": make_label_map(),
        "spacing_mm": SPACING_MM,
        "provenance": PROVENANCE,
    }
    write_report(path, case, **arguments | changes)
    return path.read_text(encoding="utf-8")


def read_slices(html: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="slices">(.*?)</script>', html, re.S)[1])
