"""NIfTI headers in every form that is met, and where nibabel and ITK see a voxel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np


def turn(degrees: float) -> np.ndarray:
    """A turn about the x axis (4, 4)."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])


def shift(affine: np.ndarray, mm: tuple[float, float, float]) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] += mm
    return moved


def shear(affine: np.ndarray, share: float) -> np.ndarray:
    sheared = affine.copy()
    sheared[1, 2] += share * np.linalg.norm(affine[:3, 2])
    return sheared


# sform and its code, qform and its code, from an orthogonal affine
FORMS: dict[str, Callable[[np.ndarray], tuple]] = {
    "sform alone": lambda a: (a, 2, np.eye(4), 0),
    "qform alone": lambda a: (np.eye(4), 0, a, 1),
    "both": lambda a: (a, 1, a, 1),
    "codes of templates": lambda a: (a, 4, a, 3),
    "lying apart": lambda a: (shift(a, (20, 0, -30)), 2, a, 1),
    "oblique": lambda a: (turn(12) @ a, 1, turn(12) @ a, 1),
    "oblique sform alone": lambda a: (turn(12) @ a, 2, np.eye(4), 0),
    "rounded sform, exact qform": lambda a: ((turn(12) @ a).round(3), 1, turn(12) @ a, 1),
    "sheared by 5e-4 beside a qform": lambda a: (shear(a, 5e-4), 1, a, 1),
    "sheared by 5e-3, sform alone": lambda a: (shear(a, 5e-3), 1, np.eye(4), 0),
    "neither": lambda a: (a, 0, a, 0),
}


def write_forms(path: Path, voxels: np.ndarray, forms: tuple, units: int = 10, kind=nib.Nifti1Image) -> Path:
    """Write voxels under a header with an sform and a qform, each with its code, and a byte of units."""
    sform, sform_code, qform, qform_code = forms
    header = kind.header_class()
    header.set_data_dtype(voxels.dtype)
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"], header["xyzt_units"] = sform_code, qform_code, units
    nib.save(kind(voxels, None, header), path)
    return path


def read_itk_affine(path: Path) -> np.ndarray | None:
    """Index to LPS millimetres as ITK reads a file; None where ITK refuses it."""
    try:
        image = itk.imread(str(path))
    except RuntimeError:
        return None
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.asarray(image.GetSpacing())
    affine[:3, 3] = np.asarray(image.GetOrigin())
    return affine
