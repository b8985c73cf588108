"""The inferer: on the volume's own grid, as slice by slice by hand, a few slices at a time and never turned."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from scipy import ndimage

from common.errors import InputError
from common.kits.inferer import AxialInferer, SlabInferer
from common.kits.preprocessing import SliceGrid, choose_classes, resize_slices, scale_intensity

SIZE = (32, 32)
KIDNEY, TUMOUR = 100, 200  # intensities
SHAPES = [(40, 52, 5), (64, 64, 1), (33, 47, 7), (32, 32, 3), (20, 24, 4)]  # larger, equal and smaller than SIZE


def threshold(slices: torch.Tensor) -> torch.Tensor:
    """A network (b, 1, H, W) -> logits (b, 3, H, W) whose argmax is the class of the nearest intensity."""
    centres = torch.tensor([0.0, KIDNEY, TUMOUR]).reshape(1, 3, 1, 1) / 255
    return centres * slices - centres**2 / 2


def make_volume(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A uint8 volume (1, 1, X, Y, Z) with a kidney in every slice and a tumour in every other, and their label map."""
    x, y, z = (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) for axis, n in enumerate(shape))
    kidney = (x > 0.15 * shape[0]) & (x < 0.7 * shape[0]) & (y > 0.3 * shape[1]) & (y < 0.9 * shape[1] - z)
    tumour = kidney & (x < 0.45 * shape[0]) & (z % 2 == 0)
    label = np.where(tumour, 2, kidney).astype(np.uint8)
    volume = np.array([3, KIDNEY, TUMOUR], np.uint8)[label]
    return torch.from_numpy(volume)[None, None], torch.from_numpy(label)[None, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_label_map_is_the_expected_one_on_the_volumes_own_grid(shape):
    volume, expected = make_volume(shape)
    found = AxialInferer(SIZE)(volume, threshold)
    assert (found.dtype, found.shape) == (torch.uint8, volume.shape)
    if shape[:2] == SIZE:
        assert torch.equal(found, expected)
    # resizing may move a border by a pixel of the smaller grid, and nothing else
    reach = int(np.ceil(max(shape[0] / SIZE[0], shape[1] / SIZE[1], 1)))
    square = np.ones((2 * reach + 1, 2 * reach + 1, 1))
    label = expected[0, 0].numpy()
    inside = ndimage.maximum_filter(label, footprint=square) == ndimage.minimum_filter(label, footprint=square)
    assert all(np.any(inside & (label == value)) for value in range(3))
    np.testing.assert_array_equal(found[0, 0].numpy()[inside], label[inside])


@pytest.mark.parametrize("shape", SHAPES)
def test_uint8_and_scaled_float_volumes_give_the_same(shape):
    volume, _ = make_volume(shape)
    expected = AxialInferer(SIZE)(volume, threshold)
    for same in (volume.float() / 255, volume.double() / 255):
        assert torch.equal(AxialInferer(SIZE)(same, lambda slices: threshold(slices.float())), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", range(1, 9))
def test_any_batch_size_gives_what_each_slice_by_hand_gives(shape, batch_size):
    volume = torch.randint(0, 256, (1, 1, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    by_hand = torch.empty_like(volume)
    for z in range(shape[2]):
        axial = volume[:, :, :, :, z].float() / 255
        small = F.interpolate(axial, size=SIZE, mode="bilinear", antialias=True)
        logits = F.interpolate(threshold(small), size=shape[:2], mode="bilinear", antialias=True)
        by_hand[:, 0, :, :, z] = logits.argmax(dim=1)
    found = AxialInferer(SIZE, batch_size)(volume, threshold)
    assert torch.equal(found, by_hand)
    assert len(found.unique()) > 1


def test_the_class_of_a_pixel_is_the_first_of_the_largest_logits():
    values = torch.tensor(list(itertools.product((-1.0, 0.0, 2.0), repeat=3)))  # every order and every tie of three
    expected = torch.tensor([row.index(max(row)) for row in values.tolist()])
    assert torch.equal(choose_classes(values.T.reshape(1, 3, 9, 3)), expected.reshape(1, 9, 3))


@pytest.mark.parametrize("corner", list(itertools.product((0, 1), repeat=3)), ids=str)
@pytest.mark.parametrize("shape", [(32, 32, 6), (48, 32, 6), (32, 48, 6)])
def test_a_block_in_a_corner_stays_in_its_corner(corner, shape):
    volume = torch.zeros(1, 1, *shape, dtype=torch.uint8)
    block = tuple(slice(0, n) if low else slice(-n, None) for low, n in zip(corner, (9, 5, 2)))  # not square
    volume[0, 0][block] = TUMOUR
    found = AxialInferer(SIZE, batch_size=4)(volume, threshold)[0, 0] == 2
    expected = volume[0, 0] == TUMOUR
    if shape[:2] == SIZE:
        assert torch.equal(found, expected)

    def overlap(other) -> float:
        return (2 * (found & other).sum() / (found.sum() + other.sum())).item()

    assert overlap(expected) > 0.85
    # the check: no mirrored block would do
    for axis in range(3):
        assert overlap(expected.flip(axis)) == 0


@pytest.mark.parametrize("turn", [lambda x: x.mT, lambda x: x.flip(2), lambda x: x.flip(3)])
def test_a_network_that_turns_its_slices_is_noticed(turn):
    volume, expected = make_volume((32, 32, 4))
    assert torch.equal(AxialInferer(SIZE)(volume, threshold), expected)
    assert not torch.equal(AxialInferer(SIZE)(volume, lambda slices: turn(threshold(slices))), expected)


@pytest.mark.parametrize("batch_size, batches", [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (8, [7])])
def test_the_network_sees_at_most_a_batch_of_slices_of_one_size_without_gradient(batch_size, batches):
    volume, _ = make_volume((33, 47, 7))
    seen = []
    weight = torch.nn.Parameter(torch.ones(1))

    def network(slices):
        seen.append((slices.shape[0], tuple(slices.shape[1:]), slices.dtype))
        assert 0 <= slices.min() <= slices.max() <= 1
        assert not torch.is_grad_enabled()
        return weight * threshold(slices)

    found = AxialInferer(SIZE, batch_size)(volume.float() / 255, network)
    assert seen == [(count, (1, *SIZE), torch.float32) for count in batches]
    assert not found.requires_grad
    assert torch.is_grad_enabled()


def test_further_arguments_reach_the_network():
    volume, _ = make_volume((32, 32, 2))
    given = []
    AxialInferer(SIZE)(volume, lambda x, *args, **kwargs: given.append((args, kwargs)) or threshold(x), 1, scale=2)
    assert given == [((1,), {"scale": 2})]


def test_the_volume_is_left_as_it_was():
    volume, _ = make_volume((33, 47, 7))
    before = volume.clone()
    AxialInferer(SIZE)(volume, threshold)
    assert torch.equal(volume, before)


def test_a_meta_tensor_keeps_its_affine_and_metadata_and_a_tensor_stays_one():
    volume, _ = make_volume((33, 47, 7))
    affine = torch.tensor([[0.0, 0, -3, 5], [0, -2, 0, 6], [-1, 0, 0, 7], [0, 0, 0, 1]], dtype=torch.float64)
    with_meta = MetaTensor(volume, affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    found = AxialInferer(SIZE)(with_meta, threshold)
    plain = AxialInferer(SIZE)(volume, threshold)
    assert type(found) is MetaTensor
    assert type(plain) is torch.Tensor
    assert torch.equal(found.as_tensor(), plain)
    assert torch.equal(found.affine, affine)
    assert found.meta["filename_or_obj"] == "case.nii.gz"
    assert found.dtype == torch.uint8


def test_the_network_gets_plain_tensors():
    volume = MetaTensor(make_volume((33, 47, 2))[0])
    kinds = set()
    AxialInferer(SIZE)(volume, lambda slices: kinds.add(type(slices)) or threshold(slices))
    assert kinds == {torch.Tensor}


def test_logits_of_half_precision_are_resized_in_full():
    volume, _ = make_volume((40, 52, 2))
    found = AxialInferer(SIZE)(volume, lambda slices: threshold(slices).bfloat16().float().bfloat16())
    expected = AxialInferer(SIZE)(volume, lambda slices: threshold(slices).bfloat16().float())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 8, 8, 4), (8, 8, 4), (2, 1, 8, 8, 4), (1, 2, 8, 8, 4), (1, 1, 1, 8, 8, 4)])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"inputs must have shape \(1, 1, X, Y, Z\), got \("):
        AxialInferer(SIZE)(torch.zeros(shape), threshold)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_slices_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size: .* found {batch_size}"):
        AxialInferer(SIZE, batch_size)


@pytest.mark.parametrize("size", [(9, 7), (18, 14), (5, 20)])
def test_resizing_keeps_a_constant_and_the_mean_where_the_grid_divides(size):
    slices = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(resize_slices(torch.full_like(slices, 0.3), size), torch.tensor(0.3))
    resized = resize_slices(slices, size)
    assert resized.shape == (2, 3, *size)
    assert slices.min() <= resized.min() <= resized.max() <= slices.max()
    if size == (9, 7):
        assert resized is slices


def test_a_smaller_grid_averages_instead_of_picking_pixels():
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::4] = 1  # a pick of every fourth pixel would see all of it or nothing
    inner = resize_slices(stripes, (16, 16))[..., 2:-2]
    assert torch.allclose(inner, torch.tensor(0.25), atol=0.02)


