"""Where a network invents something, found while it is trained, and drawn more often from then on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.engines import Trainer
from torch import nn

from .preprocessing import choose_classes
from .slices import to_batch
from .views import ViewDataset

SEARCHED_AT_ONCE = 8

logger = logging.getLogger(__name__)


class HardViews:
    """
    Finds, at the end of an epoch, where the network invents kidney or tumour, and has such pixels drawn more often.

    A pixel counts that is called foreground and lies more than `margin` pixels away from all labelled ones: what lies
    nearer is a matter of the border. A slice weighs as much as it has such pixels, up to `most_weight`. Attach it
    before the `RunKeeper`, which keeps what was found for a resumed run.

    Args:
        network: the plain network, not its DistributedDataParallel wrapper.
        dataset: training views; its hard pixels are set.
        device: where the network is.
        interval: epochs between two searches.
        most_slices: slices that are looked through each time, drawn at random where there are more.
    """

    margin, most_weight, pixels_per_slice = 5, 400, 16

    def __init__(
        self,
        network: nn.Module,
        dataset: ViewDataset,
        device: torch.device,
        interval: int = 5,
        most_slices: int = 500,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.device = device
        self.interval = interval
        self.most_slices = most_slices

    def attach(self, engine: Trainer) -> None:
        """Hook into a trainer; nothing is done where no hard views are asked for."""
        if "hard" in self.dataset.kinds:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.search)

    def search(self, engine: Trainer) -> None:
        """Replace the hard pixels of the data set."""
        generator = np.random.default_rng((self.dataset.seed, engine.state.epoch))
        largest = self.dataset.drawable[max(self.dataset.sides)]
        pool = np.concatenate([largest["foreground"], largest["negative"]])
        numbers = generator.permutation(pool)[: self.most_slices]
        found = [torch.empty((0, 4), dtype=torch.int32)]
        is_training = self.network.training
        self.network.eval()
        # neighbours in size share a batch, so that little of it is padding
        numbers = sorted(numbers.tolist(), key=lambda number: self.dataset.get_slice(number).size)
        for first in range(0, len(numbers), SEARCHED_AT_ONCE):
            batch = numbers[first : first + SEARCHED_AT_ONCE]
            for number, invented in zip(batch, self._find_false(batch)):
                pixels = np.flatnonzero(invented)
                if len(pixels):
                    chosen = generator.permutation(pixels)[: self.pixels_per_slice]
                    rows, columns = np.unravel_index(chosen, invented.shape)
                    weight = max(1, round(min(len(pixels), self.most_weight) / len(chosen)))
                    table = np.broadcast_arrays(number, rows, columns, weight)
                    found.append(torch.tensor(np.stack(table, axis=1), dtype=torch.int32))
        self.network.train(is_training)
        self.dataset.set_hard(torch.cat(found))
        logger.info(f"invented something in {len(found) - 1} of {len(numbers)} whole slices")

    @torch.no_grad()
    def _find_false(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Where the network invents something in some slices: bool (H, W) each."""
        slices = [self.dataset.get_slice(number) for number in numbers]
        full = np.max([pixels.shape[1:] for pixels in slices], axis=0)
        stack = np.zeros((len(slices), 2, *full), np.uint8)
        for one, pixels in zip(stack, slices):
            one[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        image, label = (tensor.to(self.device) for tensor in to_batch(stack).values())
        predicted = choose_classes(self.network(self.dataset.grid.pad(image)))[:, : full[0], : full[1]]
        near = F.max_pool2d((label > 0).float(), 2 * self.margin + 1, 1, self.margin)[:, 0] > 0
        invented = ((predicted > 0) & ~near).cpu().numpy()
        return [mask[: pixels.shape[1], : pixels.shape[2]] for mask, pixels in zip(invented, slices)]
