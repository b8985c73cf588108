"""README: its numbers are those of the networks, its files and options exist."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.complexity import count_flops, count_parameters
from common.zoo.benchmarks.speed import build
from common.zoo.tables import collect_rows, format_dice, format_networks, write_pareto
from common.zoo.variants import BASELINES, VARIANTS

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


def test_the_plot_joins_the_networks_that_no_other_beats(tmp_path):
    rows = collect_rows()[:3]
    scored = [replace(row, dice={"kidney_and_tumor": 0.8, "tumor": 0.7}, folds=3) for row in rows]
    write_pareto(tmp_path / "pareto.png", scored)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    files = [link for link in links if not link.startswith("http")]
    assert len(files) > 5 and all((ROOT / file).exists() for file in files)


def test_named_scripts_and_their_options_exist():
    commands = re.findall(r"python (scripts/\w+\.py)([^\n`]*)", README)
    assert len(commands) >= 5
    for script, words in commands:
        code = (ROOT / script).read_text()
        assert all(f'"{option}"' in code for option in re.findall(r"--[\w-]+", words)), script
