"""README: its numbers are those of the networks, its files and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.compression.complexity import count_flops, count_parameters
from common.kits.scores import write_table
from studies import pruning_report
from studies.curves import draw_curves
from studies.speed import build
from studies.speed_report import tabulate_ratios
from studies.tables import collect_rows, find_front, format_networks, format_scores, list_trained, write_pareto
from zoo.pages import read_figure, read_table
from zoo.records import RECORDS
from zoo.variants import BASELINES, VARIANTS
from zoo.verification.documented_commands import find_command_problems

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_is_what_metadata_records_and_benchmark_say():
    remedy = "README's table differs; remedy: python scripts/build_tables.py"
    assert f"<!-- networks -->\n{format_networks(collect_rows())}\n<!-- /networks -->" in README, remedy


@pytest.mark.parametrize("row", collect_rows(), ids=lambda row: row.title)
def test_the_table_holds_the_counted_parameters_and_flops(row):
    variant = next(variant for variant in (*VARIANTS, *BASELINES) if variant.title == row.title)
    network = build(variant)
    line = next(line for line in README.splitlines() if line.startswith(f"| {row.link} "))
    assert line.split("|")[2:4] == [f" {count_parameters(network):,} ", f" {count_flops(network) / 1e9:.1f} "]


def test_the_plot_joins_the_networks_that_no_other_beats():
    points = [(9.0, 0.9, "a"), (1.0, 0.7, "b"), (4.0, 0.6, "c"), (2.0, 0.8, "d"), (9.0, 0.85, "e"), (5.0, 0.8, "f")]
    assert [name for _, _, name in find_front(points)] == ["b", "d", "a"]


def test_the_plots_show_the_numbers_of_the_tables(tmp_path):
    remedy = "the plots differ; remedy: python scripts/build_tables.py"
    rows, trained = collect_rows(), list_trained()
    write_pareto(tmp_path / "pareto.png", rows)
    draw_curves(tmp_path / "curves.png", trained, RECORDS)
    for name in ("pareto.png", "curves.png"):
        assert read_figure(ROOT / "docs" / name) == read_figure(tmp_path / name), remedy
    patients, scan = ({title: dice for _, dice, title in points} for points in read_figure(ROOT / "docs/pareto.png"))
    for row in (row for row in rows if row.scores):
        assert patients[row.title] == row.scores["patients"]["pooled"]["kidney_and_tumor"]
        assert scan[row.title] == row.scores["scan"]["kidney_and_tumor"]


def test_the_page_of_speed_shows_what_was_measured():
    rows, page = read_table(ROOT / "docs/studies/speed.csv"), (ROOT / "docs/studies/speed.md").read_text()
    for kind in ("slice", "volume"):
        table = f"{tabulate_ratios(rows, kind)}\n" if rows else ""
        assert f"<!-- {kind} -->\n{table}<!-- /{kind} -->" in page, "remedy: python scripts/benchmark.py"
    if rows:
        assert read_figure(ROOT / "docs/studies/speed.png") == rows


def test_the_page_of_pruning_shows_its_csv():
    rows = read_table(ROOT / "docs/studies/pruning.csv")
    assert (
        f"<!-- measured -->\n{pruning_report.tabulate(rows)}\n<!-- /measured -->"
        in (ROOT / "docs/studies/pruning.md").read_text()
    )
    assert read_figure(ROOT / "docs/studies/pruning.png") == rows


def test_the_page_of_whole_scans_holds_all_scores():
    remedy = "the scores in docs/whole_scans.md differ; remedy: python scripts/build_tables.py"
    table = format_scores(collect_rows())
    assert f"<!-- scores -->\n{table}\n<!-- /scores -->" in (ROOT / "docs/whole_scans.md").read_text(), remedy
    assert len(table.splitlines()) == 2 + len(VARIANTS)


def test_curves_of_two_trainings_are_drawn_with_their_last_rows(tmp_path):
    names = [VARIANTS[0].name, BASELINES[0].name]
    for name in names:
        rows = [
            {"stage": stage, "views": epoch, "loss": 1 / epoch, "kidney_dice": 0.5, "tumor_dice": 0.4}
            for stage, epochs in (("dense", (1, 2)), ("sparse", (3, 4)))
            for epoch in epochs
        ]
        write_table(rows, tmp_path / f"{name}.csv")
    draw_curves(tmp_path / "curves.png", names, tmp_path)
    last = read_figure(tmp_path / "curves.png")
    assert {name: row["loss"] for name, row in last.items()} == dict.fromkeys(names, "0.25")


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


# typer writes the other, see tests/test_docs.py
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "commands.md"], ids=lambda page: page.name)
def test_documented_commands_and_their_options_exist(page):
    found = find_command_problems(page.name, page.read_text(), ROOT / "bundles" / VARIANTS[-1].name, ROOT)
    # its rules for a bundle's own page: options in prose are keys of its configs, docs/ is its own
    ours = [line for line in found if not re.search("expected a key of a config|: docs/.*: expected a file", line)]
    assert ours == []
