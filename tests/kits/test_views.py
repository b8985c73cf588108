"""The training views: drawn by their shares, the same for all who ask, and nothing about their form tells a kidney."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from refusals import error_lines
from torch.utils.data import DataLoader

from common.kits.preprocessing import SliceGrid
from common.kits.views import ViewDataset

GRID = SliceGrid(factor=1)
BODY = 50  # HU, everywhere: what is 0 in a view lies outside of the image
SHARES = {"foreground": 0.5, "negative": 0.5}


@pytest.fixture
def make_set(write_case, tmp_path):
    """Crops with kidney and tumour, whole slices with kidney, and whole slices without, told apart by their HU."""

    def write(name, side, count, hu, label_value):
        image = np.full((side, side, count), hu, np.int16)
        label = np.zeros((side, side, count), np.uint8)
        image[0, 0] = -500  # values of a CT
        if label_value:
            label[side // 4 : side // 4 + 6, side // 3 : side // 3 + 6] = 1
            label[side // 4 : side // 4 + 2, side // 3 : side // 3 + 2] = label_value
        return write_case(image, label, case=name)

    data = [write("case_00001", 40, 6, 51, 2), write("case_00002", 64, 4, 102, 1), write("case_90001", 64, 5, 204, 0)]

    def make(shares=SHARES, windows={32: 1}, cases=data, **arguments):  # noqa: B006
        arguments = {"views_per_epoch": 400, "batch_size": 8} | arguments
        return ViewDataset(cases, tmp_path / "cache", GRID, view_shares=shares, windows=windows, **arguments)

    make.data = data
    return make


def views(data_set):
    """Image and label (n, H, W) of all views of an epoch, in steps of uint8."""
    batches = [data_set[i] for i in range(len(data_set))]
    image, label = (torch.cat([batch[key][:, 0] for batch in batches]) for key in ("image", "label"))
    return (image * 255).round().numpy(), label.numpy()


def test_shares_decide_how_often_a_kind_is_drawn_and_foreground_views_hold_foreground(make_set):
    images, labels = views(make_set({"foreground": 3, "negative": 1}))
    assert images.shape == (400, 32, 32)
    negative = images.max(axis=(1, 2)) == 204
    assert 0.18 < negative.mean() < 0.32
    assert not labels[negative].any() and labels[~negative].any(axis=(1, 2)).all()
    # crops and whole slices alike, tumour more often than slices have it
    assert set(np.unique(images.max(axis=(1, 2)))) == {51, 102, 204}
    assert (labels == 2).any()


def test_a_window_shows_a_piece_of_its_slice_upright(make_set):
    data_set = make_set({"foreground": 1}, cases=make_set.data[:1])
    slices = np.load(data_set.files[0])
    for image, label in zip(*views(data_set)):
        rows, columns = np.nonzero(image)
        piece = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        found = label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert piece.shape == (32, 32)
        starts = [
            (y, x) for y in range(9) for x in range(9) if np.array_equal(slices[0, 1, y : y + 32, x : x + 32], found)
        ]
        assert starts and (piece > 0).sum() >= 32 * 32 - 1


@pytest.mark.parametrize("side", [32, 48])
def test_neither_cut_edges_nor_sizes_tell_a_kidney(make_set, side):
    """Windows larger than a crop show as much of a negative slice as of a crop."""
    images, _ = views(make_set({"foreground": 1, "negative": 1}, {side: 1}, views_per_epoch=2000))
    negative = images.max(axis=(1, 2)) == 204
    seen = [(images[kind] > 0).any(axis=1).sum(axis=1) for kind in (negative, ~negative)]
    assert set(np.unique(seen[0])) == set(np.unique(seen[1]))
    for width in np.unique(seen[0]):
        assert abs((seen[0] == width).mean() - (seen[1] == width).mean()) < 0.15


def test_every_batch_has_one_size_and_sizes_their_shares(make_set):
    data_set = make_set(windows={"32": 0.75, "48": 0.25, "500": 0}, views_per_epoch=1600)
    sizes = [tuple(data_set[i]["image"].shape) for i in range(len(data_set))]
    assert set(sizes) == {(8, 1, 32, 32), (8, 1, 48, 48)}
    assert 0.65 < np.mean([size[2] == 32 for size in sizes]) < 0.85


def test_hard_pixels_are_drawn_by_their_weight_and_until_there_are_any_negatives_are(make_set):
    data_set = make_set({"foreground": 1, "hard": 1})
    assert (views(data_set)[0].max(axis=(1, 2)) == 204).mean() > 0.4
    # slice 6 is a whole one with kidney, 12 one without
    data_set.set_hard(torch.tensor([[6, 60, 60, 300], [12, 5, 60, 100]], dtype=torch.int32))
    images, labels = views(data_set)
    hard = ~labels.any(axis=(1, 2))
    assert 0.4 < hard.mean() < 0.6
    assert 0.15 < (images[hard].max(axis=(1, 2)) == 204).mean() < 0.35
    state = pickle.loads(pickle.dumps(data_set.state_dict()))
    again = make_set({"foreground": 1, "hard": 1})
    again.load_state_dict(state)
    assert torch.equal(again[3]["image"], data_set[3]["image"])


def test_a_batch_depends_on_seed_epoch_and_index_alone(make_set):
    first, same, other = make_set(), make_set(), make_set(seed=1)
    backwards = {i: same[i] for i in reversed(range(len(same)))}
    assert all(torch.equal(first[i]["image"], backwards[i]["image"]) for i in range(len(first)))
    assert not all(torch.equal(first[i]["image"], other[i]["image"]) for i in range(len(first)))
    before = first[0]["image"]
    first.set_epoch(1)
    assert not torch.equal(first[0]["image"], before)
    first.set_epoch(0)
    assert torch.equal(first[0]["image"], before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_number_of_workers_gives_the_same_batches(make_set, num_workers):
    data_set = make_set(views_per_epoch=40)
    loaded = DataLoader(data_set, batch_size=None, num_workers=num_workers)
    for index, batch in enumerate(loaded):
        assert all(torch.equal(batch[key], data_set[index][key]) for key in ("image", "label"))
    assert index == 4


def test_without_a_number_an_epoch_shows_as_many_foreground_views_as_there_are_slices_with_kidney(make_set):
    assert len(make_set(views_per_epoch=None, batch_size=1)) == 20
    assert len(make_set({"foreground": 1}, views_per_epoch=None, batch_size=1)) == 10


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"shares": {"foreground": 1, "near": 1}}, "view_shares: expected foreground, negative, hard, found near"),
        ({"shares": {"foreground": -1}}, "view_shares: expected shares of 0 or more"),
        ({"shares": {"negative": 1}}, "view_shares: expected a share of foreground views above 0"),
        ({"windows": [32]}, "windows: expected sides in pixels and their shares, found [32]"),
        ({"windows": {"small": 1}}, "windows: expected sides in pixels and their shares"),
        ({"windows": {32: float("nan")}}, "windows: expected shares of 0 or more"),
        ({"windows": {32: 0}}, "windows: expected shares of 0 or more"),
        ({"batch_size": 0}, "batch_size: expected a positive number, found 0"),
        ({"views_per_epoch": 0}, "views_per_epoch: expected a positive number, found 0"),
        ({"windows": {160: 1}}, "of at least 104 pixels for foreground views of 160 x 160, found none"),
    ],
)  # fmt: skip
def test_a_mix_that_cannot_be_is_refused_in_one_line(make_set, arguments, told):
    (line,) = error_lines(lambda: make_set(**arguments))
    assert told in line


def test_kinds_that_the_data_lack_are_refused_in_one_line(make_set, tmp_path):
    (line,) = error_lines(lambda: make_set(cases=make_set.data[:2]))
    assert "expected slices without kidney" in line and "view_shares#negative" in line
    (line,) = error_lines(lambda: make_set(cases=make_set.data[2:]))
    assert "expected slices with kidney or tumour" in line
    (line,) = error_lines(lambda: make_set(cases=[]))
    assert "found none" in line
    make_set({"foreground": 1}, cases=make_set.data[:2])


def test_pickling_copies_no_voxels(make_set):
    data_set = make_set()
    assert len(pickle.dumps(data_set)) < sum(file.stat().st_size for file in data_set.files) / 5
    assert torch.equal(pickle.loads(pickle.dumps(data_set))[2]["image"], data_set[2]["image"])
