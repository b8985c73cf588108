"""CT slices as DICOM files, tag by tag, well formed or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

INTERCEPT_HU = -1024
AXIAL = (1, 0, 0, 0, 1, 0)
SPACING_MM = (2.0, 3.0)  # from row to row, from column to column


def make_hu(slices: int = 6, rows: int = 8, columns: int = 10) -> np.ndarray:
    """HU (slices, rows, columns), every voxel another, -1000 upwards."""
    return (np.arange(slices * rows * columns) - 1000).reshape(slices, rows, columns)


def make_positions(
    count: int, step: Sequence[float] = (0, 0, 5), first: Sequence[float] = (-40, -60, 100)
) -> np.ndarray:
    """Positions (count, 3) in a straight row, LPS mm."""
    return np.array(first, float) + np.outer(np.arange(count), step)


def write_slice(path: Path, hu: np.ndarray, position: Sequence[float], number: int, **tags: object) -> Path:
    """
    Write one slice.

    Args:
        hu: (rows, columns), integers.
        tags: that differ, by keyword; None leaves one out.
    """
    intercept = tags.get("RescaleIntercept", INTERCEPT_HU)
    dataset = _begin(CTImageStorage, tags.get("SeriesInstanceUID", "1.2.3"), number)
    dataset.ImagePositionPatient = [format(mm, ".8g") for mm in position]
    dataset.ImageOrientationPatient = [format(cosine, ".8g") for cosine in AXIAL]
    dataset.PixelSpacing = list(SPACING_MM)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.SliceThickness = intercept, 1, 5
    _set_pixels(dataset, hu - int(intercept or 0))
    return _save(path, dataset, tags)


def write_stack(
    folder: Path,
    hu: np.ndarray,
    positions: np.ndarray,
    names: Sequence[int] | None = None,
    change: Mapping[int, dict] | None = None,
    **tags: object,
) -> Path:
    """
    Write one slice for every position.

    Args:
        names: what files are called, by number; 0 upwards.
        change: by slice, tags of this slice alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, (slice_hu, position) in enumerate(zip(hu, positions)):
        own = tags | (change or {}).get(index, {})
        name = index if names is None else names[index]
        write_slice(folder / f"{name:03d}.dcm", slice_hu, position, index + 1, **own)
    return folder


def write_enhanced(
    path: Path, hu: np.ndarray, positions: np.ndarray, rescale: Mapping[int, float] | None = None, **tags: object
) -> Path:
    """
    Write an Enhanced CT object: one file with a frame for every position.

    Args:
        rescale: by frame, another slope than 1, in a group of this frame's own.
    """
    dataset = _begin(EnhancedCTImageStorage, "1.2.3", 1)
    dataset.NumberOfFrames = len(hu)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = Items([_item(ImageOrientationPatient=list(AXIAL))])
    shared.PixelMeasuresSequence = Items([_item(PixelSpacing=list(SPACING_MM), SliceThickness=5)])
    value = {"RescaleIntercept": INTERCEPT_HU, "RescaleSlope": 1, "RescaleType": "HU"}
    if not rescale:
        shared.PixelValueTransformationSequence = Items([_item(**value)])
    for index, position in enumerate(positions):
        frame = _item(PlanePositionSequence=Items([_item(ImagePositionPatient=list(position))]))
        if rescale:
            own = value | {"RescaleSlope": rescale.get(index, 1)}
            frame.PixelValueTransformationSequence = Items([_item(**own)])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    _set_pixels(dataset, hu - INTERCEPT_HU)
    return _save(path, dataset, tags)


def _item(**tags: object) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def _begin(kind: str, series: object, number: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality, dataset.PatientName, dataset.InstanceNumber = "CT", "Synthetic", number
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2", series, "1.2.9"
    return dataset


def _set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = stored.astype("<i2").tobytes()


def _save(path: Path, dataset: Dataset, tags: Mapping[str, object]) -> Path:
    for keyword, value in tags.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    dataset.save_as(path, enforce_file_format=True)
    return path
