"""README: its numbers are those of the networks, its files and options exist."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.compression.complexity import count_flops, count_parameters
from common.kits.scores import write_table
from studies import pruning_report
from studies.curves import draw_curves, read_trainings, tabulate_trainings
from studies.speed import build
from studies.speed_report import tabulate_ratios
from studies.tables import collect_rows, find_front, format_dice, format_networks, list_trained, write_pareto
from zoo.pages import read_figure, read_table
from zoo.records import RECORDS, read_record
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
    assert line.split("|")[2:4] == [f" {count_parameters(network):,} ", f" {count_flops(network):,} "]


def test_dice_over_fewer_than_three_folds_is_marked():
    row = replace(collect_rows()[0], dice={"tumor": 0.51239}, folds=1)
    assert format_dice(row, "tumor") == "0.512*"
    assert format_dice(replace(row, folds=3), "tumor") == "0.512"
    assert format_dice(replace(row, dice={}), "tumor") == "-"


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
    shown = {title: (dice, folds) for title, _, dice, folds in read_figure(ROOT / "docs/pareto.png")}
    for row in rows:
        assert shown[row.title] == (row.dice, row.folds)


def test_the_page_of_speed_shows_what_was_measured():
    rows, page = read_table(ROOT / "docs/studies/speed.csv"), (ROOT / "docs/studies/speed.md").read_text()
    for kind in ("slice", "volume"):
        table = f"{tabulate_ratios(rows, kind)}\n" if rows else ""
        assert f"<!-- {kind} -->\n{table}<!-- /{kind} -->" in page, "remedy: python scripts/benchmark.py"
    if rows:
        assert read_figure(ROOT / "docs/studies/speed.png") == rows


def test_the_page_of_pruning_shows_its_csv_and_the_protocols_networks():
    rows = read_table(ROOT / "docs/studies/pruning.csv")
    remedy = "remedy: python scripts/benchmark_pruning.py"
    assert (
        f"<!-- measured -->\n{pruning_report.tabulate(rows)}\n<!-- /measured -->"
        in (ROOT / "docs/studies/pruning.md").read_text()
    )
    assert read_figure(ROOT / "docs/studies/pruning.png") == rows
    pair = [row for row in rows if row["series"] == "UNet and UNet-PWP"]
    for row, name in zip(pair, ("kits_unet_segmentation", "kits_unet_pwp_segmentation"), strict=True):
        fold = read_record(name)["cross_validation"]["folds"][0]
        dice = {"kidney_and_tumor": float(row["kidney_dice"]), "tumor": float(row["tumor_dice"])}
        assert dice == pytest.approx({key: fold[key] for key in dice}, abs=6e-5), remedy


def test_the_protocol_tells_how_every_training_ended():
    trained = list_trained()
    table = f"{tabulate_trainings(trained, RECORDS)}\n" if trained else ""
    remedy = "the trainings in docs/protocol.md differ; remedy: python scripts/build_tables.py"
    assert f"<!-- trainings -->\n{table}<!-- /trainings -->" in (ROOT / "docs/protocol.md").read_text(), remedy


def test_curves_and_their_table(tmp_path):
    """Two networks, one of them with a single fold: what no fold held out is not drawn as Dice."""
    for name, folds in ((VARIANTS[0].name, ("fold_1", "fold_2", "fold_3", "all")), (BASELINES[0].name, ("fold_1",))):
        rows = [
            {"fold": fold, "stage": "fine", "epoch": epoch, "loss": 1 / epoch, "kidney_dice": 0.5, "tumor_dice": 0.4}
            for fold in folds
            for epoch in (1, 2)
        ]
        write_table(rows, tmp_path / f"{name}.csv")
        scores = {"kidney_and_tumor": 0.8126, "tumor": 0.7, "per_case": {"kidney_and_tumor": 0.8, "tumor": 0.4567}}
        scored = [{"split_file": f"docs/folds/{fold}.json", **scores} for fold in folds if fold != "all"]
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"cross_validation": {**scores, "mean_of_folds": scores, "folds": scored}})
        )
    names = [VARIANTS[0].name, BASELINES[0].name]
    assert list(read_trainings(names[0], tmp_path)) == ["fold_1", "fold_2", "fold_3", "all"]
    lines = tabulate_trainings(names, tmp_path).splitlines()[2:]
    assert lines[0] == f"| {VARIANTS[0].title} | fold_1 | 0.813 | 0.700 | 0.800, 0.457 | 2 | 0.5 |"
    assert len(lines) == 5 + 3
    draw_curves(tmp_path / "curves.png", names, tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_and_their_options_exist(page):
    assert list(find_command_problems(page.name, page.read_text(), ROOT / "bundles" / VARIANTS[-1].name, ROOT)) == []
