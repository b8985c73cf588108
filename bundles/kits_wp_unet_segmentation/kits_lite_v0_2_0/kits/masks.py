"""
Masks on disk: one writer, whoever segments, so that the same voxels are the same bytes.

A NIfTI header may place an image twice, by its sform and by its qform, and programs differ in which of them they take.
A mask therefore carries both as its image has them, bit by bit: wherever the image lies in a program, and whether it
opens there at all, the mask does the same.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection, PathLike
from monai.transforms import SaveImaged
from monai.utils import ImageMetaKey

from ..files import hash_file, replace_file
from .cases import name_case
from .readers import HEADER
from .volumes import list_files

logger = logging.getLogger(__name__)

FORMS = ("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d")
FORMS += ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units")
SPATIAL_PIXDIM = 4  # the sign of the slice axis in the qform, and three spacings; then come time and others


def write_mask(path: PathLike, mask: np.ndarray, meta: Mapping[str, Any], fingerprint: str = "") -> None:
    """
    Write the mask of an image as `.nii.gz`, in one piece; warns where it is empty.

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
    with replace_file(path) as temporary:
        nib.save(kind(mask, None, header), temporary)


def make_fingerprint(
    image: PathLike,
    weights_sha256: str,
    keep_largest: int | None = None,
    series: str | None = None,
    backend: Sequence[str] = (),
) -> str:
    """
    A line that is the same when the same weights would segment the same, unchanged file the same way.

    Args:
        image: path of the image; of a DICOM folder, the files of the series count and no others.
        keep_largest, series: see `Segmenter`.
        backend: what computes, where it is not PyTorch, see `ExportedNetwork.settings`.

    Raises:
        InputError: when the image is missing, or its series is not clear.
    """
    states = [(str(file.resolve()), file.stat()) for file in list_files(Path(image), series)]
    state = [(file, status.st_size, status.st_mtime_ns) for file, status in states]
    settings = (weights_sha256, keep_largest, series, *backend)
    return "kits-lite " + hashlib.sha256(repr((state, settings)).encode()).hexdigest()[:32]


class SaveMaskd(SaveImaged):
    """
    MONAI transform that writes every mask to `<output_dir>/<case>.nii.gz` by `write_mask`.

    It is a `SaveImaged` by name alone: MONAI Label, which has a writer of its own, leaves those out.

    Args:
        keys: of the masks, `MetaTensor` (1, X, Y, Z) on their images' own grids.
        weights: file that the network was loaded from; its hash is part of the fingerprint.
        backend: see `make_fingerprint`.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: PathLike, weights: PathLike, backend: Sequence[str] = ()
    ) -> None:
        super().__init__(keys, output_dir=output_dir)
        self.output_dir, self.weights, self.backend = Path(str(output_dir)), weights, tuple(backend)
        self.weights_sha256 = ""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.weights_sha256 = self.weights_sha256 or hash_file(self.weights)
        for key in self.key_iterator(data):
            image = data[key].meta[ImageMetaKey.FILENAME_OR_OBJ]
            path = self.output_dir / f"{name_case(image)}.nii.gz"
            fingerprint = make_fingerprint(image, self.weights_sha256, backend=self.backend)
            write_mask(path, data[key].cpu().numpy()[0], data[key].meta, fingerprint)
            logger.info(f"mask: {path}")
        return dict(data)
