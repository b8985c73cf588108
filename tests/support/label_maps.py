"""Label maps drawn by hand, for the tests of metrics."""

from __future__ import annotations

import numpy as np


def draw_boxes(shape: tuple[int, ...], *boxes: tuple[int, ...], label: int = 2) -> np.ndarray:
    """Label map with boxes (start, stop) x 3."""
    volume = np.zeros(shape, np.uint8)
    for x0, x1, y0, y1, z0, z1 in boxes:
        volume[x0:x1, y0:y1, z0:z1] = label
    return volume
