"""
CT in DICOM: which files make a series, and where its slices lie.

Where a slice lies is read from its own position and orientation and compared, as vectors, with those of all others; ITK
decodes the voxels and is not asked for the geometry: it takes the way from slice to slice from SpacingBetweenSlices,
whose sign turns the volume upside down, and drops the shear of a tilted gantry.

Source: DICOM PS3.3, C.7.6.2 Image Plane Module and C.7.6.16 Multi-frame Functional Groups,
https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import PathLike

PREAMBLE_BYTES = 128
# what a file begins with that has no preamble: the first element, of group 2 or 8
GROUPS = (b"\x02\x00", b"\x08\x00")
# what all slices of a series share
ALIKE = ("Rows", "Columns", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
# how a number is stored in a file
STORED = ("BitsAllocated", "BitsStored", "PixelRepresentation")
KEYWORDS = ("SeriesInstanceUID", *ALIKE, *STORED, "NumberOfFrames", "ImageType")
KEYWORDS += ("PhotometricInterpretation", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
KEYWORDS += ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices")
KEYWORDS += ("SliceThickness", "RescaleSlope", "RescaleIntercept")
# the sequences that hold what an image with one frame holds itself
GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
DIRECTION = 1e-3  # that two orientations may differ by, in any cosine
SHEAR = 0.01  # largest share of a step along the slices instead of across: the same as a NIfTI file may have
ROUNDED_MM = 0.1  # the coarsest rounding of positions that is taken for one
Header = tuple[Path, Any]  # a file and its `pydicom.Dataset`


@dataclass(frozen=True)
class Plane:
    """One slice: its file, and where it lies, in millimetres to left, posterior and superior, rounded to some."""

    file: Path
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: np.ndarray
    rescale: tuple[float, ...]
    rounding: np.ndarray


def list_series(folder: PathLike) -> dict[str, list[Path]]:
    """The files of every series of images in a folder, by its UID, in the order of their names."""
    return {uid: [file for file, _ in headers] for uid, headers in _read_folder(Path(folder))[0].items()}


def choose_series(path: Path, series: str | None = None) -> list[Path]:
    """
    The files of one series.

    Args:
        path: a folder, or a single DICOM file.
        series: its UID; needed where a folder holds several.

    Raises:
        InputError: when there is none, or which one is meant is not clear; lists the UIDs.
    """
    return [file for file, _ in _choose(path, series)[0]]


def read_series(path: Path, series: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Read one series.

    Args:
        path, series: see `choose_series`.

    Returns:
        voxels (columns, rows, slices), Hounsfield units; affine (4, 4) to right, anterior, superior in mm.

    Raises:
        InputError: when the series is not clear, ITK cannot decode it, or its slices are no evenly spaced stack: what
            is wrong, with the one or two files that show it.
    """
    headers, planes, order, affine = _stack(path, series)
    return _decode(headers, planes)[order].transpose(), affine


def read_order(path: Path, series: str | None = None) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """
    Where the voxels of `read_series` come from.

    Returns:
        the files; for every slice of the volume, the number of its file or, in a file of many frames, of its frame; the
        affine (4, 4) to right, anterior, superior in mm.

    Raises:
        InputError: see `read_series`.
    """
    headers, _, order, affine = _stack(path, series)
    return [file for file, _ in headers], order, affine


def _stack(path: Path, series: str | None) -> tuple[list[Header], list[Plane], np.ndarray, np.ndarray]:
    """Headers, planes in the order of files and frames, the order in which they stand in space, and their affine."""
    import pydicom

    headers, unread = _choose(path, series)
    for file in unread:  # where it was the first or the last slice, nobody would miss it
        if file.suffix in {other.suffix for other, _ in headers} and file.name != "DICOMDIR":
            warnings.warn(f"{file}: looks like a slice, and cannot be read.", stacklevel=4)
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break a rule of DICOM and do not matter here
        _check_alike(headers)
        planes = [plane for file, header in headers for plane in _read_planes(file, header)]
        thickness = _get(headers[0][1], "SpacingBetweenSlices", 0) or _get(headers[0][1], "SliceThickness", 0)
    return headers, planes, *stack_planes(path, planes, thickness)


