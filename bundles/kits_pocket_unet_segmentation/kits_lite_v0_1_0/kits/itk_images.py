"""Images that are not NIfTI, NRRD files and DICOM series, read with ITK."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from monai.config import PathLike

from ..errors import InputError

ITK_SUFFIXES = (".nrrd",)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def list_series(folder: PathLike) -> dict[str, list[str]]:
    """The files of every DICOM series of a folder, in the order of their positions, by series UID."""
    import itk  # loading ITK takes seconds that a NIfTI user need not wait

    names = itk.GDCMSeriesFileNames.New(Directory=str(folder), UseSeriesDetails=True, GlobalWarningDisplay=False)
    return {uid: list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}


def open_with_itk(path: PathLike, series: str | None = None) -> nib.Nifti1Image:
    """
    Read a 3-D image as if it were NIfTI: voxels (X, Y, Z) in memory, affine to RAS mm.

    Args:
        path: an NRRD file, or the folder of a DICOM series.
        series: UID, or how it begins, of the series to read; needed where the folder holds several.

    Raises:
        InputError: when ITK cannot read the image, the series is not clear, or its slices are not evenly spaced.
    """
    import itk

    path = Path(path)
    source = choose_series(path, series) if path.is_dir() else str(path)
    try:
        image = itk.imread(source)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: expected an image that ITK can read, found none ({_last_line(error)}).") from error
    if image.GetImageDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: expected a 3-D image, found {image.GetImageDimension()}-D.")
    if isinstance(source, list):
        _check_spacing(path, source, image.GetSpacing()[2])
    affine = np.eye(4)
    direction = itk.array_from_matrix(image.GetDirection())
    affine[:3, :3] = LPS_TO_RAS @ direction * np.asarray(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(image.GetOrigin())
    nifti = nib.Nifti1Image(itk.array_from_image(image).transpose(), affine)
    # both forms, since ITK opens no mask whose sform is a little off orthogonal and that has no qform
    nifti.set_sform(affine, "scanner")
    nifti.set_qform(affine, "scanner")
    nifti.header.set_xyzt_units("mm")
    return nifti


def choose_series(folder: Path, series: str | None) -> list[str]:
    found = list_series(folder)
    chosen = [uid for uid in found if series is None or uid.startswith(series)]
    if len(chosen) != 1:
        known = "; ".join(f"{uid} ({len(files)} slices)" for uid, files in found.items())
        raise InputError(f"{folder}: expected one DICOM series, choose with --series; found {known or 'none'}.")
    return found[chosen[0]]


def _check_spacing(folder: Path, files: list[str], spacing_mm: float) -> None:
    """Slices of a series must be as far apart as ITK took them to be, or a slice is missing."""
    import itk

    if len(files) < 2:
        return
    reader = itk.ImageFileReader[itk.Image[itk.SS, 3]].New
    origins = []
    for file in files:
        header = reader(FileName=file)
        header.UpdateOutputInformation()
        origins.append(np.asarray(header.GetOutput().GetOrigin()))
    gaps_mm = np.linalg.norm(np.diff(origins, axis=0), axis=1)
    if np.abs(gaps_mm - spacing_mm).max() > 0.01 * spacing_mm + 0.01:
        raise InputError(
            f"{folder}: expected slices {spacing_mm:g} mm apart, found {gaps_mm.min():g} to {gaps_mm.max():g} mm."
        )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
