"""What stands between a CT volume and the network, and between its logits and the label map: the one place for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .geometry import HU_WINDOW, GridNumbers, check_window, orient_to_ras, spacing_in_ras, window_hu

__all__ = ["HU_WINDOW", "SliceGrid", "check_window", "choose_classes", "orient_to_ras", "resize_slices"]
__all__ += ["scale_intensity", "spacing_in_ras", "window_hu"]


def scale_intensity(slices: torch.Tensor) -> torch.Tensor:
    """Map uint8, the HU window, to float [0, 1]; a floating-point tensor is taken as scaled already."""
    return slices if slices.is_floating_point() else slices.float() / 255


def resize_slices(slices: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """
    Resize a batch of float slices (B, C, H, W), bilinear, averaging over the pixels that a smaller grid merges.

    The one resize of the project: images and labels on the way in, logits on the way back.
    """
    if tuple(slices.shape[2:]) == tuple(size):
        return slices
    return F.interpolate(slices, size=tuple(size), mode="bilinear", antialias=True)


def choose_classes(slices: torch.Tensor) -> torch.Tensor:
    """
    The class of every pixel: the channel (B, H, W) in which slices (B, C, H, W) are largest, the first of equals.

    By `max`, because on a CPU `argmax` over any but the last axis takes longer than a small network does.
    """
    return slices.max(dim=1).indices


class SliceGrid(GridNumbers):
    """The grid on which the network sees an axial slice, with the tensors of it; its arguments see `GridNumbers`."""

    def pad(self, slices: torch.Tensor) -> torch.Tensor:
        """Add zeros at the end of the last two axes as far as the divisor wants it."""
        height, width = (full - length for full, length in zip(self.fill(slices.shape[-2:]), slices.shape[-2:]))
        return F.pad(slices, (0, width, 0, height)) if height or width else slices

    def enter(self, slices: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
        """Slices (B, C, H, W), float, as the network sees them."""
        return self.pad(resize_slices(slices, self.scale(slices.shape[2:], spacing_mm)))

    def leave(self, logits: torch.Tensor, shape: Sequence[int], spacing_mm: Sequence[float]) -> torch.Tensor:
        """What the network made of slices of a shape (H, W), back on their own grid: (B, C, H, W)."""
        height, width = self.scale(shape, spacing_mm)
        return resize_slices(logits[..., :height, :width], shape)
