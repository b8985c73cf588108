"""Augmentation of whole batches, on the device where the network is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from kornia.augmentation import AugmentationSequential
from kornia.constants import DataKey
from torch import nn


class AugmentBatch:
    """
    `prepare_batch` of a MONAI trainer: moves a batch to the device and augments image and label together there.

    The random numbers are torch's own, so a seed gives the same batches again.

    Args:
        augmentations: kornia's, applied one after the other; geometric ones move labels as images, nearest neighbour.
        saturation: share of the images that lose what is darkest and brightest, as in pictures that were saved with a
            narrow window: up to `darkest` and down to `brightest`.
        darkest, brightest: bounds of what is lost, in [0, 1].

    Example:
        >>> from kornia.augmentation import RandomVerticalFlip
        >>> batch = {"image": torch.rand(2, 1, 32, 32), "label": torch.zeros(2, 1, 32, 32)}
        >>> image, label = AugmentBatch([RandomVerticalFlip(p=0.5)])(batch)
        >>> image.shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(
        self,
        augmentations: Sequence[nn.Module],
        saturation: float = 0.0,
        darkest: float = 0.4,
        brightest: float = 0.9,
    ) -> None:
        nearest = {DataKey.MASK: {"resample": "nearest", "align_corners": False}}
        self.augment = AugmentationSequential(*augmentations, data_keys=["image", "mask"], extra_args=nearest)
        self.saturation, self.darkest, self.brightest = saturation, darkest, brightest

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            batchdata: "image" (B, 1, H, W) in [0, 1] and "label" of the same shape.

        Returns:
            image and label, augmented, on the device.
        """
        image, label = (
            batchdata[key].as_subclass(torch.Tensor).to(device, non_blocking=non_blocking) for key in ("image", "label")
        )
        if self.saturation:
            cut = (torch.rand(len(image), device=image.device) < self.saturation).float()[:, None, None, None]
            low, high = torch.rand(2, len(image), 1, 1, 1, device=image.device)
            low, high = cut * low * self.darkest, 1 - cut * high * (1 - self.brightest)
            image = image.maximum(low).minimum(high)
        image, label = self.augment(image, label)
        return image.clamp(0, 1), label
