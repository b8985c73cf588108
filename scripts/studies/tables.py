"""README's table of networks, the protocol's of trainings, and their plots: what metadata, records and CSVs say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from common.compression.complexity import measure_complexity
from zoo.pages import format_markdown_table, read_table, replace_section, write_figure
from zoo.records import RECORDS, REPOSITORY, read_record
from zoo.rendering import BUNDLES
from zoo.variants import BASELINES, VARIANTS, Variant

from .curves import draw_curves, tabulate_trainings
from .protocol import FOLDS
from .speed import BF16, CHANNELS_LAST, OPENVINO, build

NOT_MEASURED = "-"
MARKERS = "os^DvPX"


@dataclass(frozen=True)
class Row:
    """
    What is compared: sizes, FLOPs, cross-validated Dice, milliseconds a slice in eager PyTorch as bundles run it, and
    how many times faster OpenVINO is than the dense U-Net in eager PyTorch, in float32 and in bfloat16.
    """

    title: str
    link: str
    parameters: int
    flops: int
    weights_bytes: int
    dice: dict[str, float]
    folds: int
    eager_ms: str
    times_faster: str
    times_faster_bf16: str


def write_tables(root: Path) -> None:
    """Bring README.md, docs/protocol.md, docs/pareto.png and docs/curves.png of the repository up to date."""
    rows = collect_rows()
    replace_section(root / "README.md", "networks", format_networks(rows))
    if trained := list_trained():
        replace_section(root / "docs/protocol.md", "trainings", tabulate_trainings(trained, RECORDS))
        write_pareto(root / "docs/pareto.png", rows)
        draw_curves(root / "docs/curves.png", trained, RECORDS)


def list_trained() -> list[str]:
    """Names of the networks with a cross-validated score."""
    return [row.name for row in (*VARIANTS, *BASELINES) if "cross_validation" in read_record(row.name)]


def collect_rows() -> list[Row]:
    """The five bundles, then the baselines."""
    return [collect_row(variant) for variant in (*VARIANTS, *BASELINES)]


def collect_row(variant: Variant) -> Row:
    """A bundle's numbers from its metadata; a baseline's are counted here."""
    scores = read_record(variant.name).get("cross_validation", {})
    measured = read_table(REPOSITORY / "docs/studies/speed.csv")
    speed = {row["backend"]: row for row in measured if row["network"] == variant.name}
    if variant in VARIANTS:
        metadata = json.loads((BUNDLES / variant.name / "configs/metadata.json").read_text())
        sizes = {key: metadata["complexity"][key] for key in ("parameters", "flops")}
        weights_bytes = metadata.get("weights", {}).get("bytes", 0)
        link = f"[{variant.title}](bundles/{variant.name})"
    else:
        network = build(variant)
        complexity = measure_complexity(network)
        sizes = {"parameters": complexity.parameters, "flops": complexity.flops}
        # the state dict of DynUNet names every tensor twice
        weights_bytes, link = sum(p.nbytes for p in network.parameters()), variant.title
    return Row(
        title=variant.title,
        link=link,
        **sizes,
        weights_bytes=weights_bytes,
        dice={key: scores[key] for key in ("kidney_and_tumor", "tumor") if key in scores},
        folds=len(scores.get("folds", ())),
        eager_ms=speed[CHANNELS_LAST]["slice_ms"] if speed else NOT_MEASURED,
        times_faster=speed[OPENVINO]["slice_times_faster"] if speed else NOT_MEASURED,
        times_faster_bf16=speed[BF16]["slice_times_faster"] if speed else NOT_MEASURED,
    )


def format_networks(rows: list[Row]) -> str:
    """README's table."""
    return format_markdown_table(
        [
            {
                "network": row.link,
                "parameters": f"{row.parameters:,}",
                "FLOPs": f"{row.flops:,}",
                "weights": f"{row.weights_bytes / 1e6:.1f} MB" if row.weights_bytes else NOT_MEASURED,
                "Dice kidney + tumour": format_dice(row, "kidney_and_tumor"),
                "Dice tumour": format_dice(row, "tumor"),
                "ms": row.eager_ms,
                "times faster": row.times_faster,
                "in bf16": row.times_faster_bf16,
            }
            for row in rows
        ]
    )


def format_dice(row: Row, name: str) -> str:
    """Dice to three digits; a star where it is of fewer than three folds."""
    return f"{row.dice[name]:.3f}{'' if row.folds == len(FOLDS) else '*'}" if row.dice else NOT_MEASURED


def find_front(points: Sequence[tuple]) -> list[tuple]:
    """Of points (FLOPs, Dice, ...) those that no point with as few FLOPs or fewer reaches in Dice."""
    return [
        point for point in sorted(points) if all(p[1] < point[1] for p in points if p != point and p[0] <= point[0])
    ]


def write_pareto(path: Path, rows: list[Row]) -> None:
    """Plot Dice against FLOPs; networks that no other beats in both are joined. A star: fewer folds, so not joined."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name, label in zip(figure.subplots(1, 2), ("kidney_and_tumor", "tumor"), ("kidney and tumour", "tumour")):
        points = [(row.flops / 1e9, row.dice[name], row) for row in rows if row.dice]
        best = find_front([(flops, dice, row.title) for flops, dice, row in points if row.folds == len(FOLDS)])
        axes.step([p[0] for p in best], [p[1] for p in best], where="post", color="grey", linewidth=1, zorder=1)
        for (flops, dice, row), marker in zip(points, MARKERS):
            star, fill = ("", "full") if row.folds == len(FOLDS) else ("*", "none")
            axes.plot(flops, dice, marker, fillstyle=fill, linestyle="none", label=row.title + star)
        axes.set_xscale("log")
        axes.set_xlabel("GFLOP a slice")
        axes.set_ylabel(f"cross-validated Dice, {label}")
        axes.margins(x=0.15, y=0.15)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    write_figure(path, figure, [[row.title, row.flops, row.dice, row.folds] for row in rows])
