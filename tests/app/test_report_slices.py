"""The HTML report's slices: the telling ones, every contour in its place, small enough to open."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from html_pages import PROVENANCE, SHAPE, make_image, make_label_map, read_slices
from PIL import Image
from scipy import ndimage

from common.app import report
from common.app.report import write_report

MEGABYTE = 1_000_000


def read_outlines(path: str) -> list[np.ndarray]:
    """Corners (n, 2) = x, y of each closed outline of an SVG path, in half voxels."""
    outlines = [[int(number) for number in re.findall(r"-?\d+", outline)] for outline in path.split("z")[:-1]]
    return [np.cumsum(np.reshape(outline, (-1, 2)), axis=0) for outline in outlines]


def fill(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask (rows, columns) of the pixels whose centres lie inside a path by its even-odd rule."""
    inside = np.zeros(shape, bool)
    rows, columns = np.mgrid[: shape[0], : shape[1]] * 2 + 1
    for outline in read_outlines(path):
        for (x, y), (next_x, next_y) in zip(outline, np.roll(outline, -1, axis=0)):
            between = (y > rows) != (next_y > rows)
            inside ^= between & (columns < x + (rows - y) * (next_x - x) / (next_y - y or 1))
    return inside


def test_the_browser_holds_every_slice_with_foreground_of_either_map(page):
    html = page(prediction=make_label_map(0, 2), label=make_label_map(5, 6))
    slices = read_slices(html)
    assert [s["index"] for s in slices] == [0, 1, 2, 5, 6]
    assert f'max="{len(slices) - 1}"' in html
    assert all(set(s["contours"]) == {"prediction", "label"} for s in slices)


def test_pictures_show_anterior_up_and_the_patients_right_on_the_left(page):
    image = np.zeros(SHAPE, np.uint8)
    image[10:, 15:] = 200  # in RAS the patient's right, front
    first = read_slices(page(image=image))[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["image"]))).convert("L")).astype(int)
    assert picture.shape == (30, 20)
    assert picture[:13, :8].mean() > 190 and picture[17:].mean() < 10 and picture[:, 12:].mean() < 10


def test_a_square_in_the_right_front_corner_is_drawn_in_the_upper_left(page):
    prediction = np.zeros(SHAPE, np.uint8)
    prediction[16:20, 25:30, 3] = 1  # in RAS the patient's right, front
    (only,) = read_slices(page(prediction=prediction))
    (outline,) = read_outlines(only["contours"]["prediction"]["kidney"])
    # 4 voxels wide and 5 high: from 0 to 8 and 0 to 10 in half voxels
    assert (outline.min(axis=0).tolist(), outline.max(axis=0).tolist()) == ([0, 0], [8, 10])
    assert only["contours"]["prediction"]["tumor"] == ""


def test_drawing_space_and_physical_aspect_fit_the_grid(page):
    html = page()
    assert set(re.findall(r'<svg viewBox="(.*?)" preserveAspectRatio="none"', html)) == {
        "0 0 40 60",  # axial, and the other planes
        "0 0 40 16",
        "0 0 60 16",
    }
    assert "aspect-ratio: 1.33333;" in html  # 20 x 2 mm wide, 30 x 1 mm high


def test_contours_enclose_exactly_their_voxels_and_the_kidneys_go_around_tumours(page):
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(SHAPE), (1.5, 1.5, 0))
    prediction = np.digitize(noise, np.quantile(noise, [0.7, 0.85])).astype(np.uint8)
    for s in read_slices(page(prediction=prediction)):
        axial = prediction[:, ::-1, s["index"]][::-1].T
        for name, value in (("kidney", 1), ("tumor", 2)):
            np.testing.assert_array_equal(fill(s["contours"]["prediction"][name], axial.shape), axial >= value)


def test_an_empty_case_says_so_and_shows_its_middle_slice(page):
    html = page(prediction=np.zeros(SHAPE, np.uint8))
    assert "No kidney and no tumour in this case. The middle slice is shown." in html
    assert [s["index"] for s in read_slices(html)] == [4]
    assert 'alt="Axial slice 5 of 8"' in html
    assert 'id="slider"' not in html and "Key slices" not in html
    assert "No kidney" not in page()


