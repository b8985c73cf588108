"""scripts/benchmark_pruning.py on synthetic cases: every number in the table is what its bundle gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_runs import load_script, run_well

from common.compression.complexity import count_flops, count_nonzero_parameters
from common.errors import InputError
from common.kits.cases import find_cases, split_cases, write_split
from studies import pruning_report
from studies.pruning_report import measure_latencies
from zoo.pages import read_table


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(pruning_report, "ROUNDS", 1)
    return load_script("benchmark_pruning").main


@pytest.fixture
def split_file(phantoms, tmp_path) -> Path:
    write_split(split_cases(find_cases(phantoms), 0.5), tmp_path / "split.json")
    return tmp_path / "split.json"


@pytest.mark.slow
def test_the_table_holds_what_the_bundles_give(benchmark, weighted_bundle, phantoms, split_file, tmp_path):
    docs, work = tmp_path / "docs", tmp_path / "work"
    docs.mkdir()
    (docs / "pruning.md").write_text("<!-- measured -->\n<!-- /measured -->\n")
    command = ["--bundle", str(weighted_bundle), "--dataset-dir", str(phantoms), "--split-file", str(split_file)]
    command += ["--work", str(work), "--output", str(docs)]
    assert benchmark([*command, "--method", "channel", "--amounts", "0.5"]) == 0
    assert benchmark([*command, "--method", "magnitude", "--amounts", "0.9"]) == 0
    whole, half = [row for row in read_table(docs / "pruning.csv") if "channel" in row["series"]]
    assert (whole["amount"], half["amount"], whole["faster"]) == ("0.0", "0.5", "1.0")
    assert int(whole["parameters"]) == 53_027 and int(half["flops"]) < 0.3 * int(whole["flops"])

    sparse = read_table(docs / "pruning.csv")[-1]
    bundle = work / f"{weighted_bundle.name}_magnitude_0.9_0_0"
    network = pruning_report.open_bundle(bundle).get_parsed_content("network")
    assert int(sparse["nonzero_parameters"]) == count_nonzero_parameters(network) < 0.12 * 53_027
    assert int(sparse["flops"]) == count_flops(network) == int(whole["flops"])
    assert int(sparse["file_bytes"]) == (bundle / "models/model.pt").stat().st_size < int(whole["file_bytes"]) / 2
    run_well(bundle, "train", "evaluate", dataset_dir=phantoms, split_file=split_file, output_dir=tmp_path / "again")
    pooled = json.loads((tmp_path / "again/summary.json").read_text())["pooled"]
    assert float(sparse["kidney_dice"]) == pytest.approx(pooled["kidney_dice"], abs=1e-4)

    page = (docs / "pruning.md").read_text()
    assert page.count("Pocket U-Net") == 4 and f"{int(half['parameters']):,}" in page
    assert (docs / "pruning.png").stat().st_size > 10_000
    benchmark([*command, "--method", "channel", "--amounts", "0.5"])
    assert len(read_table(docs / "pruning.csv")) == 4

    assert benchmark([*command, "--pruned", str(bundle)]) == 0
    first, second = [
        row for row in read_table(docs / "pruning.csv") if row["series"] == "Pocket U-Net and Pocket U-Net"
    ]
    assert (first["amount"], first["flops"]) == ("0.0", whole["flops"])
    assert float(second["amount"]) == round(1 - int(sparse["nonzero_parameters"]) / 53_027, 3)
    assert second["kidney_dice"] == sparse["kidney_dice"]


def test_amounts_that_are_no_numbers_are_one_line(benchmark, weighted_bundle, tmp_path):
    command = ["--bundle", str(weighted_bundle), "--dataset-dir", ".", "--split-file", "s", "--work", str(tmp_path)]
    with pytest.raises(InputError, match="--amounts: expected numbers with commas between, found half"):
        benchmark([*command, "--method", "channel", "--amounts", "half"])
    with pytest.raises(InputError, match="--method: expected it and --amounts, or --pruned, found neither"):
        benchmark([*command, "--method", "channel"])


def test_networks_take_turns(monkeypatch):
    monkeypatch.setattr(pruning_report, "ROUNDS", 2)
    turns = []

    class Noted(torch.nn.Module):
        def __init__(self, name: float) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.is_contiguous(memory_format=torch.channels_last)
            turns.append(self.name)
            return x

    latencies = measure_latencies({0.0: Noted(0.0), 0.5: Noted(0.5)})
    assert turns == [0.0, 0.5] * 3 and latencies.keys() == {0.0, 0.5}
