"""The training data set: axial slices of volumes, prepared once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
import logging
import shutil
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from monai.config import PathLike
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch.utils.data import Dataset

from ..errors import InputError
from ..files import replace_file
from .cases import name_case, read_case
from .inferer import choose_classes, resize_slices, scale_intensity
from .volumes import LABELS, open_nifti

CACHE_FORMAT = 1  # raised whenever the same source and settings give other bytes
SLICES_AT_ONCE = 32

logger = logging.getLogger(__name__)


def orient_to_ras(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """View of a volume (X, Y, Z) with its axes turned as near as they come to right, anterior, superior."""
    return apply_orientation(volume, ornt_transform(io_orientation(affine), axcodes2ornt("RAS")))


def prepare_slices(cases: Sequence[Mapping[str, str]], cache_dir: PathLike, spatial_size: Sequence[int]) -> list[Path]:
    """
    Put the axial slices of labelled volumes into a cache, checking every volume on the way.

    A volume becomes one `.npy` file of shape (slices, 2, *spatial_size), uint8: image (HU window) and label. The file's
    name follows from the source file, its size and time of change, and the settings, so a change of any prepares anew.
    Processes that prepare the same cache at once wait for each other.

    Args:
        cases: dictionaries with the paths "image" and "label".

    Returns:
        The cache file of every case.

    Raises:
        InputError: after all volumes were tried, with one line for each that `read_case` refuses; or when the disk is
            too small for the cache.
    """
    cache_dir = Path(cache_dir)
    problems: list[str] = []
    files: list[Path] = []
    missing: list[tuple[Mapping[str, str], Path]] = []
    for case in cases:
        try:
            files.append(cache_dir / _name_cache_file(case, spatial_size))
        except InputError as error:
            problems.append(str(error))
            continue
        if not files[-1].is_file():
            missing.append((case, files[-1]))
    if missing:
        _reserve_space(missing, cache_dir, spatial_size)
    for case, file in missing:
        try:
            _prepare_case(case, file, spatial_size)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return files


def _name_cache_file(case: Mapping[str, str], spatial_size: Sequence[int]) -> str:
    """<case>-<hash of paths and settings>-<hash of sizes and times>.npy"""
    for key in ("image", "label"):
        if not case.get(key) or not Path(case[key]).is_file():
            raise InputError(f"{case.get(key) or case['image']}: expected a file for the case's {key}, found none.")
    paths = [Path(case[key]).resolve() for key in ("image", "label")]
    source = hashlib.sha256(repr([str(p) for p in paths] + [CACHE_FORMAT, *spatial_size]).encode()).hexdigest()[:12]
    state = hashlib.sha256(repr([(p.stat().st_size, p.stat().st_mtime_ns) for p in paths]).encode()).hexdigest()[:12]
    return f"{name_case(paths[0])}-{source}-{state}.npy"


def _reserve_space(missing: Sequence[tuple[Mapping, Path]], cache_dir: Path, spatial_size: Sequence[int]) -> None:
    """Tell how large the cache will be, and stop where the disk is too small for it."""
    slices = 0
    for case, _ in missing:
        try:
            image = open_nifti(case["image"])
        except InputError:
            continue  # told with all other problems when it is prepared
        axial_axis = io_orientation(image.affine)[:, 0].tolist().index(2)
        slices += image.shape[axial_axis]
    size = slices * 2 * int(np.prod(spatial_size))
    cache_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_dir).free
    logger.info(f"slice cache: writing {len(missing)} volumes, {slices} slices, {size / 1e6:.1f} MB to {cache_dir}")
    if size > free:
        raise InputError(
            f"cache_dir: expected {size / 1e6:.0f} MB free in {cache_dir}, found {free / 1e6:.0f} MB;"
            " choose another with --cache_dir."
        )


def _prepare_case(case: Mapping[str, str], file: Path, spatial_size: Sequence[int]) -> None:
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            return
        image, label, affine = read_case(case)
        image, label = orient_to_ras(image, affine), orient_to_ras(label, affine)
        slices = np.empty((image.shape[2], 2, *spatial_size), np.uint8)
        for start in range(0, len(slices), SLICES_AT_ONCE):
            where = slice(start, start + SLICES_AT_ONCE)
            slices[where, 0] = _resize(image[..., where], spatial_size, one_hot=False)
            slices[where, 1] = _resize(label[..., where], spatial_size, one_hot=True)
        with replace_file(file) as temporary:
            np.save(temporary, slices)
        for stale in file.parent.glob(f"{escape(file.name.rsplit('-', 1)[0])}-*.npy"):
            if stale != file:
                stale.unlink(missing_ok=True)


def _resize(volume: np.ndarray, spatial_size: Sequence[int], one_hot: bool) -> np.ndarray:
    """(X, Y, slices) uint8 -> (slices, *spatial_size) uint8; labels by the class that covers most of a pixel."""
    slices = torch.from_numpy(np.ascontiguousarray(volume.transpose(2, 0, 1)))
    if one_hot:
        classes = F.one_hot(slices.long(), len(LABELS)).permute(0, 3, 1, 2).float()
        return choose_classes(resize_slices(classes, spatial_size)).numpy()
    return resize_slices(slices[:, None].float(), spatial_size)[:, 0].round().numpy()


class SliceDataset(Dataset):
    """
    Axial slices of labelled volumes, with a stated share of slices that hold kidney or tumour.

    One epoch is every slice with kidney or tumour once, and as many others, drawn anew each epoch, as the share leaves
    room for. What an index gives depends on seed, epoch and index alone, not on the process or worker that asks.

    Item: {"image": float32 (1, *spatial_size) in [0, 1], "label": float32 (1, *spatial_size)}, then `transform`.

    Args:
        data: dictionaries with the paths "image" and "label" of whole volumes, as MONAI Label hands them over.
        cache_dir: where `prepare_slices` keeps its files.
        spatial_size: height and width of the slices.
        foreground_share: share of an epoch's slices that hold kidney or tumour, in (0, 1]; None takes every slice once.
        transform: a MONAI dictionary transform of one item.
        seed: of the slices drawn and of the transform.

    Raises:
        InputError: when `data` is empty, holds a bad volume (see `prepare_slices`), or a share is asked for and no
            slice holds kidney or tumour.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        spatial_size: Sequence[int] = (256, 256),
        foreground_share: float | None = 0.75,
        transform: Callable | None = None,
        seed: int = 0,
    ) -> None:
        if foreground_share is not None and not 0 < foreground_share <= 1:
            raise InputError(f"foreground_share: expected a number in (0, 1], found {foreground_share}.")
        if not data:
            raise InputError("dataset_dir: expected labelled cases, found none.")
        self.case_names = [name_case(case["image"]) for case in data]
        self.transform = transform
        self.seed = seed
        self.files = prepare_slices(data, cache_dir, spatial_size)
        self.volumes: list[np.ndarray] | None = None
        volumes = self._map_volumes()
        self.ends = np.cumsum([len(volume) for volume in volumes]).tolist()
        if foreground_share is None:
            self.foreground, self.others = np.arange(self.ends[-1]), np.arange(0)
        else:
            holds = np.concatenate([[slices[1].any() for slices in volume] for volume in volumes])
            self.foreground, self.others = np.flatnonzero(holds), np.flatnonzero(~holds)
            if not len(self.foreground):
                raise InputError(
                    "dataset_dir: expected slices with kidney or tumour in the training cases, found none."
                )
        share = foreground_share or 1
        self.num_others = min(len(self.others), round(len(self.foreground) * (1 - share) / share))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the slices of an epoch."""
        self.epoch = epoch
        generator = np.random.default_rng((self.seed, epoch))
        drawn = generator.choice(self.others, self.num_others, replace=False) if self.num_others else self.others[:0]
        self.indices = np.concatenate([self.foreground, drawn])

    def _map_volumes(self) -> list[np.ndarray]:
        if self.volumes is None:
            self.volumes = [np.load(file, mmap_mode="r") for file in self.files]
        return self.volumes

    def __getstate__(self) -> dict:
        # a worker process maps the files itself: pickling a memory map copies its bytes
        return self.__dict__ | {"volumes": None}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        number = int(self.indices[index])
        volume = bisect_right(self.ends, number)
        slices = self._map_volumes()[volume][number - (self.ends[volume - 1] if volume else 0)]
        image, label = torch.from_numpy(slices.copy())[:, None]
        item = {"image": scale_intensity(image), "label": label.float()}
        if self.transform is None:
            return item
        if hasattr(self.transform, "set_random_state"):
            state = np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)[0]
            self.transform.set_random_state(seed=int(state))
        return self.transform(item)