def test_uint8_is_scaled_and_floats_are_taken_as_scaled():
    assert scale_intensity(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    scaled = torch.rand(4)
    assert scale_intensity(scaled) is scaled


def test_the_mirrored_image_counts_half():
    """A network that sees nothing but the side of a pixel: the mean of both ways is the same on both sides."""
    volume = torch.rand(1, 1, 8, 6, 3)

    def network(slices: torch.Tensor) -> torch.Tensor:
        side = torch.arange(slices.shape[2], dtype=torch.float32)[:, None].expand(slices.shape[2:])
        return torch.stack([torch.full_like(side, 3.6), side, side - 1]).expand(len(slices), -1, -1, -1)

    plain, mirrored = (AxialInferer((8, 6), mirror=mirror)(volume, network)[0, 0] for mirror in (False, True))
    assert plain[:4].max() == 0 and plain[4:].min() == 1
    # 3.5 everywhere, less than 3.6
    assert mirrored.max() == 0
    on_device = AxialInferer((8, 6), mirror=True)._segment_on_device(volume, (1.0, 1.0, 1.0), network)
    assert torch.equal(on_device[0, 0], mirrored)


def test_fast_looks_at_a_slice_per_10_mm_then_around_findings_on_any_device():
    volume = torch.zeros(1, 1, *SIZE, 30, dtype=torch.uint8)
    volume[..., 4:20, 4:20, 13:17] = TUMOUR
    inputs = MetaTensor(volume, affine=torch.diag(torch.tensor([1, 1, 2.5, 1], dtype=torch.float64)))
    seen = []
    inferer = AxialInferer(SIZE, batch_size=3, fast=True)
    expected = AxialInferer(SIZE)(volume, threshold)
    on_device = partial(inferer._segment_on_device, volume, (1.0, 1.0, 2.5))
    for segment in (partial(inferer, inputs), on_device):
        found = segment(lambda slices: seen.append(len(slices)) or threshold(slices))
        assert torch.equal(torch.as_tensor(found), expected)
        assert sum(seen) == 8 + 6  # 0 to 28 by 4; 16 holds something, so 13 to 19
        seen.clear()


@pytest.mark.parametrize("options", [{"min_volume_ml": 1}, {"fast": True}])
def test_what_counts_in_mm_needs_the_size_of_a_voxel(options):
    with pytest.raises(InputError, match="MetaTensor"):
        AxialInferer((8, 6), **options)(torch.zeros(1, 1, 8, 6, 2), lambda slices: slices)


# ---- slabs


def convolve(patches: torch.Tensor) -> torch.Tensor:
    """A 3-D network (b, 1, h, w, d) -> logits (b, 3, h, w, d) that sees the border of a patch, as networks do."""
    kernels = torch.randn((3, 1, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    return F.conv3d(patches, kernels, padding=2)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("shape", [(40, 52, 23), (64, 64, 8), (33, 47, 5), (20, 24, 17)])
def test_slabs_are_the_whole_volume_in_sliding_windows(shape, overlap):
    volume = torch.randint(256, (1, 1, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    grid = SliceGrid(factor=0.75)
    seen = []
    found = SlabInferer(grid, (16, 16, 8), overlap, batch_size=2)(volume, lambda x: seen.append(x.shape) or convolve(x))
    slices = grid.enter(scale_intensity(volume[0].permute(3, 0, 1, 2)), (1, 1))
    logits = SlidingWindowInferer((16, 16, 8), 2, overlap)(slices.permute(1, 2, 3, 0)[None], convolve)
    expected = choose_classes(grid.leave(logits[0].permute(3, 0, 1, 2), shape[:2], (1, 1)))
    assert torch.equal(found[0, 0], expected.permute(1, 2, 0).byte())
    assert len(found.unique()) == 3 and {size[1:] for size in seen} == {(1, 16, 16, 8)}


def test_slabs_take_the_mean_with_the_mirror_image():
    volume = torch.rand(1, 1, 32, 32, 8)
    found = SlabInferer((32, 32), (32, 32, 8), mirror=True)(volume, convolve)
    mean = (convolve(volume) + convolve(volume.flip(2)).flip(2)) / 2
    assert torch.equal(found[0, 0], choose_classes(mean)[0].byte())
    assert not torch.equal(found[0, 0], choose_classes(convolve(volume))[0].byte())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"patch_size": (16, 16)}, "patch_size: expected three positive whole numbers, found"),
        ({"patch_size": (16, 0, 8)}, "patch_size: expected three positive whole numbers, found"),
        ({"patch_size": (16, 16, 8), "overlap": 1}, "overlap: expected a share from 0 on and below 1, found 1"),
        ({"patch_size": (16, 16, 8), "batch_size": 0}, "batch_size: expected a positive whole number, found 0"),
    ],
)
def test_wrong_arguments_of_slabs_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        SlabInferer((32, 32), **arguments)
