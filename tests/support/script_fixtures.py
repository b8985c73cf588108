"""The command lines, called in this process, and cases for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.app.cli import main


@pytest.fixture(scope="session")
def run_door() -> Callable[..., int]:
    """A function that runs a command of the door with words as typed, and gives the exit code."""

    def run(command: str, **options: object) -> int:
        words = [command]
        for key, value in options.items():
            words += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return main(words)

    return run


@pytest.fixture
def change() -> Callable[..., Path]:
    """A function that rewrites a NIfTI file with other voxels or another affine."""

    def rewrite(path: Path, voxels: Callable = lambda v: v, affine: Callable = lambda a: a) -> Path:
        image = nib.load(path)
        changed = voxels(np.asarray(image.dataobj))
        header = nib.Nifti1Header()
        header.set_data_dtype(changed.dtype)
        header.set_sform(affine(image.affine), code=1)  # takes an affine that Nifti1Image refuses, too
        nib.save(nib.Nifti1Image(changed, None, header), path)
        return path

    return rewrite


@pytest.fixture
def cases(phantoms, tmp_path) -> Path:
    """Two synthetic images in a plain folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, case in enumerate(sorted(phantoms.iterdir())[:2]):
        shutil.copy(case / "imaging.nii.gz", folder / f"scan{number}_synthetic.nii.gz")
    return folder
