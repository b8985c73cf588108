"""The numbers of docs/partitioning.md: its tables between markers, docs/partitioning.csv and docs/partitioning.png."""

from __future__ import annotations

import csv
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure

from ..errors import InputError
from ..files import replace_file
from ..partition_model import (
    Link,
    Work,
    count_pipeline_bytes,
    count_slices_bytes,
    predict_alone,
    predict_cases,
    predict_pipeline,
    predict_slices,
)
from ..partitioning import partition

KINDS = {"pipeline": "pipeline", "slices": "data, slices of one case", "cases": "data, whole cases"}
MACHINES = (2, 4, 8, 16, 32, 64)
LATENCY_S = 50e-6
LINKS = {f"{rate} Gbit/s": Link(rate * 1e9 / 8, LATENCY_S) for rate in (1, 10, 100)}
# what each machine of the forecast computes with
SPEEDS = {"as fast as here": 1, "100 x as fast": 100}
MEDIAN_SLICES = 108  # of a KiTS19 case


@dataclass(frozen=True)
class Row:
    """One measured point, and what the model says of it."""

    kind: str
    processes: int
    seconds: float
    fastest_s: float
    slowest_s: float
    speedup: float
    predicted_s: float
    peak_gb: str
    received_bytes: int
    predicted_bytes: int
    loopback_bytes: int


def compare(
    work: Work, link: Link, cores: int, micro_batches: int, measured: Mapping[tuple[str, int], Mapping]
) -> list[Row]:
    """
    Measured points beside the model's.

    Args:
        cores: of this machine.
        measured: by kind and processes, see `run_processes`; ("cases", 1) is the network in one process.
    """
    alone = median(measured["cases", 1]["seconds"])
    rows = []
    for (kind, processes), result in measured.items():
        starts = partition(work.layers, max_partitions=processes)
        predicted = {
            "pipeline": lambda: predict_pipeline(work, starts, link, micro_batches, cores),
            "slices": lambda: predict_slices(work, processes, link, cores),
            "cases": lambda: predict_cases(work, processes, cores),
        }
        sent = {
            "pipeline": count_pipeline_bytes(work, starts),
            "slices": count_slices_bytes(work, processes),
            "cases": 0,
        }
        seconds = median(result["seconds"])
        rows.append(
            Row(
                kind=kind,
                processes=processes,
                seconds=seconds,
                fastest_s=min(result["seconds"]),
                slowest_s=max(result["seconds"]),
                speedup=alone / seconds,
                predicted_s=predicted[kind](),
                peak_gb=" ".join(f"{size / 1e9:.2f}" for size in result["peak_bytes"]),
                received_bytes=result["received_bytes"],
                predicted_bytes=sent[kind],
                loopback_bytes=int(result["loopback_bytes"]),
            )
        )
    return rows


