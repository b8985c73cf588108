"""Axial slices of labelled volumes at the network's scale, prepared once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
import logging
import shutil
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from monai.transforms import Compose
from nibabel.orientations import io_orientation
from torch.utils.data import Dataset

from ..errors import InputError
from ..files import PathLike, write_whole
from .cases import name_case, read_case
from .preprocessing import (
    HU_WINDOW,
    SliceGrid,
    check_window,
    choose_classes,
    orient_to_ras,
    resize_slices,
    scale_intensity,
    spacing_in_ras,
)
from .volumes import LABELS, open_nifti

CACHE_FORMAT = 2  # raised whenever the same source and settings give other bytes
SLICES_AT_ONCE = 32

logger = logging.getLogger(__name__)


def prepare_slices(
    cases: Sequence[Mapping[str, str]],
    cache_dir: PathLike,
    grid: SliceGrid,
    hu_window: Sequence[float] = HU_WINDOW,
) -> list[Path]:
    """
    Put the axial slices of labelled volumes into a cache, checking every volume on the way.

    A volume becomes one `.npy` file of shape (slices, 2, H, W), uint8: image (HU window) and label, on the network's
    grid without its padding. The file's name follows from the source file, its size and time of change, and the
    settings, so a change of any prepares anew.
    Processes that prepare the same cache at once wait for each other.

    Args:
        cases: dictionaries with the paths "image" and "label".
        grid: what the network sees of a slice.
        hu_window: what 0 and 255 stand for.

    Returns:
        The cache file of every case.

    Raises:
        InputError: after all volumes were tried, with one line for each that `read_case` refuses; or when the disk is
            too small for the cache.
    """
    cache_dir = Path(str(cache_dir))
    settings = [CACHE_FORMAT, repr(grid), *check_window(hu_window)]
    problems: list[str] = []
    files: list[Path] = []
    missing: list[tuple[Mapping[str, str], Path]] = []
    for case in cases:
        try:
            files.append(cache_dir / _name_cache_file(case, settings))
        except InputError as error:
            problems.append(str(error))
            continue
        if not _is_whole(files[-1]):
            missing.append((case, files[-1]))
    if missing:
        _reserve_space(missing, cache_dir, grid)
    for case, file in missing:
        try:
            _prepare_case(case, file, grid, hu_window)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return files


def _name_cache_file(case: Mapping[str, str], settings: Sequence[object]) -> str:
    """<case>-<hash of paths and settings>-<hash of sizes and times>.npy"""
    for key in ("image", "label"):
        if not case.get(key) or not Path(case[key]).is_file():
            raise InputError(f"{case.get(key) or case['image']}: expected a file for the case's {key}, found none.")
    paths = [Path(case[key]).resolve() for key in ("image", "label")]
    source = hashlib.sha256(repr([str(p) for p in paths] + [*settings]).encode()).hexdigest()[:12]
    state = hashlib.sha256(repr([(p.stat().st_size, p.stat().st_mtime_ns) for p in paths]).encode()).hexdigest()[:12]
    return f"{name_case(paths[0])}-{source}-{state}.npy"


def _is_whole(file: Path) -> bool:
    """Whether a cache file is there and can be mapped; what a disk has damaged is prepared anew."""
    try:
        volume = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return volume.ndim == 4 and volume.shape[1] == 2 and volume.dtype == np.uint8


def _reserve_space(missing: Sequence[tuple[Mapping, Path]], cache_dir: Path, grid: SliceGrid) -> None:
    """Tell how large the cache will be, and stop where the disk is too small for it."""
    slices = size = 0
    for case, _ in missing:
        try:
            image = open_nifti(case["image"])
        except InputError:
            continue  # told with all other problems when it is prepared
        shape = np.array(image.shape)[np.argsort(io_orientation(image.affine)[:, 0])]
        slices += int(shape[2])
        size += 2 * int(shape[2] * np.prod(grid.scale(shape[:2], spacing_in_ras(image.affine)[:2])))
    cache_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_dir).free
    logger.info(f"slice cache: writing {len(missing)} volumes, {slices} slices, {size / 1e6:.1f} MB to {cache_dir}")
    if size > free:
        raise InputError(
            f"cache_dir: expected {size / 1e6:.0f} MB free in {cache_dir}, found {free / 1e6:.0f} MB;"
            " choose another with --cache_dir."
        )


def _prepare_case(case: Mapping[str, str], file: Path, grid: SliceGrid, hu_window: Sequence[float]) -> None:
    with FileLock(file.with_suffix(".lock")):
        if _is_whole(file):
            return
        image, label, affine = read_case(case, hu_window)
        image, label = orient_to_ras(image, affine), orient_to_ras(label, affine)
        size = grid.scale(image.shape[:2], spacing_in_ras(affine)[:2])
        slices = np.empty((image.shape[2], 2, *size), np.uint8)
        for start in range(0, len(slices), SLICES_AT_ONCE):
            where = slice(start, start + SLICES_AT_ONCE)
            slices[where, 0] = _resize(image[..., where], size, one_hot=False)
            slices[where, 1] = _resize(label[..., where], size, one_hot=True)
        with write_whole(file) as temporary:
            np.save(temporary, slices)
        for stale in file.parent.glob(f"{escape(file.name.rsplit('-', 1)[0])}-*.npy"):
            if stale != file:
                stale.unlink(missing_ok=True)


def _resize(volume: np.ndarray, size: Sequence[int], one_hot: bool) -> np.ndarray:
    """(X, Y, slices) uint8 -> (slices, *size) uint8; labels by the class that covers most of a pixel."""
    slices = torch.from_numpy(np.array(volume.transpose(2, 0, 1), order="C"))  # a copy: what is read may be read-only
    if one_hot:
        classes = F.one_hot(slices.long(), len(LABELS)).permute(0, 3, 1, 2).float()
        return choose_classes(resize_slices(classes, size)).numpy()
    return resize_slices(slices[:, None].float(), size)[:, 0].round().numpy()


class SliceCache(Dataset):
    """
    The prepared slices of labelled volumes, numbered through; the files are mapped, not read.

    Args:
        data: dictionaries with the paths "image" and "label" of whole volumes, as MONAI Label hands them over.
        cache_dir: where `prepare_slices` keeps its files.
        grid: what the network sees of a slice.
        hu_window: what 0 and 255 stand for.

    Raises:
        InputError: when `data` is empty or holds a bad volume, see `prepare_slices`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        grid: SliceGrid,
        hu_window: Sequence[float] = HU_WINDOW,
    ) -> None:
        if not data:
            raise InputError("dataset_dir: expected labelled cases, found none.")
        self.case_names = [name_case(case["image"]) for case in data]
        self.grid = grid
        self.files = prepare_slices(data, cache_dir, grid, hu_window)
        self.volumes: list[np.ndarray] | None = None
        self.ends = np.cumsum([len(volume) for volume in self._map_volumes()]).tolist()

    def get_slice(self, number: int) -> np.ndarray:
        """Image and label of a slice: uint8 (2, H, W)."""
        volume = bisect_right(self.ends, number)
        return self._map_volumes()[volume][number - (self.ends[volume - 1] if volume else 0)]

    def _map_volumes(self) -> list[np.ndarray]:
        if self.volumes is None:
            self.volumes = [np.load(file, mmap_mode="r") for file in self.files]
        return self.volumes

    def __getstate__(self) -> dict:
        # a worker process maps the files itself: pickling a memory map copies its bytes
        return self.__dict__ | {"volumes": None}


