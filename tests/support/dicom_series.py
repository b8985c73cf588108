"""DICOM series made from a NIfTI image."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel as nib
import numpy as np

INTERCEPT_HU = -1024
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(
    folder: Path, source: nib.Nifti1Image, kind: str, series: str = "1.2.3", prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """
    Write a CT series, one file a slice along the first axis, with a rescale intercept.

    Args:
        kind: "plain"; "reversed", files named from the last slice to the first; "tilted", the volume turned in space.

    Returns:
        The volume (slices, rows, columns) in HU and its affine to RAS, as NIfTI would store them.
    """
    volume, affine = np.asarray(source.dataobj).astype(np.int16), source.affine.copy()
    if kind == "tilted":
        angle = np.deg2rad(15)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        affine[:3] = turn @ affine[:3]

    steps, first, stored = (LPS @ affine)[:3, [2, 1, 0]], (LPS @ affine)[:3, 3], volume
    if np.linalg.det(steps) < 0:
        # DICOM stacks slices along rows x columns, so they are stored from the other end
        first, stored = first + steps[:, 2] * (len(volume) - 1), volume[::-1]
        steps[:, 2] *= -1
    spacing_mm = np.linalg.norm(steps, axis=0)
    image = itk.image_from_array(np.ascontiguousarray(stored))  # ITK's axes are columns, rows, slices
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(steps / spacing_mm)))
    image.SetOrigin(first.tolist())
    tags = {"0008|0060": "CT", "0010|0010": "synthetic", "0020|000e": series, "0028|1052": str(INTERCEPT_HU)}
    tags |= {"0028|1053": "1", "0020|000d": "1.2", "0020|0052": "1.2.9"}
    dicom = itk.GDCMImageIO.New()
    dicom.SetKeepOriginalUID(True)
    dictionary = dicom.GetMetaDataDictionary()
    for tag, value in tags.items():
        dictionary[tag] = value
    folder.mkdir(exist_ok=True)
    numbers = range(len(volume))
    names = [str(folder / f"{prefix}{n:03d}.dcm") for n in (reversed(numbers) if kind == "reversed" else numbers)]
    writer = itk.ImageSeriesWriter[itk.Image[itk.SS, 3], itk.Image[itk.SS, 2]].New(image)
    writer.SetImageIO(dicom)
    writer.SetFileNames(names)
    writer.Update()
    return volume, affine
