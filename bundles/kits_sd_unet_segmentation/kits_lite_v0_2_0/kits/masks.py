"""
Masks on disk: one writer, whoever segments, so that the same voxels are the same bytes.

A NIfTI header may place an image twice, by its sform and by its qform, and programs differ in which of them they take.
A mask therefore carries both as its image has them, bit by bit: wherever the image lies in a program, and whether it
opens there at all, the mask does the same.
"""

from __future__ import annotations

import gzip
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..files import PathLike, write_whole
from .volumes import list_files

# keys of an image's metadata: its header's bytes, little-endian, and its path, which MONAI calls so
HEADER, FILE = "nifti_header", "filename_or_obj"

FORMS = ("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d")
FORMS += ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units")
SPATIAL_PIXDIM = 4  # the sign of the slice axis in the qform, and three spacings; then come time and others


def write_mask(path: PathLike, mask: np.ndarray, meta: Mapping[str, Any], fingerprint: str = "") -> None:
    """
    Write the mask of an image as `.nii.gz` or `.nii`, in one piece; warns where it is empty.

    Args:
        mask: uint8 label map (X, Y, Z) on the image's grid, in its file order.
        meta: metadata of the image as `CTReader` gives it, with the header.
        fingerprint: what made the mask, see `make_fingerprint`; 80 characters at most.
    """
    if not mask.any():
        warnings.warn(f"{path}: found no kidney.", stacklevel=2)
    block = np.asarray(meta[HEADER]).tobytes()
    # doubles stay doubles: the forms of a NIfTI-2 image do not fit into NIfTI-1
    kind = nib.Nifti2Image if len(block) == nib.Nifti2Header.sizeof_hdr else nib.Nifti1Image
    forms, header = kind.header_class(block, "<", check=False), kind.header_class()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(mask.shape)
    for field in FORMS:
        header[field] = forms[field]
    header["pixdim"][SPATIAL_PIXDIM:] = 1
    header["descrip"] = fingerprint
    image = kind(mask, None, header)
    with write_whole(path) as temporary, temporary.open("wb") as file:
        if str(path).endswith(".gz"):
            # without a name or a time, so that the same mask is the same file; ISA-L, faster still, does not always
            # make the same of the same bytes
            with gzip.GzipFile("", "wb", 1, file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def make_fingerprint(
    image: PathLike,
    weights_sha256: str,
    series: str | None = None,
    backend: Sequence[str] = (),
    **chosen: Any,
) -> str:
    """
    A line that is the same when the same weights would segment the same, unchanged file the same way.

    Args:
        image: path of the image; of a DICOM folder, the files of the series count and no others.
        series: see `Segmenter`.
        backend: what computes, where it is not PyTorch, see `ExportedNetwork.settings`.
        chosen: arguments of the `AxialInferer` that change what is found; one that is not set does not count.

    Raises:
        InputError: when the image is missing, or its series is not clear.
    """
    states = [(str(file.resolve()), file.stat()) for file in list_files(Path(image), series)]
    state = [(file, status.st_size, status.st_mtime_ns) for file, status in states]
    settings = (weights_sha256, series, *backend, *sorted(item for item in chosen.items() if item[1]))
    return "kits-lite " + hashlib.sha256(repr((state, settings)).encode()).hexdigest()[:32]