def to_batch(slices: np.ndarray) -> dict[str, torch.Tensor]:
    """Slices (B, 2, H, W), uint8, as {"image": float in [0, 1], "label": float}, each (B, 1, H, W)."""
    image, label = torch.from_numpy(np.array(slices.swapaxes(0, 1), order="C"))[:, :, None]
    return {"image": scale_intensity(image), "label": label.float()}


class SliceDataset(SliceCache):
    """
    Every slice of labelled volumes once and in order, whole, in batches that end where a volume ends.

    Item: {"image": float32 (b, 1, H, W) in [0, 1], "label": float32 (b, 1, H, W)} with b <= batch_size. To be loaded
    with `DataLoader(batch_size=None)`, since slices of two volumes may differ in size.

    Args:
        batch_size: slices of an item at the most; what else see `SliceCache`.

    Raises:
        InputError: see `SliceCache`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        grid: SliceGrid,
        hu_window: Sequence[float] = HU_WINDOW,
        batch_size: int = 4,
    ) -> None:
        super().__init__(data, cache_dir, grid, hu_window)
        starts = [0, *self.ends[:-1]]
        self.batches = [
            range(first, min(first + batch_size, end))
            for start, end in zip(starts, self.ends)
            for first in range(start, end, batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = to_batch(np.stack([self.get_slice(number) for number in self.batches[index]]))
        return {key: self.grid.pad(value) for key, value in batch.items()}


class VolumeDataset(SliceCache):
    """
    Labelled volumes on the network's grid one by one, whole or as the patches that a transform takes from them.

    Item: {"image": float32 (B, 1, H, W, slices) in [0, 1], "label": float32 of the same shape}, B the patches of one
    volume, or 1, to be loaded with `DataLoader(batch_size=None)`. With a transform every epoch takes the volumes in an
    order of its own; what an index gives depends on seed, epoch and index alone.

    Args:
        transform: MONAI's, from "image" and "label", (1, H, W, slices), to a list of them in one size.
        seed: of what the transform draws; what else see `SliceCache`.

    Raises:
        InputError: see `SliceCache`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        grid: SliceGrid,
        hu_window: Sequence[float] = HU_WINDOW,
        transform: Compose | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data, cache_dir, grid, hu_window)
        self.transform, self.seed = transform, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the patches of another epoch from now on."""
        self.epoch = epoch

    def state_dict(self) -> dict:
        """Nothing: an epoch depends on seed and epoch."""
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """See `state_dict`."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.transform is not None:
            index = np.random.default_rng((self.seed, self.epoch)).permutation(len(self))[index]
        batch = to_batch(self._map_volumes()[index])
        volume = {key: slices.permute(1, 2, 3, 0) for key, slices in batch.items()}
        if self.transform is None:
            return {key: value[None] for key, value in volume.items()}
        self.transform.set_random_state(seed=int(np.random.default_rng((self.seed, self.epoch, index)).integers(2**32)))
        patches = self.transform(volume)
        return {key: torch.stack([patch[key].as_tensor() for patch in patches]) for key in volume}
