"""How the trainings of the protocol went: a plot of every one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from zoo.pages import read_table, write_figure
from zoo.variants import TITLES


def draw_curves(path: Path, names: Sequence[str], folder: Path) -> None:
    """
    Plot loss and Dice over the views, a column a network; a line marks where a stage ends.

    Args:
        names: of networks with a `<name>.csv` as `studies.publishing.read_curves` gives its rows.
        folder: of those files.
    """
    figure = Figure(figsize=(3.2 * max(len(names), 2), 5), layout="constrained")
    columns = figure.subplots(2, len(names), squeeze=False, sharey="row").T
    shown = {}
    for name, (loss, dice) in zip(names, columns):
        rows = read_table(folder / f"{name}.csv")
        loss.plot([int(row["views"]) for row in rows], [float(row["loss"]) for row in rows], linewidth=1)
        validated = [row for row in rows if row["kidney_dice"]]
        for key, style in (("kidney_dice", "-"), ("tumor_dice", ":")):
            values = [float(row[key]) for row in validated]
            dice.plot([int(row["views"]) for row in validated], values, style, color="C0", linewidth=1)
        for axes in (loss, dice):
            axes.grid(alpha=0.3)
            for before, after in zip(rows, rows[1:]):
                if before["stage"] != after["stage"]:
                    axes.axvline(int(before["views"]), color="grey", linewidth=0.5)
        loss.set_title(TITLES[name])
        loss.set_yscale("log")
        dice.set_ylim(0, 1)
        dice.set_xlabel("views")
        shown[name] = rows[-1]
    columns[0][0].set_ylabel("loss")
    columns[0][1].set_ylabel("Dice, validation side of the split\n(kidney -, tumour :)")
    write_figure(path, figure, shown)
