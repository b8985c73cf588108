"""Pack the slices of KiTS folders at the networks' scale into one small file, to train on another machine."""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from common.errors import InputError, report_input_errors
from common.files import write_whole
from common.kits.cases import find_cases
from common.kits.preprocessing import SliceGrid, spacing_in_ras
from common.kits.slices import prepare_slices
from common.kits.volumes import open_nifti

EXAMPLE = "example: python scripts/pack.py --dataset-dir D1 D2 --output views.tar.xz; there: tar xf views.tar.xz"
# what a network may see: every hu_window of the bundles lies in it; about 2.4 HU a step
HU_RANGE = (-250, 350)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--dataset-dir", type=Path, nargs="+", required=True, help="KiTS folders, labelled")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .tar.xz")
    parser.add_argument("--pixel-mm", type=float, default=1.6, help="size of a pixel, as the training will have it")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    if not arguments.output.name.endswith(".tar.xz"):
        raise InputError(f"output: expected a name that ends in .tar.xz, found {arguments.output}.")
    pack(arguments.dataset_dir, arguments.output, SliceGrid(pixel_mm=arguments.pixel_mm))
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0


def pack(folders: Sequence[Path], output: Path, grid: SliceGrid) -> None:
    """
    Write every labelled case of some folders, `<folder>/<case>/{imaging,segmentation}.nii`, as a training sees it.

    Images are uint8 with a slope, in HU from `HU_RANGE`; both are on the grid, so that a training with the same grid
    resamples nothing. Where a narrower window cuts an edge, a pixel on it may differ from that of the folders: there
    the window comes before the resampling, here after it.
    """
    with (
        tempfile.TemporaryDirectory() as cache_dir,
        write_whole(output) as temporary,
        tarfile.open(temporary, "w:xz") as archive,
    ):
        for folder in folders:
            for case in find_cases(folder):
                (file,) = prepare_slices([case], cache_dir, grid, HU_RANGE)
                slices = np.load(file).transpose(1, 2, 3, 0)
                image = open_nifti(case["image"])
                shape = np.array(nib.as_closest_canonical(image).shape)
                spacing_mm = spacing_in_ras(image.affine) * shape / slices.shape[1:]
                for name, volume in zip(("imaging", "segmentation"), slices):
                    packed = nib.Nifti1Image(np.ascontiguousarray(volume), np.diag([*spacing_mm, 1.0]))
                    if name == "imaging":
                        packed.header.set_slope_inter((HU_RANGE[1] - HU_RANGE[0]) / 255, HU_RANGE[0])
                    content = packed.to_bytes()
                    entry = tarfile.TarInfo(f"{folder.resolve().name}/{case['case']}/{name}.nii")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                file.unlink()


if __name__ == "__main__":
    sys.exit(main())