def stack_planes(path: Path, planes: Sequence[Plane], thickness: object = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Stack slices along their normal.

    Args:
        path: named where something is wrong.
        thickness: mm, of a single slice.

    Returns:
        the order of the slices; affine (4, 4) to right, anterior, superior in mm.

    Raises:
        InputError: when they are no evenly spaced stack.
    """
    first = planes[0]
    normal = np.cross(first.along_row, first.along_column)
    for plane in planes:
        turned = max(np.abs(getattr(plane, a) - getattr(first, a)).max() for a in ("along_row", "along_column"))
        if turned > DIRECTION:
            _refuse_pair(path, "one orientation", "several, as of a localizer", first, plane)
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            _refuse_pair(path, "one PixelSpacing", f"{first.spacing} and {plane.spacing}", first, plane)
    order = np.argsort([plane.position @ normal for plane in planes], kind="stable")
    planes = [planes[index] for index in order]
    if len(planes) > 1:
        origin, step = _fit_line(path, planes, normal)
    else:
        origin, step = first.position, normal * _read_thickness(first.file, thickness)
    affine = np.eye(4)
    columns, rows = first.along_row * first.spacing[1], first.along_column * first.spacing[0]
    affine[:3] = np.column_stack([columns, rows, step, origin])
    return order, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _fit_line(path: Path, planes: Sequence[Plane], normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin and step of slices in their order, which may be off an even line by their rounding and 1 % of a step."""
    positions = np.array([plane.position for plane in planes])
    gaps = np.diff(positions @ normal)
    near = int(gaps.argmin())
    if gaps[near] <= 0.1 * gaps.max():
        found = "several slices at one position, as of phases or copies"
        _refuse_pair(path, "one slice at every position", found, planes[near], planes[near + 1])
    numbers = np.arange(len(planes))
    step, origin = np.polyfit(numbers, positions, 1)
    across = step @ normal
    rounding = np.min([plane.rounding for plane in planes], axis=0)
    tolerance = 0.01 + 0.01 * across + rounding.clip(max=ROUNDED_MM) / 2
    off = np.abs(positions - origin - np.outer(numbers, step))
    if (off > tolerance).any():
        usual = np.median(gaps)
        odd = int(np.abs(gaps - usual).argmax())
        expected = f"slices {usual:g} mm apart in a straight row"
        found = f"{gaps[odd]:g} mm, and one {off.max():.3g} mm off the row: is a slice missing"
        _refuse_pair(path, expected, found, planes[odd], planes[odd + 1])
    along = np.linalg.norm(step - across * normal)
    if along > SHEAR * across:
        degrees = np.rad2deg(np.arctan2(along, across))
        found = f"axes sheared by {degrees:.1f} degrees, as of a tilted gantry"
        _refuse_pair(path, "slices stacked along their normal", found, planes[0], planes[-1])
    return origin, step


def _refuse_pair(path: Path, expected: str, found: str, *planes: Plane) -> None:
    names = " and ".join(dict.fromkeys(plane.file.name for plane in planes))
    raise InputError(f"{path}: expected {expected}, found {found} ({names}).")


def _read_folder(folder: Path) -> tuple[dict[str, list[Header]], list[Path]]:
    """The headers of every series of images by its UID, and the files that are no whole DICOM."""
    found: dict[str, list[Header]] = {}
    unread = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.is_dir():
            continue
        header = _read_header(file) if file.is_file() else None  # a pipe would be waited for
        if header is None or not {"SeriesInstanceUID", "Rows"} & set(header.dir()):
            unread.append(file)
        else:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    # a report or a plan has no rows, and a series of its own
    return {uid: headers for uid, headers in found.items() if any("Rows" in h for _, h in headers)}, unread


def _read_header(file: Path) -> Any | None:
    """What `KEYWORDS` name of a DICOM file; None for any other file."""
    try:
        with file.open("rb") as opened:
            start = opened.read(PREAMBLE_BYTES + 4)
        if start[PREAMBLE_BYTES:] != b"DICM" and start[:2] not in GROUPS:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pydicom  # which nobody needs for NIfTI

            return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*KEYWORDS], force=True)
    except ImportError:
        raise
    except Exception:  # whatever the bytes of another kind of file lead to
        return None


def _choose(path: Path, series: str | None) -> tuple[list[Header], list[Path]]:
    """The headers of one series, and the files beside it that are no whole DICOM."""
    unread: list[Path] = []
    if path.is_dir():
        found, unread = _read_folder(path)
    else:
        header = _read_header(path)
        found = (
            {}
            if header is None or "Rows" not in header
            else {str(header.get("SeriesInstanceUID", "")): [(path, header)]}
        )
    chosen = [uid for uid in found if series in (None, uid)]
    if len(chosen) != 1:
        known = "; ".join(f"{uid} ({len(files)} files)" for uid, files in found.items())
        raise InputError(f"{path}: expected one DICOM series, choose with --series; found {known or 'none'}.")
    return found[chosen[0]], unread


def _check_alike(headers: Sequence[Header]) -> None:
    """Raise an `InputError` unless all files are slices of one grid, in one frame of reference, as CT stores them."""
    file, first = headers[0]
    for other, header in headers:
        if "LOCALIZER" in (header.get("ImageType") or ()):
            raise InputError(f"{other}: expected a slice, found a localizer, beside {file.name}.")
        photometric = header.get("PhotometricInterpretation", "MONOCHROME2")
        if photometric != "MONOCHROME2":
            raise InputError(f"{other}: expected PhotometricInterpretation MONOCHROME2, found {photometric}.")
        for keyword in ALIKE:
            expected, found = first.get(keyword), header.get(keyword)
            if expected != found:
                raise InputError(f"{other}: expected {keyword} {expected} as in {file.name}, found {found}.")
        for keyword in ("Rows", "Columns"):
            if not header.get(keyword):
                raise InputError(f"{other}: expected {keyword}, found none.")
        if _count_frames(other, header) > 1 and len(headers) > 1:
            raise InputError(f"{other}: expected one file with all frames, found {file.name} and others beside it.")


