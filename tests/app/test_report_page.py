"""The HTML report's text: whole in one file, escaped, loading nothing; the index of reports."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from html_pages import PROVENANCE, SHAPE, SPACING_MM, make_image, make_label_map, read_slices

from common.app import report
from common.app.report import write_index
from common.kits.metrics import measure_case


def read_rows(html: str) -> dict[str, list[str]]:
    """Cells of every table row, by the row's header."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html, re.S)
    return {
        unescape(header): [unescape(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", rest)] for header, rest in rows
    }


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


def test_controls_and_pictures_have_names(page):
    html = page(label=make_label_map())
    assert re.findall(r'<input type="checkbox" checked data-source="(.*?)">', html) == ["prediction", "label"]
    assert all("aria-label=" in tag for tag in re.findall(r"<button .*?>|<input type=\"range\".*?>", html))
    assert all(re.search(r'alt="(Axial slice|Whole scan|Coronal|Sagittal) ', t) for t in re.findall(r"<img .*?>", html))


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
    monkeypatch.setattr(report, "_encode", encode)
    with pytest.raises(OSError, match="disk full"):
        page()
    assert [*tmp_path.iterdir()] == [tmp_path / "report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


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

    source = Path(report.__file__).parents[1]
    shutil.copytree(source, tmp_path / "shipped_copy", ignore=shutil.ignore_patterns("__pycache__"))
    template = tmp_path / "shipped_copy/app/report.html.j2"
    template.write_text("copied {{ rows[0]['case'] }}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("shipped_copy.app.report").write_index(tmp_path / "index.html", ROWS[:1])
    assert (tmp_path / "index.html").read_text() == "copied case_00001"
