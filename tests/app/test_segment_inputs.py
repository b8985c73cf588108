"""segment.py on every kind of input: NIfTI that is odd or bad, NRRD, and DICOM series."""

from __future__ import annotations

import subprocess
import sys

import itk
import nibabel as nib
import numpy as np
import pytest
from bundle_runs import read
from dicom_series import write_series

from common.errors import InputError
from common.kits.volumes import open_volume


def set_nan(voxels: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    return voxels


def shear(affine: np.ndarray) -> np.ndarray:
    sheared = affine.copy()
    sheared[:3, 1] += 0.3 * sheared[:3, 0]
    return sheared


def flatten(affine: np.ndarray) -> np.ndarray:
    return affine @ np.diag([0, 1, 1, 1])


BAD_IMAGES = {
    "NaN": ({"voxels": set_nan}, "expected finite Hounsfield units"),
    "zero spacing": ({"affine": flatten}, "expected an invertible affine"),
    "sheared": ({"affine": shear}, "expected orthogonal axes"),
    "4-D": ({"voxels": lambda v: np.stack([v, v], axis=-1)}, "expected a 3-D image"),
}


@pytest.mark.parametrize(("changes", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_one_line(changes, words, weighted_bundle, cases, change, run_door, tmp_path, capsys):
    path = change(cases / "scan0_synthetic.nii.gz", **changes)
    assert run_door("segment", bundle=weighted_bundle, input=path, output=tmp_path / "out") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(path) in line and words in line
    assert not (tmp_path / "out").exists()


def test_a_range_like_mr_is_segmented_with_a_warning(weighted_bundle, cases, change, tmp_path):
    path = change(cases / "scan0_synthetic.nii.gz", voxels=lambda v: v.clip(0) * 2)
    command = [sys.executable, "-m", "common", "segment", "--bundle", str(weighted_bundle)]
    done = subprocess.run(
        [*command, "--input", str(path), "--output", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "warning:" in line and "scan0" in line]
    assert "MR, PET, or CT without its rescale intercept" in line


def test_a_volume_of_one_slice_is_segmented(weighted_bundle, cases, change, run_door, tmp_path):
    path = change(cases / "scan0_synthetic.nii.gz", voxels=lambda v: v[4:5])
    assert run_door("segment", bundle=weighted_bundle, input=path, output=tmp_path / "out") == 0
    assert read(tmp_path / "out" / path.name).shape == (1, 48, 48)


def test_nrrd_gives_the_mask_of_its_nifti(weighted_bundle, cases, run_door, tmp_path):
    nifti = cases / "scan0_synthetic.nii.gz"
    itk.imwrite(itk.imread(str(nifti)), str(tmp_path / "same.nrrd"))
    for path in (nifti, tmp_path / "same.nrrd"):
        assert run_door("segment", bundle=weighted_bundle, input=path, output=tmp_path / "out") == 0
    mask, same = nib.load(tmp_path / "out" / nifti.name), nib.load(tmp_path / "out/same.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(same.dataobj))
    assert np.allclose(mask.affine, same.affine, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "reversed", "tilted"])
def test_a_dicom_series_gives_the_mask_of_its_nifti(kind, weighted_bundle, phantoms, run_door, tmp_path):
    source = nib.load(phantoms / "case_00000_synthetic/imaging.nii.gz")
    volume, affine = write_series(tmp_path / "series", source, kind)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "same.nii.gz")
    for path in (tmp_path / "same.nii.gz", tmp_path / "series"):
        assert run_door("segment", bundle=weighted_bundle, input=path, output=tmp_path / "out") == 0
    mask, same = nib.load(tmp_path / "out/same.nii.gz"), nib.load(tmp_path / "out/series.nii.gz")
    # the two files may store their slices in opposite orders: compare voxels at the same place in the patient
    to_same = np.linalg.inv(same.affine) @ mask.affine
    indices = np.argwhere(np.ones(mask.shape, bool))
    there = np.rint(indices @ to_same[:3, :3].T + to_same[:3, 3]).astype(int)
    assert np.abs(indices @ to_same[:3, :3].T + to_same[:3, 3] - there).max() < 1e-2
    assert np.array_equal(np.asarray(mask.dataobj)[tuple(indices.T)], np.asarray(same.dataobj)[tuple(there.T)])
    assert len(np.unique(np.asarray(mask.dataobj))) > 1


def test_several_dicom_series_are_listed_and_one_is_chosen(weighted_bundle, phantoms, run_door, tmp_path, capsys):
    source = nib.load(phantoms / "case_00000_synthetic/imaging.nii.gz")
    for number in (1, 2):
        write_series(tmp_path / "series", source, "plain", series=f"1.2.3.{number}", prefix=f"{number}_")
    options = {"bundle": weighted_bundle, "input": tmp_path / "series", "output": tmp_path / "out"}
    assert run_door("segment", **options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "choose with --series" in line and "1.2.3.1" in line and "1.2.3.2" in line
    assert run_door("segment", series="1.2.3.2", **options) == 0


def test_a_dicom_series_with_a_missing_slice_is_refused(phantoms, tmp_path):
    source = nib.load(phantoms / "case_00000_synthetic/imaging.nii.gz")
    write_series(tmp_path / "series", source, "plain")
    sorted((tmp_path / "series").iterdir())[4].unlink()
    with pytest.raises(InputError, match="expected slices .* mm apart"):
        open_volume(tmp_path / "series")
