"""Hard views: where a network invents something, found after an epoch and drawn in the next."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.kits.hard_views import HardViews
from common.kits.preprocessing import SliceGrid
from common.kits.views import ViewDataset


@pytest.fixture
def hard_views(write_case, tmp_path):
    """Views of two whole slices and what is searched in them: the first has a kidney, both a bright spot."""
    image = np.full((48, 48, 2), -100, np.int16)
    image[4:8, 30:34] = 255
    image[20:30, 10:20, 0] = 255
    label = np.zeros(image.shape, np.uint8)
    label[22:28, 12:18, 0] = 1  # what is bright and near counts as its border
    shares = {"foreground": 1, "hard": 1}
    data = [write_case(image, label)]
    grid = SliceGrid(factor=1)
    return ViewDataset(data, tmp_path / "cache", grid, view_shares=shares, windows={48: 1}, views_per_epoch=16)


class Threshold(nn.Module):
    """Calls bright pixels kidney."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(image, 0.5), image], dim=1)


def search(views: ViewDataset, network: nn.Module, epochs: int = 2) -> None:
    engine = Engine(lambda engine, batch: None)
    HardViews(network, views, torch.device("cpu"), interval=2).attach(engine)
    engine.run([0], max_epochs=epochs)


def test_pixels_that_a_network_invents_away_from_the_label_are_hard(hard_views):
    network = Threshold()
    search(hard_views, network, epochs=1)
    assert len(hard_views.hard) == 0  # not yet
    search(hard_views, network)
    assert network.training
    numbers, rows, columns, weights = hard_views.hard.T
    assert sorted(numbers.tolist()) == [0] * 16 + [1] * 16 and set(weights.tolist()) == {1}
    assert rows.min() >= 4 and rows.max() < 8 and columns.min() >= 30 and columns.max() < 34


def test_a_network_that_invents_nothing_leaves_no_hard_pixels_behind(hard_views):
    search(hard_views, Threshold())
    assert len(hard_views.hard)
    search(hard_views, nn.Sequential(Threshold(), nn.ZeroPad2d(0), nn.Threshold(2.0, 0.0)))
    assert hard_views.hard.shape == (0, 4)
