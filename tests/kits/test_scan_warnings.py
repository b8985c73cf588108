"""Warnings: each is raised by a scan made for it, and none by a plain one."""

from __future__ import annotations

import numpy as np
import pytest

from common.kits.findings import describe_findings, find_midline
from common.kits.scan_warnings import find_scan_warnings, is_liver_on_the_left, measure_kidney_hu

SHAPE, SPACING_MM, WINDOW = (110, 80, 40), (3.0, 3.0, 5.0), (-200, 300)
HU_SCALE = 255 / 500
FAT, KIDNEY, LIVER = -100, 150, 100


def paint(image: np.ndarray, place: tuple, hu: float) -> None:
    image[place] = round((hu - WINDOW[0]) * HU_SCALE)


class Scan:
    """A body of fat with two kidneys and, at the patient's right, a liver; what is given differs."""

    def __init__(self, kidney_hu: float = KIDNEY, first: int = 6, right: bool = True, left: bool = True) -> None:
        self.image, self.label_map = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        self.spacing_mm = SPACING_MM
        paint(self.image, (slice(5, 105), slice(5, 75)), FAT)
        paint(self.image, (slice(62, 102), slice(40, 73), slice(18, 40)), LIVER)
        for wanted, columns in ((right, slice(72, 86)), (left, slice(24, 38))):
            if wanted:
                place = columns, slice(15, 30), slice(first, first + 20)
                paint(self.image, place, kidney_hu)
                self.label_map[place] = 1

    def add(self, place: tuple, label: int) -> Scan:
        self.label_map[place] = label
        return self

    def turned(self) -> Scan:
        self.image, self.label_map = self.image[::-1], self.label_map[::-1]
        return self

    def spaced(self, *spacing_mm: float) -> Scan:
        self.spacing_mm = spacing_mm
        return self

    def warn(self) -> list[str]:
        volumes = self.image, self.label_map, self.spacing_mm
        findings = describe_findings(*volumes[1:], find_midline(*volumes[:2]))
        # pixels of 3 mm keep the scan small, and are not what is tested but once
        return [w.code for w in find_scan_warnings(*volumes, findings, WINDOW) if w.code != "pixel_size"]


def test_a_plain_scan_raises_none():
    assert Scan().warn() == []


@pytest.mark.parametrize(
    ("scan", "code"),
    [
        (Scan(right=False, left=False), "no_kidney"),
        (Scan(left=False), "one_kidney"),
        (Scan(right=False), "one_kidney"),
        (Scan().add((slice(38, 72), slice(18, 24), slice(6, 12)), 1), "across_midline"),
        (Scan().add((slice(72, 86), slice(15, 30), slice(10, 30)), 0), "kidney_volume"),
        (Scan().add((slice(75, 95), slice(50, 60), slice(32, 36)), 2), "elsewhere"),
        (Scan(first=0), "cut_off"),
        (Scan().add((slice(100, 110), slice(20, 30), slice(10, 20)), 2), "cut_off"),
        (Scan(kidney_hu=30), "contrast_phase"),
        (Scan(kidney_hu=299), "contrast_phase"),
        (Scan().spaced(3.0, 3.0, 8.0), "slice_distance"),
        (Scan().spaced(3.0, 3.0, 0.3), "slice_distance"),
        (Scan().turned(), "sides"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_scan_made_for_a_warning_raises_it(scan, code):
    assert code in scan.warn()


@pytest.mark.parametrize(("pixel_mm", "raised"), [(0.43, True), (0.4375, False), (1.041, False), (1.5, True)])
def test_pixels_outside_of_the_training_are_told(pixel_mm, raised):
    scan = Scan()
    findings = describe_findings(scan.label_map, SPACING_MM, 55)
    found = find_scan_warnings(scan.image, scan.label_map, (pixel_mm, pixel_mm, 5.0), findings, WINDOW)
    assert ("pixel_size" in [warning.code for warning in found]) == raised


def test_the_median_of_the_kidneys_is_in_hounsfield_units():
    scan = Scan(kidney_hu=137)
    assert measure_kidney_hu(scan.image, scan.label_map, WINDOW) == pytest.approx(137, abs=1)
    assert measure_kidney_hu(scan.image, np.zeros_like(scan.label_map), WINDOW) is None


def test_without_a_large_organ_nothing_is_said_of_the_sides():
    scan = Scan()
    paint(scan.image, (slice(62, 102), slice(40, 73), slice(18, 40)), FAT)
    for volumes in ((scan.image, scan.label_map), (scan.image[::-1], scan.label_map[::-1])):
        assert not is_liver_on_the_left(*volumes, SPACING_MM, WINDOW)
