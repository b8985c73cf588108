"""Pictures of a segmentation."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..files import write_whole
from .volumes import LABELS

COLORS = {"kidney": "#00c8ff", "tumor": "#ff4d3d"}  # apart for colour-blind eyes too
LINE_STYLES = {"label": "solid", "prediction": "dashed"}


def choose_slice(label_map: np.ndarray) -> int:
    """Index along the last axis where most tumour is; where there is none, most kidney; else the middle."""
    for value in (LABELS["tumor"], LABELS["kidney"]):
        voxels = np.count_nonzero(label_map == value, axis=(0, 1))
        if voxels.any():
            return int(voxels.argmax())
    return label_map.shape[2] // 2


def draw_overlay(
    path: str | os.PathLike,
    title: str,
    image: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None = None,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> None:
    """
    Write a PNG of one axial slice with the contours of prediction and label, as seen from the feet, anterior up.

    Args:
        image: uint8 HU window (X, Y, Z) in RAS.
        prediction: label map on the image's grid.
        label: official label map on the same grid.
        spacing_mm: voxel size along X, Y, Z.
    """
    index = choose_slice(prediction if label is None else label)
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_title(f"{title}\naxial slice {index + 1} of {image.shape[2]}", fontsize=10)
    aspect = spacing_mm[1] / spacing_mm[0]
    axes.imshow(turn_axial(image[..., index]), cmap="gray", vmin=0, vmax=255, aspect=aspect)
    entries = []
    for source, label_map in (("label", label), ("prediction", prediction)):
        if label_map is None:
            continue
        for name, color in COLORS.items():
            # the kidney's contour goes around its tumour, as the official kidney class does
            mask = turn_axial(label_map[..., index]) >= LABELS[name]
            if mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=color, linewidths=1.2, linestyles=LINE_STYLES[source])
            pretty = "kidney and tumour" if name == "kidney" else "tumour"
            entries.append(Line2D([], [], color=color, linestyle=LINE_STYLES[source], label=f"{pretty}, {source}"))
    figure.legend(handles=entries, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def turn_axial(axial: np.ndarray) -> np.ndarray:
    """(X, Y) in RAS to (rows, columns) as radiologists look at it: from the feet."""
    return axial.T[::-1, ::-1]
