"""
Volumes on disk: read in one streamed pass, written in one piece.

A CT volume is read as uint8, a window of Hounsfield units stretched over 0 to 255 (`preprocessing.window_hu`). One byte
a voxel, read slab by slab, keeps a 1059 x 512 x 512 scan at 0.3 GB even where the file holds float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from ..errors import InputError
from ..files import PathLike
from .dicom_series import choose_series
from .geometry import HU_WINDOW, check_window, make_axial, window_hu

try:
    from isal import igzip as gzip  # two and a half times as fast
except ImportError:
    import gzip
from .itk_images import DICOM_SUFFIXES, ITK_SUFFIXES, list_detached, open_with_itk

# what nibabel mends in a header it logs without the file's name
nib.imageglobals.logger.setLevel("ERROR")

LABELS = {"background": 0, "kidney": 1, "tumor": 2}
CYST = 3
ORTHOGONALITY = 0.01  # largest cosine between two axes
NIFTI_SUFFIXES = (".nii.gz", ".nii")
# a header with its voxels in an .img beside it counts as one image
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".hdr", *ITK_SUFFIXES)
ROUNDING = 1e-3  # that a label may be off an integer, as slopes of headers and resampling leave it
NARROWEST_HU = 100  # from the lowest to the highest value of a CT: there is fat and muscle at least
# of `xyzt_units`: the bits for space, and what ITK reads otherwise than nibabel
SPACE_UNITS, OTHER_UNITS = 7, {1: "metres", 3: "micrometres"}
HEADER_SUFFIXES, VOXEL_SUFFIXES = (".hdr", ".img", ".mhd", ".nhdr"), (".hdr", ".img", ".raw", ".zraw", ".raw.gz")
SLAB_BYTES = 32 * 2**20


def open_nifti(path: PathLike) -> nib.Nifti1Image:
    """
    Open a 3-D NIfTI file without reading its voxels.

    Raises:
        InputError: when the file is missing, is no NIfTI image, is not 3-D, has no usable affine or is not in mm.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a NIfTI file, found none.")
    try:
        image = nib.load(path)
    except Exception as error:  # of nibabel, of gzip, or of whatever damaged bytes lead to
        raise InputError(
            f"{path}: expected a NIfTI image, found a file nibabel cannot open ({_flatten(error)})."
        ) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{path}: expected a NIfTI image, found {type(image).__name__}, which has no orientation.")
    if image.ndim > 3 and set(image.shape[3:]) == {1}:  # FSL and SPM write an axis of time, of one point
        image = type(image)(
            image.dataobj.reshape(image.shape[:3]), image.affine, image.header, image.extra, image.file_map
        )
    if image.ndim != 3 or min(image.shape) < 1:
        raise InputError(f"{path}: expected a 3-D image, found shape {image.shape}.")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: expected real numbers, found voxels of type {image.get_data_dtype()}.")
    if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine[:3, :3]) < 3:
        raise InputError(f"{path}: expected an invertible affine, found {image.affine[:3].round(3).tolist()}.")
    if image.dataobj.offset < image.header.sizeof_hdr and len({*map(id, image.file_map.values())}) == 1:
        raise InputError(f"{path}: expected voxels behind the header, found them at byte {image.dataobj.offset}.")
    unit = OTHER_UNITS.get(int(image.header["xyzt_units"]) & SPACE_UNITS)
    if unit:
        raise InputError(f"{path}: expected millimetres in xyzt_units, found {unit}.")
    _check_spacings(path, image)
    _compare_forms(path, image.header)
    return image


def _check_spacings(path: Path, image: nib.Nifti1Image) -> None:
    """Refuse spacings of 0 where nothing else tells the size of a voxel; nibabel takes them for 1 mm."""
    if image.header["sform_code"] > 0 or image.header["qform_code"] <= 0:
        return
    with image.file_map["header" if "header" in image.file_map else "image"].get_prepare_fileobj() as file:
        spacings = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]
    if not spacings.all():
        raise InputError(f"{path}: expected spacings in pixdim beside a qform, found {spacings.tolist()}.")


