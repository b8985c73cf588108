"""Segment a volume slice by slice, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer

AXIAL_AXIS = 4


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


def scale_intensity(slices: torch.Tensor) -> torch.Tensor:
    """Map uint8, the HU window [0, 255], to float [0, 1]; a floating-point tensor is taken as scaled already."""
    return slices if slices.is_floating_point() else slices.float() / 255


class AxialInferer(Inferer):
    """
    Segments every axial slice of one volume with a 2-D network and returns the label map on the volume's own grid.

        volume (1, 1, X, Y, Z) in RAS, uint8 HU window or float in [0, 1]
          a batch of axial slices (b, 1, X, Y) -- resize -- network --> logits (b, C, *spatial_size)
          -- resize back -- argmax --> uint8 (1, 1, X, Y, Z)

    One batch of slices is in flight at a time: beside the volume and its label map, memory does not grow with the
    number of slices, and nothing is resampled through the plane or twice.

    Args:
        spatial_size: height and width at which the network sees a slice.
        batch_size: slices per forward pass.
        device: where the network is; by default where the volume is.
    """

    def __init__(
        self, spatial_size: Sequence[int] = (256, 256), batch_size: int = 4, device: str | torch.device | None = None
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got batch_size={batch_size}.")
        self.spatial_size = tuple(spatial_size)
        self.batch_size = batch_size
        self.device = device

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: object, **kwargs: object
    ) -> torch.Tensor:
        """
        Args:
            inputs: (1, 1, X, Y, Z).
            network: maps (b, 1, *spatial_size) to logits (b, C, *spatial_size); further arguments are passed on.

        Returns:
            uint8 label map (1, 1, X, Y, Z) with the metadata of the input, on its device.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must have shape (1, 1, X, Y, Z), got {tuple(inputs.shape)}.")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        labels = torch.empty_like(volume, dtype=torch.uint8)
        for start in range(0, volume.shape[AXIAL_AXIS], self.batch_size):
            stop = start + self.batch_size
            slices = volume[0, ..., start:stop].permute(3, 0, 1, 2).to(self.device or volume.device)
            slices = resize_slices(scale_intensity(slices), self.spatial_size)
            with torch.no_grad():
                logits = resize_slices(network(slices, *args, **kwargs).float(), volume.shape[2:4])
            labels[0, ..., start:stop] = choose_classes(logits).to(labels).permute(1, 2, 0)
        if isinstance(inputs, MetaTensor):
            return MetaTensor(labels).copy_meta_from(inputs)
        return labels