def foretell(work: Work) -> list[dict[str, object]]:
    """Speed-ups for a case of the median number of slices, all in the pipeline at once, on more machines."""
    batches = -(-MEDIAN_SLICES // work.batch_size)
    rows = []
    for speed, factor in SPEEDS.items():
        faster = Work(work.layers, [seconds / factor for seconds in work.seconds], work.batch_size, batches)
        alone = predict_alone(faster)
        for name, link in LINKS.items():
            for machines in MACHINES:
                pipeline = None
                if machines <= len(work.layers):
                    starts = partition(work.layers, max_partitions=machines)
                    pipeline = alone / predict_pipeline(faster, starts, link, batches)
                slices = alone / predict_slices(faster, machines, link)
                rows.append(
                    {"computing": speed, "link": name, "machines": machines, "pipeline": pipeline}
                    | {"slices": slices, "cases": float(machines)}
                )
    return rows


def format_measured(rows: Sequence[Row], work: Work, link: Link, setting: Mapping[str, object]) -> str:
    """The measured table, and what stood around it, in Markdown."""
    lines = [
        f"`{Path(str(setting['bundle'])).name}`, {setting['slices']} slices in batches of {work.batch_size}, "
        f"{setting['micro_batches']} batches in the pipeline at once; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, one thread a process, torch {torch.__version__}; median of {setting['repeats']} runs "
        f"(fastest to slowest). Link between two processes: {link.bytes_per_s / 1e9:.2f} GB/s, "
        f"{1e3 * link.latency_s:.2f} ms.",
        "",
        "| mode | processes | seconds | speed-up | model | error | MB received | model | MB on the device | peak GB a rank |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        name = "one process" if row.processes == 1 else KINDS[row.kind]
        error = row.predicted_s / row.seconds - 1
        lines.append(
            f"| {name} | {row.processes} | {row.seconds:.2f} ({row.fastest_s:.2f} to {row.slowest_s:.2f}) "
            f"| {row.speedup:.2f} | {row.predicted_s:.2f} | {error:+.0%} | {row.received_bytes / 1e6:.1f} "
            f"| {row.predicted_bytes / 1e6:.1f} | {row.loopback_bytes / 1e6:.1f} | {row.peak_gb} |"
        )
    errors = [abs(row.predicted_s / row.seconds - 1) for row in rows]
    lines += ["", f"The model's times are off by {median(errors):.0%} in the median, {max(errors):.0%} at most."]
    return "\n".join(lines)


def format_forecast(rows: Sequence[Mapping[str, object]]) -> str:
    """The forecast in Markdown: one line for every computing speed, link and mode."""
    lines = [
        "| each machine | link | mode | " + " | ".join(str(machines) for machines in MACHINES) + " |",
        "|---|---|---|" + "--:|" * len(MACHINES),
    ]
    for speed in SPEEDS:
        for link in LINKS:
            for kind in ("pipeline", "slices"):
                cells = [r[kind] for r in rows if (r["computing"], r["link"]) == (speed, link)]
                texts = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
                lines.append(f"| {speed} | {link} | {KINDS[kind]} | " + " | ".join(texts) + " |")
    lines.append(f"| any | any | {KINDS['cases']} | " + " | ".join(f"{m:.2f}" for m in MACHINES) + " |")
    possible = [row for row in rows if row["pipeline"] is not None]
    by_slices = sum(row["slices"] > row["pipeline"] for row in possible)
    by_cases = sum(row["cases"] > row["pipeline"] for row in possible)
    lines += [
        "",
        f"Of the {len(possible)} points that both modes reach, sharing the slices of one case is faster than the "
        f"pipeline in {by_slices}, sharing whole cases in {by_cases}. The best pipeline is "
        f"{max(row['pipeline'] for row in possible):.1f} times as fast as one machine.",
    ]
    return "\n".join(lines)


def replace_section(text: str, name: str, content: str) -> str:
    """
    A page with other content between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        InputError: when the page has no such place.
    """
    replaced, count = re.subn(
        rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", lambda m: m[1] + content + m[2], text, flags=re.DOTALL
    )
    if count != 1:
        raise InputError(f"partitioning.md: expected one place between <!-- {name} --> and its end, found {count}.")
    return replaced


def write_report(
    folder: Path, rows: Sequence[Row], forecast: Sequence[Mapping], work: Work, link: Link, setting: Mapping
) -> None:
    """
    Write partitioning.csv and partitioning.png to a folder, and the tables of its partitioning.md anew.

    Raises:
        InputError: when there is no partitioning.md with the places for them.
    """
    page = folder / "partitioning.md"
    if not page.is_file():
        raise InputError(f"{page}: expected the page to write the tables to, found none.")
    text = replace_section(page.read_text(), "measured", format_measured(rows, work, link, setting))
    text = replace_section(text, "forecast", format_forecast(forecast))
    with replace_file(folder / "partitioning.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    with replace_file(folder / "partitioning.png") as temporary:
        draw(rows, forecast).savefig(temporary, dpi=110, metadata={"Software": None})
    with replace_file(page) as temporary:
        temporary.write_text(text)


def draw(rows: Sequence[Row], forecast: Sequence[Mapping]) -> Figure:
    """Left, speed-ups as measured and as modelled; right, the forecast for machines as fast as this one's cores."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    measured, foretold = figure.subplots(1, 2)
    alone = next(row.seconds for row in rows if row.processes == 1)
    colours = {kind: f"C{number}" for number, kind in enumerate(KINDS)}
    for kind, label in KINDS.items():
        points = [row for row in rows if row.kind == kind or row.processes == 1]
        x = [row.processes for row in points]
        measured.plot(x, [row.speedup for row in points], "o-", color=colours[kind], label=f"{label}, measured")
        model = [alone / row.predicted_s for row in points]
        measured.plot(x, model, "x:", color=colours[kind], label=f"{label}, model")
    measured.set_xticks(sorted({row.processes for row in rows}))
    measured.set(xlabel="processes", title=f"this machine, {os.cpu_count()} cores")
    for style, link in zip((":", "--", "-"), LINKS):
        for kind in ("pipeline", "slices"):
            points = [r for r in forecast if (r["computing"], r["link"]) == (next(iter(SPEEDS)), link)]
            points = [(r["machines"], r[kind]) for r in points if r[kind] is not None]
            foretold.plot(*zip(*points), style, marker=".", color=colours[kind], label=f"{KINDS[kind]}, {link}")
    foretold.plot(MACHINES, MACHINES, color=colours["cases"], label=KINDS["cases"])
    foretold.set_xscale("log", base=2)
    foretold.set_yscale("log", base=2)
    for axis in (foretold.xaxis, foretold.yaxis):
        axis.set_major_formatter("{x:g}")
    foretold.set(xlabel="machines", title="forecast, one case")
    for axes in (measured, foretold):
        axes.set_ylabel("speed-up over one process")
        axes.set_ylim(bottom=0.5 if axes is foretold else 0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
