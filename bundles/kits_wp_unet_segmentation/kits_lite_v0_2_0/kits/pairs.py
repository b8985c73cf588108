"""Any organ, any image: folders of image and label pairs, PNG or NIfTI, as slices that a network trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import PathLike
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from ..errors import InputError
from ..files import write_whole
from .cases import read_split, select_labelled, split_cases, write_split
from .preprocessing import check_window, window_hu
from .slices import SliceCache

FOLDERS = (("image", "label"), ("images", "labels"), ("imagesTr", "labelsTr"))
SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DIVISOR = 16  # of a network with four poolings


def find_pairs(folder: PathLike) -> list[dict[str, str]]:
    """
    The pairs of a folder, files of one name in `image` and `label`, in `images` and `labels`, or, as the Medical
    Segmentation Decathlon has them, in `imagesTr` and `labelsTr`.

    Returns:
        one dictionary a pair, in the order of their names: "case", "image", "label".

    Raises:
        InputError: when there are no such folders, they hold no image, or an image has no label; one line for each.
    """
    folder = Path(str(folder))
    place = next((names for names in FOLDERS if all((folder / name).is_dir() for name in names)), None)
    if place is None:
        expected = ", ".join(" and ".join(names) for names in FOLDERS)
        raise InputError(f"{folder}: expected folders {expected}, found none of these pairs.")
    images, labels = (_list_by_stem(folder / name) for name in place)
    if not images:
        raise InputError(f"{folder / place[0]}: expected images in {', '.join(SUFFIXES)}, found none.")
    if missing := [images[stem] for stem in images if stem not in labels]:
        expected = f"expected a label of this name in {place[1]}, found none."
        raise InputError("\n".join(f"{path}: {expected}" for path in missing))
    return [{"case": stem, "image": str(images[stem]), "label": str(labels[stem])} for stem in sorted(images)]


def _list_by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix and not path.name.startswith("."):
            stem = path.name[: -len(suffix)]
            if stem in found:
                raise InputError(f"{path}: expected one file a name, found {found[stem].name} too.")
            found[stem] = path
    return found


def split_pairs(
    dataset_dir: PathLike,
    record: PathLike,
    split_file: PathLike | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> dict[str, list[dict[str, str]]]:
    """The training and validation pairs of a folder, and a record of the split; as `make_split` does for cases."""
    pairs = find_pairs(dataset_dir)
    split = read_split(split_file) if split_file else split_cases(pairs, validation_fraction, seed)
    selected = {side: select_labelled(pairs, names) for side, names in split.items()}
    write_split(split, record)
    return selected


def read_pair(
    pair: Mapping[str, str], window: Sequence[float], label_values: Sequence[int], in_channels: int = 1
) -> np.ndarray:
    """
    Read a pair.

    Args:
        window: values that become 0 and 255.
        label_values: what stands for class 0, 1, ... in the label's file.
        in_channels: of the image; a NIfTI file of four axes has its channels last.

    Returns:
        uint8 (slices, in_channels + 1, H, W): the channels of the image, then the class; a picture is one slice, a
        volume is turned to RAS first and has axial ones.

    Raises:
        InputError: one line with what is wrong: a file that cannot be read, other channels, different sizes, or a value
            that stands for no class.
    """
    image, label = (_load(pair[key]) for key in ("image", "label"))
    if len(image) != in_channels:
        raise InputError(f"{pair['image']}: expected in_channels={in_channels} channels, found {len(image)}.")
    if len(label) != 1 or label.shape[1:] != image.shape[1:]:
        expected = f"one channel of the image's size, {_describe(image[:1])}"
        raise InputError(f"{pair['label']}: expected {expected}, found {_describe(label)}.")
    classes = np.full(label.shape[1:], 255, np.uint8)
    for number, value in enumerate(label_values):
        classes[label[0] == value] = number
    if (classes == 255).any():
        known = ", ".join(str(value) for value in label_values)
        raise InputError(f"{pair['label']}: expected labels {known}, found {label[0][classes == 255][0]:g}.")
    channels = window_hu(image.astype(np.float32), check_window(window)).astype(np.uint8)
    return np.ascontiguousarray(np.concatenate([channels, classes[None]]).transpose(3, 0, 1, 2))


def _load(path: str) -> np.ndarray:
    """(channels, X, Y, Z), one Z of a picture."""
    try:
        reader = "NibabelReader" if path.lower().endswith((".nii", ".nii.gz")) else "PILReader"
        image = LoadImage(reader, image_only=True, ensure_channel_first=True)(path)
    except Exception as error:  # of whatever reads the file
        raise InputError(f"{path}: expected an image, found a file that cannot be read.") from error
    if image.dim() == 3:
        return np.asarray(image)[..., None]
    if image.dim() != 4 or not isinstance(image, MetaTensor):
        raise InputError(f"{path}: expected a picture or a volume, found {image.dim() - 1} axes.")
    return np.asarray(Orientation(axcodes="RAS", labels=None)(image))


def _describe(image: np.ndarray) -> str:
    return f"{len(image)} of {' x '.join(map(str, image.shape[1:]))}"


class PairCache(SliceCache):
    """
    The slices of pairs, read once into `cache_dir` and mapped from there.

    Args:
        data: pairs, see `find_pairs`.
        cache_dir: one `.npy` file a pair, named after its files, their time of change, and the settings.
        class_names: background first; as many as the network has outputs.
        window, label_values, in_channels: see `read_pair`; by default a class is its own label.
        batch_size: slices of an item at the most.

    Raises:
        InputError: with one line for every pair that `read_pair` refuses.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        class_names: Sequence[str],
        window: Sequence[float] = (0, 255),
        label_values: Sequence[int] | None = None,
        in_channels: int = 1,
        batch_size: int = 8,
    ) -> None:
        values = list(range(len(class_names))) if label_values is None else list(label_values)
        if len(values) != len(class_names):
            raise InputError(
                f"label_values: expected one value for each of {', '.join(class_names)}, found {len(values)}."
            )
        self.case_names, self.batch_size, self.classes = [pair["case"] for pair in data], batch_size, len(class_names)
        self.files, problems = [], []
        for pair in data:
            files = [Path(pair[key]).resolve() for key in ("image", "label")]
            state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            digest = hashlib.sha256(repr([state, list(window), values, in_channels]).encode()).hexdigest()[:16]
            self.files.append(Path(cache_dir) / f"{pair['case']}-{digest}.npy")
            try:
                if not self.files[-1].is_file():
                    slices = read_pair(pair, window, values, in_channels)
                    with write_whole(self.files[-1]) as temporary:
                        np.save(temporary, slices)
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("\n".join(problems))
        self.volumes: list[np.ndarray] | None = None
        self.ends = np.cumsum([len(volume) for volume in self._map_volumes()]).tolist()