def _compare_forms(path: Path, header: nib.Nifti1Header) -> None:
    """Warn where a header leaves open how the patient lies, or says two things of it."""
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        warnings.warn(f"{path}: expected an sform or a qform, found neither: left and right are a guess.", stacklevel=3)
    elif header["sform_code"] > 0 and header["qform_code"] > 0:
        with suppress(HeaderDataError, np.linalg.LinAlgError):  # no quaternion: there is the sform alone
            sform, qform = ("".join(nib.aff2axcodes(form)) for form in (header.get_sform(), header.get_qform()))
            if sform != qform:
                warnings.warn(
                    f"{path}: expected one orientation, found {sform} and {qform}: took the sform.", stacklevel=3
                )


def _flatten(error: Exception) -> str:
    return " ".join(str(error).split())


def open_volume(path: PathLike, series: str | None = None) -> nib.Nifti1Image:
    """
    Open a 3-D image: NIfTI without reading its voxels; NRRD or a folder with a DICOM series by `open_with_itk`.

    Raises:
        InputError: when the image cannot be opened, is not 3-D, or its axes are not orthogonal.
    """
    is_foreign = Path(path).is_dir() or str(path).lower().endswith((*ITK_SUFFIXES, *DICOM_SUFFIXES))
    image = open_with_itk(path, series) if is_foreign else open_nifti(path)
    if is_foreign:
        image.file_map["image"].filename = str(path)  # it is in memory, and what is wrong in it names the file
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > ORTHOGONALITY:
        raise InputError(
            f"{path}: expected orthogonal axes, found a sheared affine {image.affine[:3].round(3).tolist()}."
        )
    return image


def list_files(path: Path, series: str | None = None) -> list[Path]:
    """
    The files that an image is read from: itself, or those of a DICOM series in their order.

    Raises:
        InputError: when it is missing, or the series is not clear.
    """
    if path.is_dir():
        return choose_series(path, series)
    if not path.is_file():
        raise InputError(f"{path}: expected an image, found none.")
    # voxels in a file of their own have the name of the header
    beside = [path.with_suffix(suffix) for suffix in VOXEL_SUFFIXES if path.suffix.lower() in HEADER_SUFFIXES]
    beside += [path.parent / name for name in list_detached(path)]
    return [path, *(file for file in dict.fromkeys(beside) if file != path and file.is_file())]


def iterate_slabs(image: nib.Nifti1Image, scaled: bool = True) -> Iterator[tuple[slice, np.ndarray]]:
    """
    Yield (where along the last axis, voxels) of a NIfTI image in one pass over its file, to the last byte.

    Voxels hold about 32 MB at a time and are scaled as the header says, or not if they are wanted as they are stored.

    Raises:
        InputError: when the file is truncated or fails its gzip checksum.
    """
    path, proxy = image.get_filename(), image.dataobj
    if isinstance(proxy, np.ndarray):
        yield slice(None), proxy
        return
    bytes_per_index = max(1, int(np.prod(image.shape[:2])) * proxy.dtype.itemsize)
    step = max(1, SLAB_BYTES // bytes_per_index)
    try:
        with gzip.open(path) if str(path).lower().endswith(".gz") else open(path, "rb") as file:
            # A proxy over one open file: each slab goes on in the stream instead of decompressing it from its start.
            # Without mmap=False nibabel maps the compressed bytes of a gzip file that did not shrink.
            scaling = (proxy.slope, proxy.inter) if scaled else (1.0, 0.0)
            voxels = ArrayProxy(file, (proxy.shape, proxy.dtype, proxy.offset, *scaling), mmap=False)
            for start in range(0, image.shape[2], step):
                where = slice(start, min(start + step, image.shape[2]))
                yield where, np.asanyarray(voxels[..., where])
            # gzip compares its checksum only when the end is reached
            while file.read(SLAB_BYTES):
                pass
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: expected {image.shape} voxels, found a truncated or damaged file ({_flatten(error)})."
        ) from error


