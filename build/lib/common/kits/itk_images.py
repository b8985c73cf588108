"""Images that are not NIfTI: files that ITK reads, and DICOM series."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..files import PathLike
from .dicom_series import read_series

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm",)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def open_with_itk(path: PathLike, series: str | None = None) -> nib.Nifti1Image:
    """
    Read a 3-D image as if it were NIfTI: voxels (X, Y, Z) in memory, affine to RAS mm.

    Args:
        path: an NRRD or MetaImage file, a DICOM file, or the folder of a DICOM series.
        series: UID of the series to read; needed where the folder holds several.

    Raises:
        InputError: when ITK cannot read the image, or see `read_series`.
    """
    path = Path(path)
    image = nib.Nifti1Image(*(read_series(path, series) if is_dicom(path) else _read_file(path)))
    # both forms, since ITK opens no mask whose sform is a little off orthogonal and that has no qform
    image.set_sform(image.affine, "scanner")
    image.set_qform(image.affine, "scanner")
    image.header.set_xyzt_units("mm")
    return image


def is_dicom(path: PathLike) -> bool:
    """Whether a path is read as DICOM: a folder, or a file with its suffix."""
    return Path(path).is_dir() or str(path).lower().endswith(DICOM_SUFFIXES)


def _read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and affine."""
    import itk  # loading ITK takes seconds that a NIfTI user need not wait

    try:
        image = itk.imread(str(path))
    except Exception as error:  # of ITK, or of its wrapping where a pixel is a vector
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: expected an image that ITK can read, found none ({told[-1].strip()}).") from error
    if not _says_where_left_is(path, dict(image)):
        warnings.warn(f"{path}: expected a space of the patient, found none: left and right are a guess.", stacklevel=4)
    voxels = itk.array_from_image(image)
    if image.GetImageDimension() != 3 or voxels.ndim != 3:
        raise InputError(f"{path}: expected a 3-D image, found shape {voxels.shape[::-1]}.")
    affine = np.eye(4)
    direction = itk.array_from_matrix(image.GetDirection())
    affine[:3, :3] = LPS_TO_RAS @ direction * np.asarray(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(image.GetOrigin())
    return voxels.transpose(), affine


def _says_where_left_is(path: Path, properties: Mapping[str, object]) -> bool:
    """Whether a file names a space of the patient; ITK takes any other, and none, for its own."""
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        return "superior" in str(properties.get("NRRD_space"))
    with path.open("rb") as file:
        header = file.read(2**16).partition(b"ElementDataFile")[0]
    return any(key in header for key in (b"TransformMatrix", b"Orientation", b"Rotation"))
