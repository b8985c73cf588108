"""README's table of networks, the table of scores, and their plots: what metadata, records and CSVs say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.compression.complexity import measure_complexity
from common.files import write_whole
from zoo.held_out import CLASSES
from zoo.pages import format_markdown_table, read_table, replace_section, write_figure
from zoo.records import RECORDS, REPOSITORY, read_record
from zoo.rendering import BUNDLES
from zoo.variants import BASELINES, VARIANTS, Variant

from .curves import draw_curves
from .speed import BF16, OPENVINO, build

NOT_MEASURED = "-"
MARKERS = "os^DvPX"


@dataclass(frozen=True)
class Row:
    """What is compared: sizes, FLOPs, scores as the record has them, milliseconds a slice in OpenVINO, f32 and bf16."""

    title: str
    link: str
    parameters: int
    flops: int
    scores: dict[str, Any]
    slice_ms: str
    slice_ms_bf16: str


def write_tables(root: Path) -> None:
    """Bring README.md, docs/protocol.md, docs/whole_scans.md, docs/pareto.png and docs/curves.png up to date."""
    rows = collect_rows()
    replace_section(root / "README.md", "networks", format_networks(rows))
    replace_section(root / "docs/whole_scans.md", "scores", format_scores(rows))
    write_pareto(root / "docs/pareto.png", rows)
    draw_curves(root / "docs/curves.png", list_trained(), RECORDS)
    write_commands(root / "docs/reference/commands.md")


def write_commands(path: Path) -> None:
    """The reference of `kits-lite`, as typer writes it."""
    command = [sys.executable, "-m", "typer", "common.app.cli", "utils", "docs", "--name", "kits-lite"]
    written = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    title = "# Commands\n\nWritten by `python scripts/build_tables.py` from the commands themselves.\n"
    with write_whole(path) as temporary:
        temporary.write_text(title + written.partition("\n")[2], encoding="utf-8")


def list_trained() -> list[str]:
    """Names of the networks that were trained by the protocol."""
    return [row.name for row in (*VARIANTS, *BASELINES) if (RECORDS / f"{row.name}.csv").is_file()]


def collect_rows() -> list[Row]:
    """The five bundles, then the baselines."""
    return [collect_row(variant) for variant in (*VARIANTS, *BASELINES)]


def collect_row(variant: Variant) -> Row:
    """A bundle's numbers from its metadata; a baseline's are counted here."""
    speed = {
        row["backend"]: row
        for row in read_table(REPOSITORY / "docs/studies/speed.csv")
        if row["network"] == variant.name
    }
    if variant in VARIANTS:
        metadata = json.loads((BUNDLES / variant.name / "configs/metadata.json").read_text())
        sizes = {key: metadata["complexity"][key] for key in ("parameters", "flops")}
        link = f"[{variant.title}](bundles/{variant.name})"
    else:
        complexity = measure_complexity(build(variant))
        sizes = {"parameters": complexity.parameters, "flops": complexity.flops}
        link = variant.title
    return Row(
        title=variant.title,
        link=link,
        **sizes,
        scores=read_record(variant.name),
        slice_ms=speed[OPENVINO]["slice_ms"] if speed else NOT_MEASURED,
        slice_ms_bf16=speed[BF16]["slice_ms"] if speed else NOT_MEASURED,
    )


def format_networks(rows: Sequence[Row]) -> str:
    """README's table."""
    return format_markdown_table(
        [
            {
                "network": row.link,
                "parameters": f"{row.parameters:,}",
                "GFLOP": f"{row.flops / 1e9:.1f}",
                "whole scan": format_dice(row.scores.get("scan", {})),
                "all that is found": format_dice(row.scores.get("scan", {}).get("all_pieces", {})),
                "new patients": format_dice(row.scores.get("patients", {}).get("pooled", {})),
                "ms": row.slice_ms,
                "in bf16": row.slice_ms_bf16,
            }
            for row in rows
        ]
    )


def format_scores(rows: Sequence[Row]) -> str:
    """The table of all scores, of the networks that have any."""
    return format_markdown_table([_format_row(row) for row in rows if "scan" in row.scores])


def _format_row(row: Row) -> dict[str, str]:
    scan, patients, empty = (row.scores[key] for key in ("scan", "patients", "without_kidney"))
    interval, every = patients["per_patient"], scan["all_pieces"]
    return {
        "network": row.title,
        "scan: kidney + tumour": f"{scan['kidney_and_tumor']:.3f}",
        "tumour": f"{scan['tumor']:.3f}",
        "invented, ml": f"{scan['invented_ml']:.1f}",
        "with `--keep-largest 0`": f"{format_dice(every)}, {every['invented_ml']:.1f} ml",
        "patients, pooled": format_dice(patients["pooled"]),
        "mean of patients (95 %)": ", ".join(
            f"{interval[key]['mean']:.3f} ({interval[key]['ci95_low']:.3f} to {interval[key]['ci95_high']:.3f})"
            for key in CLASSES
        ),
        "tumours found": f"{patients['tumor_found']} of {patients['with_tumor']}",
        "tumours invented": str(patients["false_tumors"]),
        "slices without kidney that get one": f"{empty['wrong_slices']} of {empty['slices']}",
        "ml invented in each": f"{empty['mean_ml']:.2f}",
    }


def format_dice(dice: dict[str, float]) -> str:
    """Dice of kidney and tumour together, and of the tumour."""
    return " / ".join(f"{dice[key]:.3f}" for key in CLASSES) if dice else NOT_MEASURED


def find_front(points: Sequence[tuple]) -> list[tuple]:
    """Of points (FLOPs, Dice, ...) those that no point with as few FLOPs or fewer reaches in Dice."""
    return [
        point for point in sorted(points) if all(p[1] < point[1] for p in points if p != point and p[0] <= point[0])
    ]


def write_pareto(path: Path, rows: Sequence[Row]) -> None:
    """Plot Dice against FLOPs, on held-out patients and on the whole scan; networks that no other beats are joined."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    points = []
    for axes, what in zip(figure.subplots(1, 2), ("patients", "scan")):
        shown = [(row.flops / 1e9, _find_dice(row, what), row.title) for row in rows if "scan" in row.scores]
        best = find_front(shown)
        axes.step([p[0] for p in best], [p[1] for p in best], where="post", color="grey", linewidth=1, zorder=1)
        for (flops, dice, title), marker in zip(shown, MARKERS):
            axes.plot(flops, dice, marker, linestyle="none", label=title)
        axes.set_xscale("log")
        axes.set_xlabel("GFLOP a slice")
        axes.set_ylabel(f"Dice of kidney and tumour, {'new patients' if what == 'patients' else 'whole scan'}")
        axes.margins(x=0.15, y=0.15)
        axes.grid(alpha=0.3)
        points.append([list(point) for point in shown])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    write_figure(path, figure, points)


def _find_dice(row: Row, what: str) -> float:
    scores = row.scores["patients"]["pooled"] if what == "patients" else row.scores["scan"]
    return scores["kidney_and_tumor"]
