"""MONAI's image readers and writer for the volumes of `volumes.py`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
from monai.config import NdarrayOrTensor, PathLike
from monai.data import NibabelReader, NibabelWriter
from monai.utils import ensure_tuple

from ..files import replace_file
from .preprocessing import HU_WINDOW, check_window
from .volumes import describe_range_problem, open_volume, read_ct, read_label


class CTReader(NibabelReader):
    """
    MONAI image reader for CT: `open_volume` and `read_ct` behind `LoadImaged(reader=CTReader(), dtype="uint8")`.

    Warns when the values do not look like Hounsfield units.

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


class WholeFileWriter(NibabelWriter):
    """`NibabelWriter` that leaves either no file or a whole one."""

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: object
    ) -> None:
        # MONAI squeezes the slice axis of a one-slice volume away too
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        if squeeze_end_dims and self.data_obj.shape[3:] == (1,):
            self.data_obj = self.data_obj[..., 0]

    def set_metadata(self, meta_dict: Mapping | None = None, resample: bool = True, **options: object) -> None:
        if resample:
            super().set_metadata(meta_dict, resample, **options)
        else:
            # MONAI would send the volume through its resampler all the same, in five times the memory
            _, self.affine, _ = self.get_meta_info(meta_dict)

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: object) -> None:
        with replace_file(filename) as temporary:
            super().write(temporary, verbose=False, **kwargs)
