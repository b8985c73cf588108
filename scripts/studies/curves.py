"""How the trainings of the protocol went: a plot of every one, and a table of where they ended."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from zoo.pages import format_markdown_table, write_figure
from zoo.records import read_record
from zoo.variants import TITLES


def read_trainings(name: str, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Epochs of every training of a network, by fold, as `studies.publishing.read_curves` wrote them."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        return {}
    with path.open() as file:
        return {fold: list(rows) for fold, rows in groupby(csv.DictReader(file), key=lambda row: row["fold"])}


def draw_curves(path: Path, names: Sequence[str], folder: Path) -> None:
    """Plot loss and Dice of held-out slices over the epochs, a column a network, a colour a fold."""
    figure = Figure(figsize=(2.6 * len(names), 5), layout="constrained")
    columns = figure.subplots(2, len(names), squeeze=False, sharey="row").T
    for name, (loss, dice) in zip(names, columns):
        for number, (fold, rows) in enumerate(read_trainings(name, folder).items()):
            color = f"C{number}"
            epochs = [int(row["epoch"]) for row in rows]
            loss.plot(epochs, [float(row["loss"]) for row in rows], color=color, linewidth=1, label=fold)
            if fold == "all":  # its "held-out" slices were trained on
                continue
            validated = [row for row in rows if row["kidney_dice"]]
            for key, style in (("kidney_dice", "-"), ("tumor_dice", ":")):
                values = [float(row[key]) for row in validated]
                dice.plot([int(row["epoch"]) for row in validated], values, style, color=color, linewidth=1)
        loss.set_title(TITLES[name])
        loss.set_yscale("log")
        dice.set_ylim(0, 1)
        dice.set_xlabel("epoch")
        for axes in (loss, dice):
            axes.grid(alpha=0.3)
    columns[0][0].set_ylabel("loss")
    columns[0][0].legend(fontsize=7)
    columns[0][1].set_ylabel("Dice of held-out slices\n(kidney -, tumour :)")
    shown = {name: {fold: rows[-1] for fold, rows in read_trainings(name, folder).items()} for name in names}
    write_figure(path, figure, shown)


def tabulate_trainings(names: Sequence[str], folder: Path) -> str:
    """A line a fold: epochs, last loss, Dice on the held-out cases as they are scored."""
    lines = []
    for name in names:
        scores = read_record(name, folder).get("cross_validation", {})
        trainings = read_trainings(name, folder)
        for fold in scores.get("folds", ()):
            number = Path(fold["split_file"]).stem
            rows = trainings[number]
            lines.append(
                _format_line(TITLES[name], number, fold) | {"epochs": rows[-1]["epoch"], "last loss": rows[-1]["loss"]}
            )
        if scores:
            for scored, dice in (("mean of folds", scores["mean_of_folds"]), ("all held-out cases", scores)):
                lines.append(_format_line(TITLES[name], scored, dice) | {"epochs": "", "last loss": ""})
    return format_markdown_table(lines)


def _format_line(title: str, scored: str, scores: dict) -> dict[str, str]:
    dice = {
        label: f"{scores[key]:.3f}"
        for key, label in (("kidney_and_tumor", "Dice kidney + tumour"), ("tumor", "Dice tumour"))
    }
    mean = "{kidney_and_tumor:.3f}, {tumor:.3f}".format(**scores["per_case"]) if "per_case" in scores else ""
    return {"network": title, "scored": scored, **dice, "mean of cases": mean}