def _count_frames(file: Path, header: Any) -> int:
    value, groups = header.get("NumberOfFrames"), header.get("PerFrameFunctionalGroupsSequence")
    count = int(value) if str(value).isdecimal() else 0 if value else 1
    if count < 1 or groups is not None and len(groups) != count:
        raise InputError(f"{file}: expected as many frames as there are groups of a frame's own, found {value}.")
    return count


def _read_planes(file: Path, header: Any) -> list[Plane]:
    """The slices of a file: one, or one for every frame."""
    planes = []
    for frame in range(_count_frames(file, header)):
        values = {keyword: _get(header, keyword, frame) for keyword in GROUP_OF}
        position = _read_numbers(file, values, "ImagePositionPatient", 3)
        orientation = _read_numbers(file, values, "ImageOrientationPatient", 6).reshape(2, 3)
        spacing = _read_numbers(file, values, "PixelSpacing", 2)
        if min(spacing) <= 0:
            raise InputError(f"{file}: expected a positive PixelSpacing, found {spacing.tolist()}.")
        if np.abs(orientation @ orientation.T - np.eye(2)).max() > SHEAR:
            found = orientation.ravel().tolist()
            raise InputError(f"{file}: expected orthogonal unit vectors in ImageOrientationPatient, found {found}.")
        rows, columns = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
        given = {"RescaleSlope": 1, "RescaleIntercept": 0}
        given |= {name: values[name] for name in given if values[name] not in (None, "")}
        rescale = tuple(float(_read_numbers(file, given, name, 1)[0]) for name in given)
        if rescale[0] == 0:
            raise InputError(f"{file}: expected a RescaleSlope other than 0, found 0.")
        # of the numbers, not of their digits: -62.500000 was rounded to a tenth, too
        rounding = np.array([10.0 ** Decimal(repr(mm)).normalize().as_tuple().exponent for mm in position.tolist()])
        planes.append(Plane(file, position, rows, columns, spacing, rescale, rounding))
    return planes


def _get(header: Any, keyword: str, frame: int) -> Any:
    """A value of a frame: of its own group, of the group that all frames share, or of an image with a single frame."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    for item in (*own[frame : frame + 1], *(header.get("SharedFunctionalGroupsSequence") or [])):
        for group in item.get(GROUP_OF[keyword]) or []:
            if keyword in group:
                return group.get(keyword)
    return header.get(keyword) if not own or keyword != "ImagePositionPatient" else None


def _read_numbers(file: Path, values: Mapping[str, Any], keyword: str, count: int) -> np.ndarray:
    value = values[keyword]
    try:
        numbers = np.atleast_1d(np.array(value, float))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        found = f"no {keyword}" if value in (None, "") else f"{keyword} {value}"
        raise InputError(f"{file}: expected {'a number' if count == 1 else f'{count} numbers'}, found {found}.")
    return numbers


def _read_thickness(file: Path, thickness: object) -> float:
    try:
        size_mm = abs(float(thickness))
    except (TypeError, ValueError):
        size_mm = 0.0
    if not 0 < size_mm < np.inf:
        raise InputError(f"{file}: expected the SliceThickness of a single slice, found {thickness}.")
    return size_mm


def _decode(headers: Sequence[Header], planes: Sequence[Plane]) -> np.ndarray:
    """Voxels (slices, rows, columns), rescaled, in the order of the files and frames."""
    import itk  # loading ITK takes seconds that a NIfTI user need not wait

    itk.Object.GlobalWarningDisplayOff()  # of a geometry that is not taken from it
    files, shape = [file for file, _ in headers], (len(planes), headers[0][1].Rows, headers[0][1].Columns)
    rescales = {plane.rescale for plane in planes}
    if len(rescales) > 1 and len(files) == 1:
        raise InputError(f"{files[0]}: expected one rescale for all frames, found {sorted(rescales)}.")
    source = str(files[0]) if len(files) == 1 else [str(file) for file in files]
    try:
        # ITK takes the type of the first file for all, which may be too narrow for another
        several = len(rescales) > 1 or any(len({header.get(key) for _, header in headers}) > 1 for key in STORED)
        image = itk.imread(source, itk.F) if several else itk.imread(source)
        return itk.array_from_image(image).reshape(shape)
    except Exception as error:
        bad, told = next(
            ((file, told) for file in files if (told := _find_problem(file))), (files[0], type(error).__name__)
        )
        raise InputError(f"{bad}: expected a CT slice that ITK can decode, found another ({told}).") from error


def _find_problem(file: Path) -> str:
    """Why ITK cannot decode a file; empty where it can."""
    import itk

    try:
        itk.imread(str(file))
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return ""
