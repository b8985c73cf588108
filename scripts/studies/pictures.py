"""Pictures of the whole scan, seen from the front: what every network makes of it, beside the label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from common.files import write_whole
from common.kits.overlay import COLORS
from common.kits.volumes import LABELS


def draw_scan(
    path: Path, image: np.ndarray, label_maps: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...]
) -> None:
    """
    Draw label maps of one scan projected from front to back over the mean of the image, head up.

    Args:
        image: uint8 HU window (X, Y, Z) in RAS.
        label_maps: title and label map on the image's grid; tumour is drawn over kidney.
        spacing_mm: voxel size along X, Y, Z.
    """
    height = 2.6 * image.shape[2] * spacing_mm[2] / (image.shape[0] * spacing_mm[0]) + 0.3  # 0.3 inches for the title
    figure = Figure(figsize=(2.6 * len(label_maps), height), layout="constrained")
    aspect = spacing_mm[2] / spacing_mm[0]
    shown = {"cmap": ListedColormap([COLORS[name] for name in COLORS]), "vmin": 1, "vmax": 2, "alpha": 0.75}
    for axes, (title, label_map) in zip(figure.subplots(1, len(label_maps), squeeze=False)[0], label_maps.items()):
        axes.imshow(_turn(image.mean(axis=1)), cmap="gray", aspect=aspect)
        projected = np.ma.masked_equal(_turn(label_map.max(axis=1)), LABELS["background"])
        axes.imshow(projected, aspect=aspect, interpolation="nearest", **shown)
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _turn(projection: np.ndarray) -> np.ndarray:
    """(X, Z) in RAS as it is looked at from the front: the patient's right on the left, head up."""
    return projection.T[::-1, ::-1]
