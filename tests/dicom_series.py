"""DICOM series made from a NIfTI image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

INTERCEPT_HU = -1024
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(
    folder: Path, source: nib.Nifti1Image, kind: str, series: str = "1.2.3", prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """
    Write a CT series, one file a slice along the first axis, stored unsigned with a rescale intercept.

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
    affine_lps = LPS @ affine
    to_next = {axis: affine_lps[:3, axis] for axis in range(3)}  # slices, rows, columns
    spacing = {axis: float(np.linalg.norm(step)) for axis, step in to_next.items()}
    folder.mkdir(exist_ok=True)
    study, frame = generate_uid(), generate_uid()
    for index, pixels in enumerate(volume):
        number = len(volume) - index if kind == "reversed" else index
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{prefix}{number:03d}.dcm"
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "synthetic", "synthetic"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [float(f"{x:.6f}") for x in (affine_lps @ [index, 0, 0, 1])[:3]]
        along_row, along_column = to_next[2] / spacing[2], to_next[1] / spacing[1]
        dataset.ImageOrientationPatient = [float(f"{x:.8f}") for x in (*along_row, *along_column)]
        dataset.PixelSpacing = [spacing[1], spacing[2]]
        dataset.SliceThickness = spacing[0]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleIntercept, dataset.RescaleSlope = INTERCEPT_HU, 1
        dataset.PixelData = (pixels.astype(np.int32) - INTERCEPT_HU).astype(np.uint16).tobytes()
        dataset.save_as(path, enforce_file_format=True)
    return volume, affine