def _to_batch(slices: np.ndarray) -> dict[str, torch.Tensor]:
    """Slices (B, C + 1, H, W), uint8, as {"image": float (B, C, H, W) in [0, 1], "label": float (B, 1, H, W)}."""
    tensor = torch.from_numpy(slices).float()
    return {"image": tensor[:, :-1] / 255, "label": tensor[:, -1:]}


class PairSlices(PairCache):
    """
    Every slice once, whole, in batches that end where a pair ends; for `DataLoader(batch_size=None)`.

    Zeros at the end of both axes make their lengths multiples of 16.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        starts = [0, *self.ends[:-1]]
        self.batches = [
            range(first, min(first + self.batch_size, end))
            for start, end in zip(starts, self.ends)
            for first in range(start, end, self.batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = _to_batch(np.stack([self.get_slice(number) for number in self.batches[index]]))
        height, width = (-length % DIVISOR for length in batch["image"].shape[2:])
        return {key: F.pad(value, (0, width, 0, height)) for key, value in batch.items()}


class PairViews(PairCache):
    """
    Batches of square windows, drawn anew for every epoch; for `DataLoader(batch_size=None)`.

    What an index gives depends on seed, epoch and index alone.

    Args:
        side: of a window in pixels; zeros fill what lies beyond a smaller slice.
        foreground_share: of the windows that are sure to hold a pixel of a class other than 0; the others lie anywhere.
        views_per_epoch: windows of an epoch; None: as many as there are slices.
        seed: of all that is drawn; what else see `PairCache`.
    """

    kinds: tuple[str, ...] = ()  # none that the network finds

    def __init__(
        self,
        *args,
        side: int = 256,
        foreground_share: float = 0.5,
        views_per_epoch: int | None = None,
        seed: int = 0,
        **kwargs,
    ) -> None:
        if side < 1 or side % DIVISOR:
            raise InputError(f"side: expected a multiple of {DIVISOR}, found {side}.")
        if not 0 <= foreground_share <= 1:
            raise InputError(f"foreground_share: expected a number from 0 to 1, found {foreground_share}.")
        super().__init__(*args, **kwargs)
        self.side, self.foreground_share, self.seed, self.epoch = side, foreground_share, seed, 0
        self.labelled = np.flatnonzero([self.get_slice(number)[-1].any() for number in range(self.ends[-1])])
        if foreground_share and not len(self.labelled):
            raise InputError("dataset_dir: expected a label other than class 0 in the training pairs, found none.")
        self.num_batches = max(1, round((views_per_epoch or self.ends[-1]) / self.batch_size))

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of another epoch from now on."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Nothing: an epoch depends on seed and epoch alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over the state of another data set: nothing."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, self.epoch, index))
        return _to_batch(np.stack([self._draw(generator) for _ in range(self.batch_size)]))

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        on_foreground = generator.random() < self.foreground_share
        number = int(generator.choice(self.labelled) if on_foreground else generator.integers(self.ends[-1]))
        pixels = self.get_slice(number)
        shape = pixels.shape[1:]
        inside = np.flatnonzero(pixels[-1]) if on_foreground else None
        point = (
            np.unravel_index(generator.choice(inside), shape)
            if inside is not None
            else [generator.integers(length) for length in shape]
        )
        view = np.zeros((len(pixels), self.side, self.side), np.uint8)
        starts = [
            int(generator.integers(max(0, at - self.side + 1), min(at, length - self.side) + 1))
            if length > self.side
            else 0
            for at, length in zip(point, shape)
        ]
        cut = pixels[:, starts[0] : starts[0] + self.side, starts[1] : starts[1] + self.side]
        view[:, : cut.shape[1], : cut.shape[2]] = cut
        return view
