"""docs/studies/speed.md: what `studies.speed` measured, as a table of ratios, a CSV and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.kits.scores import write_table
from common.runtimes.packages import describe_cpu
from zoo.pages import format_markdown_table, read_table, replace_section, write_figure
from zoo.variants import TITLES

from .speed import BACKENDS


def write_speed(folder: Path, rows: Sequence[Mapping], machine: Mapping[str, float], threads: int) -> None:
    """Write `speed.csv` and `speed.png` into a folder, and the tables of its `speed.md`."""
    write_table(rows, folder / "speed.csv")
    rows = read_table(folder / "speed.csv")  # as a test reads them
    for kind in ("slice", "volume"):
        replace_section(folder / "speed.md", kind, tabulate_ratios(rows, kind))
    speeds = ", ".join(f"{value} {unit}" for unit, value in machine.items())
    text = f"{describe_cpu()}, {threads} threads; matrix product and copy beside them: {speeds}."
    replace_section(folder / "speed.md", "machine", text)
    write_figure(folder / "speed.png", draw(rows), rows)


def tabulate_ratios(rows: Sequence[Mapping], kind: str) -> str:
    """How many times faster than the dense U-Net, eager, every network is with every backend; - where not measured."""
    ratios = {(row["network"], row["backend"]): float(row[f"{kind}_times_faster"]) for row in rows}
    return format_markdown_table(
        [
            {"network": title}
            | {backend: "-" if math.isnan(ratio := ratios[name, backend]) else f"{ratio:.1f}" for backend in BACKENDS}
            for name, title in TITLES.items()
        ]
    )


def draw(rows: Sequence[Mapping]) -> Figure:
    """Bars, a group a network, a colour a backend, on a logarithmic axis."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(BACKENDS)
    ratios = {(row["network"], row["backend"]): float(row["slice_times_faster"]) for row in rows}
    for number, backend in enumerate(BACKENDS):
        heights = [ratios[name, backend] for name in TITLES]
        axes.bar(np.arange(len(TITLES)) + (number - (len(BACKENDS) - 1) / 2) * width, heights, width, label=backend)
    axes.set_yscale("log")
    axes.set_xticks(range(len(TITLES)), TITLES.values(), rotation=12)
    axes.set_ylabel("times faster a slice than the dense U-Net, eager")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.legend(ncols=2, fontsize=8)
    return figure
