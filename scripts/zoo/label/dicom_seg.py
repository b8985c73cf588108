"""A label map that a MONAI Label server gave for a DICOM series, as a DICOM Segmentation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform

from common.app.dicom_results import Algorithm, make_segmentation, write_dicom
from common.errors import InputError
from common.files import hash_file
from common.kits.dicom_series import read_order

SAME_MM = 0.05  # as float32 and the text of a DICOM file round


def write_segmentation(series: Path, mask: Path, bundle: Path, output: Path) -> None:
    """
    Write a label map as a DICOM Segmentation.

    Args:
        series: folder of the series, or its one file.
        mask: NIfTI, on the grid of the series however that is turned, for the server reads DICOM in its own way.
        bundle: what made it.

    Raises:
        InputError: when the two grids differ, or see `make_segmentation`.
    """
    affine = read_order(series)[2]
    label_map = nib.load(mask)
    turned = label_map.as_reoriented(ornt_transform(io_orientation(label_map.affine), io_orientation(affine)))
    if not np.allclose(turned.affine, affine, atol=SAME_MM):
        found = turned.affine.round(3).tolist()
        raise InputError(f"{mask}: expected the affine of the series, {affine.round(3).tolist()}, found {found}.")
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    parameters = {"weights_sha256": hash_file(bundle / "models/model.pt"), "backend": "torch", "server": "MONAI Label"}
    algorithm = Algorithm(metadata["name"], metadata["version"], parameters)
    write_dicom(output, make_segmentation(series, np.asarray(turned.dataobj).astype(np.uint8), algorithm))
