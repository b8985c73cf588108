"""Small NIfTI files in every orientation, and reports, for the tests of kits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from html_pages import write_page
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from common.kits.phantom import make_phantom, write_phantom_dataset

SPACING_MM = (1.5, 2.0, 4.0)  # along right, anterior, superior
TILT = np.deg2rad(12)


@pytest.fixture(scope="session")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Image in HU and label (slices, rows, columns), read only."""
    volumes = make_phantom(0, (12, 64, 64), (10.0, 6.0, 6.0))
    for volume in volumes:
        volume.setflags(write=False)
    return volumes


@pytest.fixture(scope="session")
def make_affine() -> Callable[..., np.ndarray]:
    """Affine of a file that stores a volume (X, Y, Z) in RAS along `axes`: axcodes or "oblique", 12 degrees off LPS."""

    def make(axes: str = "RAS", shape: tuple[int, ...] = (12, 64, 64)) -> np.ndarray:
        affine = np.diag([*SPACING_MM, 1.0])
        affine[:3, 3] = (-40.0, 25.0, 130.0)
        if axes == "oblique":
            cos, sin = np.cos(TILT), np.sin(TILT)
            around_x = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
            around_z = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
            affine = around_x @ around_z @ affine
        return affine @ inv_ornt_aff(_turn(axes), shape)

    return make


@pytest.fixture(scope="session")
def store() -> Callable[[np.ndarray, str], np.ndarray]:
    """A volume (X, Y, Z) in RAS as a file along `axes` holds it, see `make_affine`."""
    return lambda volume, axes: apply_orientation(volume, _turn(axes))


def _turn(axes: str) -> np.ndarray:
    return ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("LPS" if axes == "oblique" else axes))


@pytest.fixture
def write_nifti(tmp_path) -> Callable[..., Path]:
    """Write an array as a NIfTI file of a name relative to tmp_path; slope and inter go into the header alone."""

    def write(array, name="volume.nii.gz", affine=None, slope=None, inter=0.0) -> Path:
        image = nib.Nifti1Image(array, np.diag([*SPACING_MM, 1.0]) if affine is None else affine)
        if slope is not None:
            image.header.set_slope_inter(slope, inter)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture
def kits_folder(tmp_path) -> Path:
    """Three labelled phantoms, case_00000_synthetic onwards."""
    folder = tmp_path / "kits"
    write_phantom_dataset(folder, 3, shape=(8, 32, 32), spacing_mm=(20.0, 12.0, 12.0))
    return folder


@pytest.fixture
def ct(phantom) -> np.ndarray:
    return phantom[0].transpose(2, 1, 0)  # slices last, so that they fill slabs


@pytest.fixture
def label(phantom) -> np.ndarray:
    return phantom[1].transpose(2, 1, 0)


@pytest.fixture
def volume(phantom) -> tuple[np.ndarray, np.ndarray]:
    """Image and label (X, Y, Z) in RAS, of three different lengths."""
    return tuple(np.flip(array.transpose(2, 1, 0))[:, :48] for array in phantom)


@pytest.fixture
def write_case(write_nifti, make_affine, store):
    """Write a volume in RAS as a case stored along some axes."""

    def write(image, label, case="case_00000", axes="IPL"):
        affine = make_affine(axes, image.shape)
        pair = zip(("image", "label"), ("imaging", "segmentation"), (image, label))
        return {key: str(write_nifti(store(array, axes), f"{case}/{stem}.nii.gz", affine)) for key, stem, array in pair}

    return write


@pytest.fixture
def page(tmp_path) -> Callable[..., str]:
    """Writes a report of a small case and returns its HTML."""
    return partial(write_page, tmp_path / "report.html")
