"""The training data set: views, windows of one size drawn from whole slices, crops and slices without kidney alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..errors import InputError
from ..files import PathLike
from .preprocessing import HU_WINDOW, SliceGrid
from .slices import SliceCache, to_batch
from .volumes import LABELS

KINDS = ("foreground", "negative", "hard")
# a slice is drawn for a window only where its shorter side is so much of the window's
LEAST_COVER = 0.65
TUMOR_SHARE = 0.5  # of the foreground views of slices with tumour, those that are sure to show some of it


class ViewDataset(SliceCache):
    """
    Batches of views: windows at the network's scale, drawn anew for every epoch, all of a batch of one size.

    A view is of one of three kinds, by their shares:

        foreground   a window that holds a random pixel of kidney or tumour
        negative     a window anywhere in a slice without either
        hard         a window that holds a pixel in which the network lately invented something, see `set_hard`;
                     negative as long as none is known

    Crops have a smaller field of view than whole slices, and nearly all hold kidney. So that cut edges tell nothing,
    all other views are first cut to the field of view of a random slice with kidney; zeros fill what lies beyond.

    What an index gives depends on seed, epoch, index and the hard pixels alone, not on the process or worker that asks.

    Item: {"image": float32 (batch_size, 1, H, W) in [0, 1], "label": float32 of the same shape}, for
    `DataLoader(batch_size=None)`.

    Args:
        view_shares: how often views of each kind are drawn, relative to each other.
        windows: sides of the square windows in pixels, and how often a batch has each, relative to each other.
        views_per_epoch: views of an epoch; None: so many that foreground views are as many as slices with kidney.
        batch_size: views of an item.
        seed: of all that is drawn; what else see `SliceCache`.

    Raises:
        InputError: when a share, a size or a number is wrong, a kind or size is asked for that the slices do not have,
            or a volume is bad, see `prepare_slices`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        cache_dir: PathLike,
        grid: SliceGrid,
        hu_window: Sequence[float] = HU_WINDOW,
        view_shares: Mapping[str, float] | None = None,
        windows: Mapping[str | int, float] | None = None,
        views_per_epoch: int | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        shares = view_shares or {"foreground": 1}
        if not isinstance(shares, Mapping):
            raise InputError(f"view_shares: expected kinds of views and their shares, found {shares}.")
        if unknown := set(shares) - set(KINDS):
            raise InputError(f"view_shares: expected {', '.join(KINDS)}, found {', '.join(sorted(unknown))}.")
        self.kinds = [kind for kind in KINDS if shares.get(kind)]
        self.kind_shares = _normalize("view_shares", [shares[kind] for kind in self.kinds])
        windows = windows or {160: 0.75, 256: 0.25}
        try:
            self.sides = [int(side) for side, share in windows.items() if share]
        except (AttributeError, ValueError) as error:
            raise InputError(f"windows: expected sides in pixels and their shares, found {windows}.") from error
        if any(side < 1 or side % grid.divisor for side in self.sides):
            raise InputError(f"windows: expected multiples of {grid.divisor} pixels, found {self.sides}.")
        self.side_shares = _normalize("windows", [share for share in windows.values() if share])
        for key, value in (("batch_size", batch_size), ("views_per_epoch", views_per_epoch)):
            if value is not None and value < 1:
                raise InputError(f"{key}: expected a positive number, found {value}.")
        super().__init__(data, cache_dir, grid, hu_window)
        self.batch_size, self.seed = batch_size, seed

        volumes = self._map_volumes()
        self.shapes = np.concatenate([[volume.shape[2:]] * len(volume) for volume in volumes])
        classes = np.concatenate([volume[:, 1].max(axis=(1, 2)) for volume in volumes])
        self.labelled, self.negatives = np.flatnonzero(classes > 0), np.flatnonzero(classes == 0)
        self._check_kinds()
        if views_per_epoch is None:
            foreground = self.kind_shares[self.kinds.index("foreground")]
            views_per_epoch = round(len(self.labelled) / foreground)
        self.num_batches = max(1, round(views_per_epoch / batch_size))
        self.hard = torch.empty((0, 4), dtype=torch.int32)
        self.set_epoch(0)

    def _check_kinds(self) -> None:
        if not len(self.labelled):
            raise InputError("dataset_dir: expected slices with kidney or tumour in the training cases, found none.")
        if "foreground" not in self.kinds:
            raise InputError("view_shares: expected a share of foreground views above 0, found none.")
        self.drawable = {}
        for side in self.sides:
            covers = self.shapes.min(axis=1) >= LEAST_COVER * side
            pools = {"foreground": self.labelled, "negative": self.negatives}
            self.drawable[side] = {kind: pool[covers[pool]] for kind, pool in pools.items()}
            for kind, pool in self.drawable[side].items():
                if kind in self.kinds and not len(pool):
                    what = "with kidney" if kind == "foreground" else "without kidney"
                    raise InputError(
                        f"windows: expected slices {what} of at least {round(LEAST_COVER * side)} pixels for {kind}"
                        f" views of {side} x {side}, found none; the largest slice has {self.shapes.min(axis=1).max()}."
                        f" Set view_shares#{kind}, or the window in windows, to 0."
                    )

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of another epoch from now on."""
        self.epoch = epoch

    def set_hard(self, pixels: torch.Tensor) -> None:
        """
        Take over where the network invents something.

        Args:
            pixels: int32 (n, 4): number of the slice, row and column in it, weight.
        """
        self.hard = pixels

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What an epoch depends on beside seed and epoch."""
        return {"hard": self.hard}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what another data set of the same slices knew."""
        self.hard = state["hard"]

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, self.epoch, index))
        side = int(generator.choice(self.sides, p=self.side_shares))
        kinds = generator.choice(self.kinds, self.batch_size, p=self.kind_shares)
        return to_batch(np.stack([self._draw(kind, side, generator) for kind in kinds]))

    def _draw(self, kind: str, side: int, generator: np.random.Generator) -> np.ndarray:
        """One view: uint8 (2, side, side)."""
        number, point = self._pick(kind, side, generator)
        pixels = self.get_slice(number)
        view = np.zeros((2, side, side), np.uint8)
        labelled = number if kind == "foreground" else generator.choice(self.drawable[side]["foreground"])
        field = self.shapes[labelled]
        source, target = [], []
        for length, seen, at in zip(pixels.shape[1:], field, point):
            first = _place(length, seen, at, generator)
            last = min(first + seen, length)
            if last - first > side:
                first += _place(last - first, side, at - first, generator)
                last = first + side
            offset = generator.integers(side - (last - first) + 1)
            source.append(slice(first, last))
            target.append(slice(offset, offset + last - first))
        view[:, target[0], target[1]] = pixels[:, source[0], source[1]]
        return view

    def _pick(self, kind: str, side: int, generator: np.random.Generator) -> tuple[int, Sequence[int]]:
        """A slice, and a pixel of it that the view must hold."""
        if kind == "hard" and len(self.hard):
            weights = self.hard[:, 3].double().numpy()
            row = generator.choice(len(weights), p=weights / weights.sum())
            number, *point = self.hard[row, :3].tolist()
            return number, point
        if kind == "foreground" or not len(self.negatives):
            number = generator.choice(self.drawable[side]["foreground"])
            label = self.get_slice(number)[1]
            inside = np.flatnonzero(label == LABELS["tumor"]) if generator.random() < TUMOR_SHARE else ()
            inside = inside if len(inside) else np.flatnonzero(label)
            return number, np.unravel_index(generator.choice(inside), label.shape)
        number = generator.choice(self.drawable[side]["negative"])
        return number, [generator.integers(length) for length in self.shapes[number]]


def _place(length: int, extent: int, point: int, generator: np.random.Generator) -> int:
    """Where an interval of some extent begins that holds a point and lies within a length; 0 where it is longer."""
    if extent >= length:
        return 0
    return int(generator.integers(max(0, point - extent + 1), min(point, length - extent) + 1))


def _normalize(key: str, shares: Sequence[float]) -> np.ndarray:
    try:
        values = np.array(shares, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if not len(values) or not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        raise InputError(f"{key}: expected shares of 0 or more, one of them above 0, found {list(shares)}.")
    return values / values.sum()
