"""The numbers of docs/studies/partitioning.md: its tables between markers, the CSV and the plot beside it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure

from common.errors import InputError
from common.files import write_whole
from common.partitioning.algorithms import partition, tabulate
from zoo.pages import format_markdown_table, replace_section

from .partition_model import (
    Link,
    Work,
    count_pipeline_bytes,
    count_slices_bytes,
    predict_alone,
    predict_cases,
    predict_cohort,
    predict_pipeline,
    predict_slices,
)

KINDS = {"pipeline": "pipeline", "slices": "data, slices of one case", "cases": "data, whole cases"}
MACHINES = (2, 4, 8, 16, 32, 64)
LATENCY_S = 50e-6
LINKS = {f"{rate} Gbit/s": Link(rate * 1e9 / 8, LATENCY_S) for rate in (1, 10, 100)}
# what each machine of the forecast computes with
SPEEDS = {"as fast as here": 1, "100 x as fast": 100}
MEDIAN_SLICES = 108  # of a KiTS19 case
# of 512 x 512 voxels of 16 bits; by machines of so many cores, of which a scan takes what docs/how_to/speed.md measured
COHORT = {"scans": 10_000, "cores": 8, "core_s": 3.0, "scan_bytes": MEDIAN_SLICES * 512 * 512 * 2}
COHORT_MACHINES = (1, 4, 16, 64)


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

    @property
    def error(self) -> float:
        """By what share the model is above the measured time."""
        return self.predicted_s / self.seconds - 1


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
        predicted_s, predicted_bytes = _predict(kind, processes, work, link, cores, micro_batches)
        seconds = median(result["seconds"])
        rows.append(
            Row(
                kind=kind,
                processes=processes,
                seconds=seconds,
                fastest_s=min(result["seconds"]),
                slowest_s=max(result["seconds"]),
                speedup=alone / seconds,
                predicted_s=predicted_s,
                peak_gb=" ".join(f"{size / 1e9:.2f}" for size in result["peak_bytes"]),
                received_bytes=result["received_bytes"],
                predicted_bytes=predicted_bytes,
                loopback_bytes=int(result["loopback_bytes"]),
            )
        )
    return rows


def _predict(kind: str, processes: int, work: Work, link: Link, cores: int, micro_batches: int) -> tuple[float, int]:
    if kind == "pipeline":
        starts = partition(work.layers, max_partitions=processes)
        return predict_pipeline(work, starts, link, micro_batches, cores), count_pipeline_bytes(work, starts)
    if kind == "slices":
        return predict_slices(work, processes, link, cores), count_slices_bytes(work, processes)
    return predict_cases(work, processes, cores), 0


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
    weights = [f"{_weigh(work, parts):.1f} MB" for parts in (1, 2, 4)]
    about = (
        f"`{Path(str(setting['bundle'])).name}`, {setting['slices']} slices in batches of {work.batch_size}, "
        f"{setting['micro_batches']} batches in the pipeline at once; {os.cpu_count()} cores, one thread a process, "
        f"torch {torch.__version__}; median of {setting['repeats']} runs (fastest to slowest). Link between two "
        f"processes: {link.bytes_per_s / 1e9:.2f} GB/s, {1e3 * link.latency_s:.2f} ms. Weights of the whole network: "
        f"{weights[0]}, of the largest of 2 sub-models {weights[1]}, of 4 {weights[2]}."
    )
    cells = [
        {
            "mode": "one process" if row.processes == 1 else KINDS[row.kind],
            "processes": f"{row.processes}",
            "seconds": f"{row.seconds:.2f} ({row.fastest_s:.2f} to {row.slowest_s:.2f})",
            "speed-up": f"{row.speedup:.2f}",
            "model, seconds": "" if row.processes == 1 else f"{row.predicted_s:.2f} ({row.error:+.0%})",
            "MB received": f"{row.received_bytes / 1e6:.1f}",
            "model, MB": f"{row.predicted_bytes / 1e6:.1f}",
            "MB on the device": f"{row.loopback_bytes / 1e6:.1f}",
            "peak GB, rank by rank": row.peak_gb,
        }
        for row in rows
    ]
    errors = [abs(row.error) for row in rows if row.processes > 1]
    accuracy = f"The model's times are off by {median(errors):.0%} in the median, {max(errors):.0%} at most."
    return f"{about}\n\n{format_markdown_table(cells)}\n\n{accuracy}"


def _weigh(work: Work, parts: int) -> float:
    """Megabytes of the weights of the largest sub-model."""
    return 4e-6 * max(part.parameters for part in tabulate(work.layers, partition(work.layers, max_partitions=parts)))


def format_forecast(rows: Sequence[Mapping[str, object]]) -> str:
    """The forecast in Markdown, one line for every computing speed, link and mode, and who wins."""
    lines = []
    for speed in SPEEDS:
        for link in LINKS:
            for kind in ("pipeline", "slices"):
                cells = {r["machines"]: r[kind] for r in rows if (r["computing"], r["link"]) == (speed, link)}
                speedups = {f"{m}": "-" if cells[m] is None else f"{cells[m]:.2f}" for m in MACHINES}
                lines.append({"each machine": speed, "link": link, "mode": KINDS[kind], **speedups})
    speedups = {f"{m}": f"{m:.2f}" for m in MACHINES}
    lines.append({"each machine": "any", "link": "any", "mode": KINDS["cases"], **speedups})
    possible = [row for row in rows if row["pipeline"] is not None]
    by_slices = sum(row["slices"] > row["pipeline"] for row in possible)
    by_cases = sum(row["cases"] > row["pipeline"] for row in possible)
    verdict = (
        f"Of the {len(possible)} points that both modes reach, sharing the slices of one case is faster than the "
        f"pipeline in {by_slices}, sharing whole cases in {by_cases}. The best pipeline is "
        f"{max(row['pipeline'] for row in possible):.1f} times as fast as one machine."
    )
    return f"{format_markdown_table(lines)}\n\n{verdict}"


def format_cohort() -> str:
    """What a cohort takes by machines and storage, in Markdown."""
    lines = []
    for name, storage in LINKS.items():
        cells = {}
        for machines in COHORT_MACHINES:
            computing, reading = predict_cohort(machines=machines, storage=storage, **COHORT)
            cells[f"{machines}"] = f"{max(computing, reading) / 60:.1f}{', storage' if reading > computing else ''}"
        lines.append({"storage": name, **cells})
    return format_markdown_table(lines)


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
    replace_section(page, "measured", format_measured(rows, work, link, setting))
    replace_section(page, "forecast", format_forecast(forecast))
    replace_section(page, "cohort", format_cohort())
    with write_whole(folder / "partitioning.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    with write_whole(folder / "partitioning.png") as temporary:
        draw(rows, forecast).savefig(temporary, dpi=110, metadata={"Software": None})


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
    foretold.set(xlabel="machines", title="forecast, machines as fast as a core of this one")
    for axes in (measured, foretold):
        axes.set_ylabel("speed-up over one process")
        axes.set_ylim(bottom=0.5 if axes is foretold else 0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, handlelength=3.5)
    return figure
