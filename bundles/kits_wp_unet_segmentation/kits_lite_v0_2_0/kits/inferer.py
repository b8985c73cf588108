"""Segment a volume slice by slice, or slab by slab, in constant memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices
from monai.inferers import Inferer, SlidingWindowInferer

from ..errors import InputError
from .axial import find_step, segment_volume, visit_slices
from .components import check_components, describe_removed, keep_components
from .preprocessing import SliceGrid, choose_classes, scale_intensity, spacing_in_ras


class AxialInferer(Inferer):
    """
    Segments the axial slices of one volume with a 2-D network and returns the label map on the volume's own grid.

        volume (1, 1, X, Y, Z) in RAS, uint8 HU window or float in [0, 1]
          a batch of axial slices (b, 1, X, Y) -- to the network's grid -- network --> logits (b, C, H, W)
          -- back to the slice's grid -- argmax --> uint8 (1, 1, X, Y, Z)

    One batch of slices is in flight at a time: beside the volume and its label map, memory does not grow with the
    number of slices, and nothing is resampled through the plane or twice.

    Args:
        grid: the grid on which the network sees a slice, or the height and width of one.
        batch_size: slices per forward pass.
        device: where the network is; by default where the volume is.
        mirror: see `segment_volume`.
        keep_largest, min_volume_ml: which connected pieces stay, see `keep_components`.
        fast: look at some slices only, see `find_step` and `visit_slices`.

    Raises:
        InputError: when an argument is not positive.
    """

    def __init__(
        self,
        grid: SliceGrid | Sequence[int] = (256, 256),
        batch_size: int = 4,
        device: str | torch.device | None = None,
        mirror: bool = False,
        keep_largest: int | str | None = None,
        min_volume_ml: float | None = None,
        fast: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size: expected a positive whole number, found {batch_size}.")
        self.grid = grid if isinstance(grid, SliceGrid) else SliceGrid(tuple(grid))
        self.batch_size = batch_size
        self.device = device
        check_components(keep_largest, min_volume_ml)
        self.mirror, self.keep_largest, self.min_volume_ml = mirror, keep_largest, min_volume_ml
        self.fast = fast

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: object, **kwargs: object
    ) -> torch.Tensor:
        """
        Args:
            inputs: (1, 1, X, Y, Z); a `MetaTensor` where the grid has pixels of a size in mm.
            network: maps (b, 1, H, W) to logits (b, C, H, W); further arguments are passed on.

        Returns:
            uint8 label map (1, 1, X, Y, Z) with the metadata of the input, on its device.

        Raises:
            InputError: when the grid needs the size of a voxel and the input does not tell it.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must have shape (1, 1, X, Y, Z), got {tuple(inputs.shape)}.")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        spacing_mm = self._find_spacing(inputs)
        if volume.device.type == "cpu" and self.device in (None, "cpu", torch.device("cpu")):
            labels = self._segment_on_cpu(volume, spacing_mm, network, *args, **kwargs)
        else:
            labels = self._segment_on_device(volume, spacing_mm, network, *args, **kwargs)
        if self.keep_largest or self.min_volume_ml:
            found = labels[0, 0].cpu().numpy()
            removed_ml = keep_components(found, spacing_mm, self.keep_largest, self.min_volume_ml)
            if told := describe_removed(removed_ml):
                name = inputs.meta.get("filename_or_obj", "inputs") if isinstance(inputs, MetaTensor) else "inputs"
                warnings.warn(f"{name}: {told}.", stacklevel=2)
            labels[0, 0] = torch.from_numpy(found)
        if isinstance(inputs, MetaTensor):
            return MetaTensor(labels).copy_meta_from(inputs)
        return labels

    def _segment_on_cpu(
        self, volume: torch.Tensor, spacing_mm: Sequence[float], network: Callable, *args: object, **kwargs: object
    ) -> torch.Tensor:
        def forward(slices: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return network(torch.from_numpy(slices), *args, **kwargs).float().numpy()

        forward, workers = getattr(network, "compute", forward), getattr(network, "workers", 1)
        array = volume[0, 0].numpy()
        arguments = self.grid, spacing_mm[:2], self.batch_size, workers
        every = find_step(self.fast, spacing_mm[2])
        labels = segment_volume(array, forward, *arguments, mirror=self.mirror, every=every)
        return torch.from_numpy(labels)[None, None]

    def _segment_on_device(
        self, volume: torch.Tensor, spacing_mm: Sequence[float], network: Callable, *args: object, **kwargs: object
    ) -> torch.Tensor:
        labels = torch.zeros_like(volume, dtype=torch.uint8)
        passes = visit_slices(labels, find_step(self.fast, spacing_mm[2]), self.batch_size)
        for part in (part for parts in passes for part in parts):
            axial = ..., slice(part.start, part.stop, part.step)
            slices = volume[0][axial].permute(3, 0, 1, 2).to(self.device or volume.device)
            slices = self.grid.enter(scale_intensity(slices), spacing_mm[:2])
            with torch.no_grad():
                logits = network(slices, *args, **kwargs).float()
                if self.mirror:
                    logits = (logits + network(slices.flip(2), *args, **kwargs).float().flip(2)) / 2
            logits = self.grid.leave(logits, volume.shape[2:4], spacing_mm[:2])
            labels[0][axial] = choose_classes(logits).to(labels).permute(1, 2, 0)
        return labels

    def _find_spacing(self, inputs: torch.Tensor) -> tuple[float, float, float]:
        if isinstance(inputs, MetaTensor):
            # a batch of one has the affine of the one, or a batch of affines
            return spacing_in_ras(inputs.affine.reshape(4, 4).cpu().numpy())
        if (self.grid.spatial_size is None and self.grid.factor is None) or self.min_volume_ml or self.fast:
            raise InputError(f"inputs: expected a MetaTensor, which tells the size of a pixel, found {type(inputs)}.")
        return (1.0, 1.0, 1.0)


class SlabInferer(AxialInferer):
    """
    Segments one volume with a 3-D network by patches that overlap, and never holds more than a slab of its logits.

        volume (1, 1, X, Y, Z) in RAS -- as many slices as a patch has, on the network's grid
          -- MONAI's SlidingWindowInferer --> logits of the slab, added to what the slab before left of them
          -- slices that no later slab reaches, back on their own grid -- argmax --> uint8 (1, 1, X, Y, Z)

    It finds what MONAI's `SlidingWindowInferer` finds in the whole volume, whose output would be a float for every
    class and voxel: patches of equal weight lie where that lays them, and a sum is largest where the mean is.

    Args:
        patch_size: height, width and slices of what the network sees at once, on its grid.
        overlap: share of a patch, along every axis, that the next one sees again.
        batch_size: patches per forward pass.
        others: see `AxialInferer`.

    Raises:
        InputError: when an argument is not positive, or the overlap not below 1.

    Example:
        >>> inferer = SlabInferer((256, 256), patch_size=(64, 64, 16))
        >>> inferer(torch.zeros(1, 1, 90, 80, 40), lambda x: torch.cat([x, x + 1], dim=1)).unique()
        tensor([1], dtype=torch.uint8)
    """

    def __init__(
        self,
        grid: SliceGrid | Sequence[int],
        patch_size: Sequence[int],
        overlap: float = 0.25,
        batch_size: int = 1,
        **others: object,
    ) -> None:
        super().__init__(grid, batch_size, **others)
        if len(patch_size) != 3 or not all(isinstance(length, int) and length > 0 for length in patch_size):
            raise InputError(f"patch_size: expected three positive whole numbers, found {patch_size}.")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap: expected a share from 0 on and below 1, found {overlap}.")
        self.patch_size, self.overlap = tuple(patch_size), overlap

    def _segment_on_device(
        self, volume: torch.Tensor, spacing_mm: Sequence[float], network: Callable, *args: object, **kwargs: object
    ) -> torch.Tensor:
        def predict(patches: torch.Tensor) -> torch.Tensor:
            logits = network(patches, *args, **kwargs).float()
            if self.mirror:
                logits = (logits + network(patches.flip(2), *args, **kwargs).float().flip(2)) / 2
            return logits

        patches = SlidingWindowInferer(self.patch_size, self.batch_size, self.overlap)
        labels = torch.empty_like(volume, dtype=torch.uint8)
        slices, in_plane_mm = volume.shape[-1], spacing_mm[:2]
        depth = min(self.patch_size[2], slices)
        slabs = dense_patch_slices((slices,), (depth,), (max(1, int(depth * (1 - self.overlap))),))
        left: torch.Tensor | None = None
        for (slab,), (following,) in zip(slabs, [*slabs[1:], (slice(slices, None),)]):
            entered = volume[0, ..., slab].permute(3, 0, 1, 2).to(self.device or volume.device)
            entered = self.grid.enter(scale_intensity(entered), in_plane_mm)
            with torch.no_grad():
                logits = patches(entered.permute(1, 2, 3, 0)[None], predict)[0].permute(3, 0, 1, 2)
            if left is not None:
                logits[: len(left)] += left
            done = following.start - slab.start
            left = logits[done:]
            classes = choose_classes(self.grid.leave(logits[:done], volume.shape[2:4], in_plane_mm))
            labels[0, 0, ..., slab.start : following.start] = classes.to(labels).permute(1, 2, 0)
        return labels

    _segment_on_cpu = _segment_on_device
