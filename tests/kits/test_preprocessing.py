"""From HU to what the network sees, and back: windows and grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from refusals import error_message

from common.kits.inferer import AxialInferer
from common.kits.preprocessing import SliceGrid, check_window, orient_to_ras, spacing_in_ras, window_hu


@pytest.mark.parametrize(
    "window, hu, expected",
    [
        ((0, 255), [-1000, 0, 7, 255, 3000], [0, 0, 7, 255, 255]),
        ((-200, 300), [-1000, -200, 50, 300, 301], [0, 0, 128, 255, 255]),
        ((-100, 200), [-100, 0, 200], [0, 85, 255]),
    ],
)
def test_a_window_is_stretched_over_0_to_255(window, hu, expected):
    assert window_hu(np.array(hu, np.float32), window).tolist() == expected


@pytest.mark.parametrize("window", [(255, 0), (0, 0), (1,), (0, 1, 2), "ab", None, (0, float("nan"))])
def test_a_window_that_is_none_is_refused(window):
    assert error_message(lambda: check_window(window)).startswith("hu_window: expected two Hounsfield units")


@pytest.mark.parametrize(
    "grid, shape, spacing_mm, expected",
    [
        (SliceGrid((256, 256)), (512, 796), (0.8, 0.8), (256, 256)),
        (SliceGrid(factor=0.5), (512, 796), (0.8, 0.8), (256, 398)),
        (SliceGrid(pixel_mm=1.6), (512, 512), (0.8, 0.8), (256, 256)),
        (SliceGrid(pixel_mm=1.6), (512, 796), (0.8, 0.4), (256, 199)),
        (SliceGrid(pixel_mm=1.6), (1, 1), (0.1, 0.1), (1, 1)),
        (SliceGrid((32, 32), factor=0.5, pixel_mm=1), (512, 512), (1, 1), (32, 32)),
        (SliceGrid(factor=0.5, pixel_mm=1), (512, 512), (1, 1), (256, 256)),
    ],
)
def test_the_first_rule_that_is_given_sizes_a_slice(grid, shape, spacing_mm, expected):
    assert grid.scale(shape, spacing_mm) == expected


@pytest.mark.parametrize("grid", [SliceGrid(factor=0.5), SliceGrid(pixel_mm=1.5), SliceGrid((32, 48))])
@pytest.mark.parametrize("shape", [(60, 44), (64, 64), (17, 90)])
def test_a_smooth_slice_comes_back_as_it_went_in(grid, shape):
    rows, columns = (torch.linspace(-1, 1, length) for length in shape)
    slices = torch.exp(-(rows[:, None] ** 2) - columns**2)[None, None]
    seen = grid.enter(slices, (0.75, 0.9))
    assert grid.spatial_size or all(length % 16 == 0 for length in seen.shape[2:])
    back = grid.leave(seen, shape, (0.75, 0.9))
    assert back.shape == slices.shape
    assert (back - slices)[..., 3:-3, 3:-3].abs().max() < 0.03


@pytest.mark.parametrize(
    "arguments", [{}, {"factor": 0}, {"pixel_mm": -1.6}, {"spatial_size": (0, 4)}, {"factor": "a"}]
)
def test_a_grid_that_is_none_is_refused(arguments):
    assert "expected" in error_message(lambda: SliceGrid(**arguments))


@pytest.mark.parametrize("axes", ["RAS", "IPL", "ASR", "oblique"])
def test_spacing_follows_the_axes(make_affine, axes):
    assert spacing_in_ras(make_affine(axes)) == pytest.approx((1.5, 2.0, 4.0))


def test_the_inferer_takes_the_size_of_a_pixel_from_the_affine(make_affine):
    """40 x 30 pixels of 1.5 x 2 mm become 20 x 20 of 3 mm, and the label map has the volume's own grid."""
    shapes = []

    def network(slices):
        shapes.append(tuple(slices.shape[2:]))
        return torch.cat([torch.full_like(slices, 0.5), slices], dim=1)

    volume = torch.zeros(1, 1, 40, 30, 3, dtype=torch.uint8)
    volume[:, :, 10:20, 5:12] = 255
    inferer = AxialInferer(SliceGrid(pixel_mm=3, divisor=8))
    affine = torch.from_numpy(make_affine("RAS", volume.shape[2:]))
    for given in (affine, affine[None]):
        found = inferer(MetaTensor(volume, affine=given), network)
        assert found.shape == volume.shape and set(shapes) == {(24, 24)}
        assert (found != (volume > 0)).float().mean() < 0.02
    assert "expected a MetaTensor" in error_message(lambda: inferer(volume, network))


def test_orientation_is_a_view(make_affine, store):
    volume = np.arange(24).reshape(2, 3, 4)
    for axes in ("RAS", "IPL", "ASR", "LPS"):
        stored = store(volume, axes)
        turned = orient_to_ras(stored, make_affine(axes, volume.shape))
        assert np.array_equal(turned, volume) and np.shares_memory(turned, stored)
        assert nib.aff2axcodes(make_affine(axes, volume.shape)) == tuple(axes)
