"""DICOM Segmentations and reports as others read and judge them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import itk
import numpy as np
import pytest

from common.kits.dicom_series import read_series
from common.kits.volumes import LABELS

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def look_up(affine: np.ndarray, voxels: np.ndarray, image: Path) -> np.ndarray:
    """What a volume with an affine to LPS holds at the voxels of the image; 0 outside of it."""
    shape = read_series(image)[0].shape
    points = LPS @ read_series(image)[1] @ np.c_[np.indices(shape).reshape(3, -1).T, np.ones(np.prod(shape))].T
    where = np.linalg.inv(affine) @ points
    assert np.abs(where - where.round()).max() < 0.02
    index = where[:3].round().astype(int)
    inside = ((index >= 0) & (index < np.array(voxels.shape)[:, None])).all(axis=0)
    found = np.zeros(index.shape[1], voxels.dtype)
    found[inside] = voxels[tuple(index[:, inside])]
    return found.reshape(shape)


def read_with_highdicom(path: Path, image: Path) -> np.ndarray:
    """The label map on the grid of the image."""
    import highdicom

    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return look_up(volume.affine, volume.array, image)


def run_dcmqi(tool: str, *words: object) -> None:
    """Run one of its commands; skips the test where it is not installed."""
    command = shutil.which(tool, path=Path(sys.executable).parent)
    if command is None:
        pytest.skip("needs dcmqi: pip install dcmqi")
    done = subprocess.run([command, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def read_with_dcmqi(path: Path, image: Path) -> np.ndarray:
    """The same."""
    folder = path.with_suffix(".read")
    folder.mkdir()
    run_dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd")
    label_map = np.zeros(read_series(image)[0].shape, np.uint8)
    for label in (LABELS["kidney"], LABELS["tumor"]):
        segment = itk.imread(str(folder / f"{label}.nrrd"))
        affine = np.eye(4)
        affine[:3, :3] = itk.array_from_matrix(segment.GetDirection()) * np.asarray(segment.GetSpacing())
        affine[:3, 3] = segment.GetOrigin()
        label_map[look_up(affine, itk.array_from_image(segment).transpose(), image) > 0] = label
    return label_map


def find_faults(results: Sequence[Path], sources: Sequence[Path]) -> str:
    """What dicom3tools' validators say of results that break DICOM, each by itself or beside their sources; else ""."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy and dcentvfy: apt-get install dicom3tools")
    commands = [["dciodvfy", path] for path in results] + [["dcentvfy", *sources, *results]]
    done = [
        subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    return "".join(one.stdout for one in done if one.returncode)
