"""MONAI's image readers for the volumes of `volumes.py`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple

from ..files import PathLike
from .geometry import HU_WINDOW, check_window
from .masks import HEADER
from .volumes import describe_range_problem, open_volume, read_ct, read_label

# beside pydicom, every LoadImage of MONAI's says twice that there is no decoder for GPUs, which we never asked for
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


class CTReader(NibabelReader):
    """
    MONAI image reader for CT: `open_volume` and `read_ct` behind `LoadImaged(reader=CTReader(), dtype="uint8")`.

    Warns when the values do not look like Hounsfield units. Under `HEADER` the metadata hold the bytes of the file's
    header, little-endian.

    Args:
        series: DICOM series to read, see `open_with_itk`.
        hu_window: what 0 and 255 stand for, see `read_ct`.
    """

    def __init__(self, series: str | None = None, hu_window: Sequence[float] = HU_WINDOW) -> None:
        super().__init__()
        self.series = series
        self.hu_window = check_window(hu_window)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: object) -> PathLike:
        # LoadImage hides what read() raises behind a traceback in a string, so the file is opened in get_data()
        return ensure_tuple(data)[0]

    def get_data(self, img: PathLike) -> tuple[np.ndarray, dict]:
        self.filenames = (img,)
        return super().get_data(open_volume(img, self.series))

    def _get_meta_dict(self, img: nib.Nifti1Image) -> dict:
        # whole, since MONAI writes its own values over fields of it, such as pixdim, when it turns a volume
        header = np.frombuffer(img.header.as_byteswapped("<").binaryblock, np.uint8).copy()
        return super()._get_meta_dict(img) | {HEADER: header}

    def _get_array_data(self, img: nib.Nifti1Image, filename: PathLike) -> np.ndarray:
        windowed, values = read_ct(img, self.hu_window)
        problem = describe_range_problem(*values)
        if problem:
            warnings.warn(f"{filename}: {problem}.", stacklevel=2)
        return windowed


class LabelReader(CTReader):
    """
    MONAI image reader for KiTS label maps: `open_volume` and `read_label` behind `LoadImaged`.

    Args:
        keep_cysts: see `read_label`.
    """

    def __init__(self, keep_cysts: bool = False) -> None:
        super().__init__()
        self.keep_cysts = keep_cysts

    def _get_array_data(self, img: nib.Nifti1Image, filename: PathLike) -> np.ndarray:
        return read_label(img, self.keep_cysts)
