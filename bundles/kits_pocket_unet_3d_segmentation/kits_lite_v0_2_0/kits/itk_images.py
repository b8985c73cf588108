"""Images that are not NIfTI: files that ITK reads, and DICOM series."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..files import PathLike
from .dicom_series import read_series

NRRD_SUFFIXES = (".nrrd", ".nhdr")
ITK_SUFFIXES = (*NRRD_SUFFIXES, ".mha", ".mhd")
MOST_LINES = 10_000  # of a header
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

    is_nrrd = path.suffix.lower() in NRRD_SUFFIXES
    reader = (itk.NrrdImageIO if is_nrrd else itk.MetaImageIO).New()  # chosen by ITK, it minds capitals
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() > 1:
            raise InputError(f"{path}: expected real numbers, found {reader.GetNumberOfComponents()} a voxel.")
        fields = _read_fields(path)
        _check_fields(path, fields)
        image = itk.imread(str(path), imageio=reader)
    except InputError:
        raise
    except Exception as error:  # of ITK, or of its wrapping
        told = str(error).strip().splitlines() or [type(error).__name__]
        told = told[0 if isinstance(error, TypeError) else -1].strip()
        raise InputError(f"{path}: expected an image that ITK can read, found none ({told}).") from error
    # ITK takes any space, and none, for that of the patient
    names = "superior" in fields.get("space", "") or fields.get("space", "").upper() in ("RAS", "LAS", "LPS")
    if not (names if is_nrrd else {"transformmatrix", "orientation", "rotation"} & {*fields}):
        warnings.warn(f"{path}: expected a space of the patient, found none: left and right are a guess.", stacklevel=4)
    voxels = itk.array_from_image(image)
    if voxels.ndim > 3 and set(voxels.shape[:-3]) == {1}:
        voxels = voxels.reshape(voxels.shape[-3:])
    if voxels.ndim != 3:
        raise InputError(f"{path}: expected a 3-D image, found shape {voxels.shape[::-1]}.")
    spacing = np.asarray(image.GetSpacing())[:3]
    affine = np.eye(4)
    direction = itk.array_from_matrix(image.GetDirection())[:3, :3]
    affine[:3, :3] = LPS_TO_RAS @ direction * spacing
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(image.GetOrigin())[:3]
    return voxels.transpose(), affine


def _read_fields(path: Path) -> dict[str, str]:
    """The header of an NRRD or MetaImage file: what stands behind a colon or an equals sign, by keys in lower case."""
    end, sign = ("", ":") if path.suffix.lower() in NRRD_SUFFIXES else ("elementdatafile", "=")
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in islice(file, MOST_LINES):
            key, _, value = line.decode("latin-1").strip().partition(sign)
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == end:
                break
    return fields


def _check_fields(path: Path, fields: Mapping[str, str]) -> None:
    """Refuse what ITK takes in silence: other units, voxels of no size, and compressed ones that are damaged."""
    units = [*fields.get("space units", fields.get("units", "")).split(), fields.get("distanceunits", "")]
    if other := [unit for unit in units if unit.strip('"') not in ("mm", "", "?", "???")]:
        raise InputError(f"{path}: expected millimetres, found units {other[0]}.")
    if not any(fields.get(key) for key in ("spacings", "space directions", "elementspacing", "elementsize")):
        raise InputError(f"{path}: expected the size of a voxel, found none in its header.")
    name, size = fields.get("elementdatafile", ""), fields.get("compresseddatasize", "")
    if fields.get("compresseddata", "").lower() != "true" or name.upper().startswith("LIST"):
        return
    if not size.isdecimal():
        raise InputError(f"{path}: expected CompressedDataSize beside CompressedData, found none.")
    content = (path if name.upper() == "LOCAL" else path.parent / name).read_bytes()
    if name.upper() == "LOCAL":
        content = content.partition(b"ElementDataFile")[2].partition(b"\n")[2]
    stream, problem = zlib.decompressobj(zlib.MAX_WBITS + 32), ""
    try:
        rest = content[: int(size)]
        while rest and not stream.eof:  # piece by piece, for nothing of it is kept
            stream.decompress(rest, 2**24)
            rest = stream.unconsumed_tail
        stream.flush()
    except zlib.error as error:
        problem = str(error)
    if problem or not stream.eof:
        raise InputError(f"{path}: expected whole compressed voxels, found {problem or 'them cut short'}.")


def list_detached(path: Path) -> list[str]:
    """Names of the files that an NRRD or MetaImage header says its voxels are in."""
    if path.suffix.lower() not in ITK_SUFFIXES:
        return []
    fields = _read_fields(path)
    return [fields[key] for key in ("data file", "datafile", "elementdatafile") if fields.get(key, "LOCAL") != "LOCAL"]
