"""The HTML report: whole in one file, small enough to open, with every contour in its place."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.kits import html_report
from common.kits.html_report import write_index, write_report
from common.kits.metrics import measure_case

SHAPE, SPACING_MM = (20, 30, 8), (2.0, 1.0, 3.0)
PROVENANCE = {"Network": "Pocket U-Net", "Parameters": "53,027", "Date": "2026-03-02"}
MEGABYTE = 1_000_000


def make_label_map(first: int = 2, last: int = 5) -> np.ndarray:
    """A kidney in the slices from first to last, with a tumour in all of them but the first."""
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[3:9, 4:14, first : last + 1] = 1
    label_map[5:8, 6:10, first + 1 : last + 1] = 2
    return label_map


def make_image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def page(tmp_path: Path):
    """Writes a report of a small case and returns its HTML."""

    def write(case: str = "case_00007", **changes: object) -> str:
        arguments = {
            "image": make_image(),
            "prediction": make_label_map(),
            "spacing_mm": SPACING_MM,
            "provenance": PROVENANCE,
        }
        write_report(tmp_path / "report.html", case, **arguments | changes)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def read_slices(html: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="slices">(.*?)</script>', html, re.S)[1])


def read_rows(html: str) -> dict[str, list[str]]:
    """Cells of every table row, by the row's header."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html, re.S)
    return {
        unescape(header): [unescape(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", rest)] for header, rest in rows
    }


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


def test_the_page_names_case_volumes_scores_and_provenance(page):
    label = make_label_map(1, 6)
    html = page(label=label, scores={"kidney_dice": 0.91234, "tumor_dice": 0.5, "composite": 0.7})
    measures = [measure_case(label_map, SPACING_MM) for label_map in (make_label_map(), label)]
    rows = read_rows(html)
    assert "<h1>case_00007</h1>" in html and "<title>case_00007" in html
    assert rows["Kidney (ml)"] == [f"{m['kidney_ml']:.1f}" for m in measures]
    assert rows["Tumour (ml)"] == [f"{m['tumor_ml']:.1f}" for m in measures]
    assert rows["Tumour diameter (mm)"] == [f"{m['tumor_diameter_mm']:.1f}" for m in measures]
    assert rows["Lesions"] == ["1", "1"]
    assert (rows["Kidney Dice"], rows["Tumour Dice"], rows["Composite"]) == (["0.912"], ["0.500"], ["0.700"])
    assert {name: rows[name] for name in PROVENANCE} == {name: [value] for name, value in PROVENANCE.items()}
    assert "20 × 30 × 8 voxels of 2.00 × 1.00 × 3.00 mm" in html
    assert "Not a medical device. For research only." in html


def test_without_label_and_scores_neither_is_on_the_page(page):
    html = page()
    assert len(read_rows(html)["Kidney (ml)"]) == 1
    assert "Agreement with the label" not in html and 'data-source="label"' not in html
    assert all(s["contours"].keys() == {"prediction"} for s in read_slices(html))


@pytest.mark.parametrize("case, banners", [("case_00007", 0), ("case_00007_synthetic", 1)])
def test_only_synthetic_cases_carry_the_banner(page, case, banners):
    assert page(case).count("Synthetic data, not a patient") == banners


def test_names_and_paths_are_escaped(page):
    wild = "<b>a & b</b></script><script>alert('1')</script>"
    html = page(wild, provenance={wild: wild}, scores={wild: 0.5})
    assert "<b>a" not in html and "<script>alert" not in html
    assert html.count("&lt;b&gt;a &amp; b&lt;/b&gt;") == 5  # title, heading, provenance twice, score


@pytest.mark.parametrize("label", [None, make_label_map(1, 6)])
def test_the_page_loads_nothing(page, label):
    html = page(label=label)
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest|import\(", html)
    loaded = re.findall(r'(?:src|href|srcset|data|poster|action)="(.*?)"', html)
    assert loaded and all(address.startswith("data:image/webp;base64,") for address in loaded)
    assert "default-src 'none'" in html


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
    assert set(re.findall(r'<svg viewBox="(.*?)" preserveAspectRatio="none"', html)) == {"0 0 40 60"}
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


def test_controls_and_pictures_have_names(page):
    html = page(label=make_label_map())
    assert re.findall(r'<input type="checkbox" checked data-source="(.*?)">', html) == ["prediction", "label"]
    assert all("aria-label=" in tag for tag in re.findall(r"<button .*?>|<input type=\"range\".*?>", html))
    assert all('alt="Axial slice ' in tag for tag in re.findall(r"<img .*?>", html))


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
    chosen = html_report._choose_key_slices(np.array(kidney), np.array(tumor))
    assert list(chosen.items()) == list(expected.items())


def test_a_long_case_has_six_key_slices(page):
    chosen = html_report._choose_key_slices(np.arange(100), np.r_[np.zeros(40), np.ones(30), np.zeros(30)])
    assert len(chosen) == 6 and {40, 69, 99} < chosen.keys()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": make_image((20, 30))}, r"image must be 3-D and uint8, got image.shape=\(20, 30\)"),
        ({"image": make_image().astype(np.float32)}, "image must be 3-D and uint8, got .* of float32"),
        ({"prediction": np.zeros((20, 30, 7), np.uint8)}, r"got prediction.shape=\(20, 30, 7\)"),
        ({"prediction": np.full(SHAPE, 3, np.uint8)}, "prediction must hold labels 0, 1 and 2, got 3 to 3"),
        ({"label": np.zeros((20, 30), np.uint8)}, r"got label.shape=\(20, 30\)"),
        ({"label": np.full(SHAPE, -1)}, "label must hold labels 0, 1 and 2, got -1 to -1"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm must be three positive numbers"),
    ],
)
def test_wrong_input_is_named(page, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        page(**changes)
    assert not [*tmp_path.iterdir()]


def test_a_failure_while_drawing_leaves_the_old_report_and_no_other_file(page, tmp_path, monkeypatch):
    before = page()

    def encode(*arguments: object) -> str:
        calls.append(arguments)
        if len(calls) > 5:  # 4 key slices, then the browser's
            raise OSError("disk full")
        return ""

    calls: list[tuple] = []
    monkeypatch.setattr(html_report, "_encode", encode)
    with pytest.raises(OSError, match="disk full"):
        page()
    assert [*tmp_path.iterdir()] == [tmp_path / "report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("budget", [1_000_000, 60_000, 40_000])
def test_slices_share_their_budget(budget):
    noise = (make_image((64, 64, 12)) * np.linspace(0, 1, 12)).astype(np.uint8)  # the last slices cost most
    label_map = np.ones_like(noise)
    slices = [*html_report._draw_slices(noise, {"prediction": label_map}, range(12), budget)]
    assert sum(len(s["image"]) + len(str(s["contours"])) for s in slices) <= budget
    assert [s["index"] for s in slices] == [*range(12)]


def test_ragged_contours_get_coarser_rather_than_large():
    speckle = np.random.default_rng(0).integers(0, 3, (128, 128, 2), dtype=np.uint8)
    image = np.zeros_like(speckle)
    fine, coarse = (
        next(html_report._draw_slices(image, {"prediction": speckle}, [0], budget)) for budget in (1_000_000, 60_000)
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


ROWS = [
    {"case": "case_00001", "report": "case_00001.html", "tumor_ml": 12.34, "lesions": 2, "tumor_dice": 0.87654},
    {"case": "a<b & c_synthetic", "report": "odd/a<b & 50%:c.html", "tumor_ml": 0.0, "lesions": 0, "tumor_dice": 1.0},
]


def test_the_index_has_one_linked_line_a_case(tmp_path):
    write_index(tmp_path / "index.html", ROWS)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="(.*?)">(.*?)</a>', html) == [
        ("case_00001.html", "case_00001"),
        ("odd/a%3Cb%20%26%2050%25%3Ac.html", "a&lt;b &amp; c_synthetic"),
    ]
    assert re.findall(r'<th scope="col".*?>(.*?)</th>', html) == ["Case", "Tumour (ml)", "Lesions", "Tumour Dice"]
    assert re.findall(r'<td class="number">(.*?)</td>', html) == ["12.3", "2", "0.877", "0.0", "0", "1.000"]
    assert html.count("Synthetic data, not a patient") == 1
    assert "Not a medical device. For research only." in html
    assert "<script" not in html and not re.search(r"https?:|src=|url\(", html)


@pytest.mark.parametrize("rows", [[], [{"case": "a"}], [{"report": "a.html"}], [ROWS[0], {"case": "b", "report": "b"}]])
def test_an_index_needs_rows_of_the_same_columns(tmp_path, rows):
    with pytest.raises(ValueError, match="rows must all have the same columns"):
        write_index(tmp_path / "index.html", rows)
    assert not [*tmp_path.iterdir()]


def test_a_copy_of_the_package_under_another_name_finds_its_own_template(tmp_path, monkeypatch):
    import importlib
    import shutil

    source = Path(html_report.__file__).parents[1]
    shutil.copytree(source, tmp_path / "shipped_copy", ignore=shutil.ignore_patterns("zoo", "__pycache__"))
    template = tmp_path / "shipped_copy/kits/report.html.j2"
    template.write_text("copied {{ rows[0]['case'] }}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("shipped_copy.kits.html_report").write_index(tmp_path / "index.html", ROWS[:1])
    assert (tmp_path / "index.html").read_text() == "copied case_00001"
