"""A slice in numbers, without torch: its HU window, its orientation, the grid on which a network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from ..errors import InputError

HU_WINDOW = (0, 255)  # WP-UNet's: values below 0 and above 255 HU are cut, and 1 HU is one step of uint8


def check_window(hu_window: Sequence[float]) -> tuple[float, float]:
    """
    Raises:
        InputError: when a window is not two numbers, the lower first.
    """
    try:
        low, high = (float(value) for value in hu_window)
    except (TypeError, ValueError):
        low = high = 0
    if not low < high:
        raise InputError(f"hu_window: expected two Hounsfield units, the lower first, found {hu_window}.")
    return low, high


def window_hu(values: np.ndarray, hu_window: Sequence[float] = HU_WINDOW) -> np.ndarray:
    """Hounsfield units of any shape, cut to a window that is then stretched over 0 to 255; still of the same type."""
    low, high = hu_window
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low)))


def orient_to_ras(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """View of a volume (X, Y, Z) with its axes turned as near as they come to right, anterior, superior."""
    return apply_orientation(volume, ornt_transform(io_orientation(affine), axcodes2ornt("RAS")))


def make_axial(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """An empty uint8 array of an image's shape, in file order, whose axial slices lie in one piece of memory each."""
    axes = io_orientation(affine)[:, 0].astype(int)  # to which of right, anterior, superior every axis comes nearest
    lengths = np.array(shape)[np.argsort(axes)]
    return np.empty(lengths, np.uint8, order="F").transpose(axes)


def spacing_in_ras(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along the axes that `orient_to_ras` gives a volume with this affine (4, 4)."""
    return tuple(voxel_sizes(affine)[np.argsort(io_orientation(affine)[:, 0])].tolist())


@dataclass(frozen=True)
class GridNumbers:
    """
    The grid on which the network sees an axial slice. The first of the three that is given counts:

    Args:
        spatial_size: (height, width); every slice is squeezed to it, whatever its shape: the papers' way.
        factor: pixels are so many times smaller along each side; 0.5 halves height and width.
        pixel_mm: pixels have this size in mm, whatever the scanner gave them.
        divisor: after `factor` and `pixel_mm` zeros at the end of both axes make their lengths multiples of this, which
            a network with four poolings needs.

    Raises:
        InputError: when none is given, or one is not positive.

    Example:
        >>> GridNumbers(pixel_mm=1.6).scale((512, 512), (0.8, 0.8))
        (256, 256)
    """

    spatial_size: Sequence[int] | None = None
    factor: float | None = None
    pixel_mm: float | None = None
    divisor: int = 16

    def __post_init__(self) -> None:
        given = {"spatial_size": self.spatial_size, "factor": self.factor, "pixel_mm": self.pixel_mm}
        key, value = next(((k, v) for k, v in given.items() if v is not None), ("", 0))
        if not key:
            raise InputError("spatial_size: expected it, factor or pixel_mm, found none of them.")
        try:
            is_pair = key == "spatial_size" and len(value) == 2 and all(isinstance(length, int) for length in value)
            is_right = min(value) > 0 if is_pair else key != "spatial_size" and 0 < value < np.inf
        except TypeError:
            is_right = False
        if not is_right:
            expected = "two positive whole numbers" if key == "spatial_size" else "a positive number"
            raise InputError(f"{key}: expected {expected}, found {value}.")

    def scale(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int]:
        """
        Height and width that slices are resized to, before zeros are added.

        Args:
            shape: height and width of a slice.
            spacing_mm: size of its pixels along both.
        """
        if self.spatial_size is not None:
            return tuple(self.spatial_size)
        factors = [self.factor or spacing / self.pixel_mm for spacing in spacing_mm]
        return tuple(max(1, round(length * factor)) for length, factor in zip(shape, factors))

    def fill(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width that the network sees: those of `scale`, with zeros at the end as the divisor wants it."""
        return tuple(size if self.spatial_size is not None else (n + -n % self.divisor for n in size))