def read_ct(image: nib.Nifti1Image, hu_window: Sequence[float] = HU_WINDOW) -> tuple[np.ndarray, tuple[float, float]]:
    """
    Read a CT volume through an HU window, see `window_hu`.

    Returns:
        uint8 array of the image's shape, in file order; (lowest, highest) HU before windowing.

    Raises:
        InputError: when the file is damaged or holds NaN or infinity, or the window is none.
    """
    hu_window = check_window(hu_window)
    windowed = make_axial(image.shape, image.affine)
    lowest, highest = np.inf, -np.inf
    table = _tabulate(image, hu_window)
    for where, slab in iterate_slabs(image, scaled=table is None):
        extremes = np.array([slab.min(), slab.max()])
        low, high = sorted(map(float, extremes if table is None else _scale(image, extremes)))
        if not np.isfinite([low, high]).all():
            raise InputError(f"{image.get_filename()}: expected finite Hounsfield units, found NaN or infinity.")
        lowest, highest = min(lowest, low), max(highest, high)
        windowed[..., where] = window_hu(slab, hu_window) if table is None else table[_view_unsigned(slab)]
    return windowed, (lowest, highest)


def _tabulate(image: nib.Nifti1Image, hu_window: Sequence[float]) -> np.ndarray | None:
    """What becomes of every voxel that a file can store, where it stores integers of 16 bits or less; else None."""
    stored = np.dtype(image.dataobj.dtype)
    if isinstance(image.dataobj, np.ndarray) or stored.kind not in "iu" or stored.itemsize > 2:
        return None
    values = np.arange(2 ** (8 * stored.itemsize)).astype(f"u{stored.itemsize}").view(stored.newbyteorder("="))
    return window_hu(_scale(image, values), hu_window).astype(np.uint8)


def _scale(image: nib.Nifti1Image, stored: np.ndarray) -> np.ndarray:
    return apply_read_scaling(stored, image.dataobj.slope, image.dataobj.inter)


def _view_unsigned(slab: np.ndarray) -> np.ndarray:
    native = slab.astype(slab.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{native.itemsize}")


def read_label(image: nib.Nifti1Image, keep_cysts: bool = False) -> np.ndarray:
    """
    Read a label map of 0 background, 1 kidney, 2 tumour; cysts (3, KiTS21/23) become kidney, as they are in KiTS19.

    Args:
        keep_cysts: leave them 3, as the KiTS21 and KiTS23 scores need them.

    Returns:
        uint8 array of the image's shape, in file order.

    Raises:
        InputError: when the file is damaged or holds a value that is further than `ROUNDING` from a label.
    """
    label = np.empty(image.shape, np.uint8, order="F")
    known = [*LABELS.values(), CYST]
    furthest = 0.0
    for where, slab in iterate_slabs(image):
        rounded = np.rint(slab)
        off = np.abs(slab - rounded)
        foreign = slab[~(np.isin(rounded, known) & (off <= ROUNDING))]
        if foreign.size:
            raise InputError(f"{image.get_filename()}: expected labels {known}, found {foreign[0]:g}.")
        furthest = max(furthest, float(off.max()))
        label[..., where] = rounded if keep_cysts else np.where(rounded == CYST, LABELS["kidney"], rounded)
    if furthest:
        warnings.warn(f"{image.get_filename()}: rounded labels that were up to {furthest:.1g} off.", stacklevel=2)
    return label


def check_same_grid(image: nib.Nifti1Image, label: nib.Nifti1Image, key: str) -> None:
    """
    Raises:
        InputError: when the label's shape or affine is not the image's.
    """
    path = label.get_filename()
    if image.shape != label.shape:
        raise InputError(f"{path}: expected the {key}'s shape {image.shape}, found {label.shape}.")
    if not np.allclose(image.affine, label.affine, atol=1e-3):
        expected, found = (i.affine[:3].round(3).tolist() for i in (image, label))
        raise InputError(f"{path}: expected the {key}'s affine {expected}, found {found}.")


def describe_range_problem(lowest: float, highest: float) -> str:
    """What makes a value range unlike the Hounsfield units of a CT; empty when nothing does."""
    found = f"found values from {lowest:g} to {highest:g}"
    if highest - lowest < NARROWEST_HU:
        return f"expected Hounsfield units, {found}: constant, normalized or standardized"
    if lowest >= 0 and highest > 255:
        return f"expected Hounsfield units with air below 0, {found}: MR, PET, or CT without its rescale intercept"
    if lowest < -32768 or highest > 65535:
        return f"expected Hounsfield units, {found}"
    return ""