def test_the_browser_opens_at_the_largest_tumour(page):
    prediction = make_label_map(0, 7)
    prediction[3:9, 4:14, 6] = 2
    html = page(prediction=prediction)
    assert '<b id="caption">Axial slice 7 of 8</b>' in html and 'value="6"' in html


KEY_SLICES = [  # kidney voxels per slice, tumour voxels per slice, key slices with their notes
    ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], {2: ""}),
    ([0, 3, 9, 0, 0], [0, 0, 0, 0, 0], {2: "most kidney", 1: ""}),
    ([0, 0, 0, 0, 0], [0, 0, 0, 5, 0], {3: "most tumour"}),
    ([9, 1, 1, 1], [0, 1, 4, 2], {2: "most tumour", 1: "lowest tumour", 3: "highest tumour", 0: "most kidney"}),
]


@pytest.mark.parametrize("kidney, tumor, expected", KEY_SLICES)
def test_key_slices_are_the_telling_ones(kidney, tumor, expected):
    chosen = report._choose_key_slices(np.array(kidney), np.array(tumor))
    assert list(chosen.items()) == list(expected.items())


def test_a_long_case_has_six_key_slices(page):
    chosen = report._choose_key_slices(np.arange(100), np.r_[np.zeros(40), np.ones(30), np.zeros(30)])
    assert len(chosen) == 6 and {40, 69, 99} < chosen.keys()


@pytest.mark.parametrize("budget", [1_000_000, 60_000, 40_000])
def test_slices_share_their_budget(budget):
    noise = (make_image((64, 64, 12)) * np.linspace(0, 1, 12)).astype(np.uint8)  # the last slices cost most
    label_map = np.ones_like(noise)
    slices = [*report._draw_slices(noise, {"prediction": label_map}, range(12), budget)]
    assert sum(len(s["image"]) + len(str(s["contours"])) for s in slices) <= budget
    assert [s["index"] for s in slices] == [*range(12)]


def test_ragged_contours_get_coarser_rather_than_large():
    speckle = np.random.default_rng(0).integers(0, 3, (128, 128, 2), dtype=np.uint8)
    image = np.zeros_like(speckle)
    fine, coarse = (
        next(report._draw_slices(image, {"prediction": speckle}, [0], budget)) for budget in (1_000_000, 60_000)
    )
    assert len(str(fine["contours"])) > 60_000 > 3 * len(str(coarse["contours"])) > 0


@pytest.mark.slow
def test_a_500_slice_case_stays_below_8_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:512, :512] - 256
    axials = []
    for noise in (ndimage.gaussian_filter(rng.standard_normal((512, 512)), 0.8) for _ in range(3)):
        body = np.where(np.hypot(1.3 * x, y) < 235, 110 + 60 * noise, 0).clip(0, 255)  # a deviation of 20 HU
        distance = np.hypot(abs(x) - 110, y + 60) + noise  # from the middle of the nearer kidney
        maps = ((distance < kidney).astype(np.uint8) + (distance < tumor) for kidney, tumor in ((50, 25), (51, 23)))
        axials.append((body, *maps))
    image, label, prediction = (np.zeros((512, 512, 500), np.uint8) for _ in range(3))
    for z in range(90, 440):
        image[..., z], label[..., z], prediction[..., z] = axials[z % 3]
    write_report(tmp_path / "big.html", "big", image, prediction, (0.8, 0.8, 1.0), PROVENANCE, label)
    slices = read_slices((tmp_path / "big.html").read_text(encoding="utf-8"))
    assert [s["index"] for s in slices] == [*range(90, 440)]
    assert 3 * MEGABYTE < (tmp_path / "big.html").stat().st_size < 8 * MEGABYTE
    last = Image.open(io.BytesIO(base64.b64decode(slices[-1]["image"])))
    assert last.size == (512, 512)
