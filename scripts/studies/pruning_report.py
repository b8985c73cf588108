"""The numbers of docs/studies/pruning.md: Dice, size, FLOPs and latency of a bundle pruned by several amounts."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from common.bundle_folder import open_bundle
from common.compression.complexity import measure_complexity
from common.kits.scores import write_table
from zoo.pages import format_markdown_table, read_table, replace_section, write_figure

ROUNDS = 15
INPUT_SHAPE = (1, 1, 256, 256)
DICE = ("kidney_dice", "tumor_dice")
# what is drawn against Dice, what it is called, and the unit
PANELS = {"flops": ("GFLOP a slice", 1e9), "file_bytes": ("file of weights, MB", 1e6), "faster": ("times as fast", 1)}


def measure_series(
    series: str, bundles: Mapping[float, Path], dataset_dir: Path, split_file: Path, work: Path
) -> list[dict[str, str | float]]:
    """
    A row of numbers for every bundle of a series.

    Args:
        bundles: by the amount pruned; the one of amount 0 is what the others' latency is compared with.
        dataset_dir: KiTS folder; the cases that the split file holds out are scored.
        work: folder for the scores.
    """
    networks = {amount: open_bundle(bundle).get_parsed_content("network").eval() for amount, bundle in bundles.items()}
    latencies_ms = measure_latencies(networks)
    rows = []
    for amount, bundle in bundles.items():
        complexity = measure_complexity(networks[amount], INPUT_SHAPE)
        row = {
            "series": series,
            "amount": amount,
            "parameters": complexity.parameters,
            "nonzero_parameters": complexity.nonzero_parameters,
            "flops": complexity.flops,
            "file_bytes": (bundle / "models/model.pt").stat().st_size,
            **measure_dice(bundle, dataset_dir, split_file, work / "scores" / bundle.name),
            "latency_ms": round(latencies_ms[amount], 2),
            "faster": round(latencies_ms[0] / latencies_ms[amount], 2),
        }
        rows.append(row)
    return rows


def measure_dice(bundle: Path, dataset_dir: Path, split_file: Path, output: Path) -> dict[str, float]:
    """Dice pooled over the held-out slices on their own grid, by the bundle's own evaluation."""
    paths = {"--dataset_dir": dataset_dir, "--split_file": split_file, "--output_dir": output}
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", "['configs/train.json','configs/evaluate.json']"]
    command += [word for option, path in paths.items() for word in (option, str(path.resolve()))]
    subprocess.run(command, cwd=bundle, check=True, stdout=subprocess.DEVNULL)
    pooled = json.loads((output / "summary.json").read_text())["pooled"]
    return {name: round(pooled[name], 4) for name in DICE}


def measure_latencies(networks: Mapping[float, nn.Module]) -> dict[float, float]:
    """Median milliseconds of one slice, eager and channels_last; the networks take turns: load hits all alike."""
    image = torch.rand(INPUT_SHAPE).to(memory_format=torch.channels_last)
    taken: dict[float, list[float]] = {amount: [] for amount in networks}
    with torch.inference_mode():
        for number in range(ROUNDS + 1):
            for amount, network in networks.items():
                start = time.perf_counter()
                network(image)
                if number:  # the first round warms up
                    taken[amount].append(1000 * (time.perf_counter() - start))
    return {amount: statistics.median(values) for amount, values in taken.items()}


def write_report(folder: Path, rows: Sequence[Mapping]) -> None:
    """Put the rows of a series into a folder's pruning.csv in place of its older ones; redo the plot and pruning.md."""
    path = folder / "pruning.csv"
    rows = [row for row in read_table(path) if row["series"] != rows[0]["series"]] + list(rows)
    write_table(sorted(rows, key=lambda row: (row["series"], float(row["amount"]))), path)
    rows = read_table(path)  # as a test reads them
    write_figure(folder / "pruning.png", _draw(rows), rows)
    replace_section(folder / "pruning.md", "measured", tabulate(rows))


def tabulate(rows: Sequence[Mapping]) -> str:
    """The table of pruning.md."""
    return format_markdown_table([_describe(row) for row in rows])


def _describe(row: Mapping) -> dict[str, str]:
    return {
        "series": row["series"],
        "amount": f"{float(row['amount']):g}",
        "parameters": f"{int(row['parameters']):,}",
        "not zero": f"{int(row['nonzero_parameters']):,}",
        "GFLOP": f"{int(row['flops']) / 1e9:.2f}",
        "file, MB": f"{int(row['file_bytes']) / 1e6:.2f}",
        "Dice": f"{float(row['kidney_dice']):.3f}",
        "Dice, tumour": f"{float(row['tumor_dice']):.3f}",
        "times as fast": f"{float(row['faster']):.2f}",
    }


def _draw(rows: Sequence[Mapping]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (key, (label, unit)) in zip(axes, PANELS.items()):
        for name in dict.fromkeys(row["series"] for row in rows):
            points = [(float(r[key]) / unit, float(r["kidney_dice"])) for r in rows if r["series"] == name]
            ax.plot(*zip(*points), marker="o", label=name)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("Dice, kidney and tumour, pooled")
    axes[0].legend(fontsize="small")
    return figure
