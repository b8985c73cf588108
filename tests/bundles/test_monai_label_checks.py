"""What is checked for MONAI Label without a server: environment, port, bundles, and the label maps compared."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import POCKET, ROOT
from dicom_files import make_hu, make_positions, write_stack
from dicom_readers import read_with_highdicom
from good_bundle import edit

from common.errors import InputError
from common.kits.dicom_series import read_order
from zoo.label import server
from zoo.label.check import compare
from zoo.label.dicom_seg import write_segmentation
from zoo.label.server import install, run_server, write_app

# in one process, which test_monai_label_server.py shares
pytestmark = [pytest.mark.xdist_group("monai_label"), pytest.mark.timeout(3600)]

# Before the start


def test_an_environment_without_monai_label_is_told(pocket, studies, tmp_path):
    (tmp_path / "app/model").mkdir(parents=True)
    shutil.copytree(pocket, tmp_path / "app/model" / POCKET)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with (
        pytest.raises(InputError, match="found: .*No module named"),
        run_server(tmp_path / "app", studies, environment=tmp_path / "venv"),
    ):
        pass
    with pytest.raises(InputError, match="expected MONAI Label's environment, found none; install it first"):
        write_app([pocket], tmp_path / "other", tmp_path / "venv")
    assert not (tmp_path / "other").exists()


def test_a_port_in_use_is_told_before_anything_is_copied(pocket, studies, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"port: expected a free one, found {port} in use"),
            run_server(tmp_path / "app", studies, port),
        ):
            pass
        command = [sys.executable, "scripts/monai_label.py", "serve", "--bundles", pocket, "--app", tmp_path / "app"]
        command += ["--studies", studies, "--port", str(port)]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (told.returncode, told.stdout) == (1, "") and f"found {port} in use" in told.stderr
        assert not (tmp_path / "app").exists()
    with (
        pytest.raises(InputError, match="found 99999 in use, forbidden or no port"),
        run_server(tmp_path, studies, 99999),
    ):
        pass


@pytest.mark.parametrize(
    "missing", ["models/model.pt", "configs/metadata.json", "configs/inference.json", "configs/train.json"]
)
def test_a_bundle_that_would_stop_the_server_is_refused(pocket, studies, tmp_path, missing):
    (tmp_path / "app/model").mkdir(parents=True)
    with pytest.raises(InputError, match="model: expected bundles, found none"), run_server(tmp_path / "app", studies):
        pass
    (pocket / missing).unlink()
    shutil.copytree(pocket, tmp_path / "app/model" / POCKET)
    with (
        pytest.raises(InputError, match=f"{POCKET}: MONAI Label expects {missing} in a bundle, found none"),
        run_server(tmp_path / "app", studies),
    ):
        pass


def test_a_bundle_that_is_in_the_app_keeps_its_trained_weights(pocket, tmp_path):
    (tmp_path / "venv/monailabel/sample-apps/monaibundle").mkdir(parents=True)
    for content in (b"first", b"second"):
        (pocket / "models/model.pt").write_bytes(content)
        assert write_app([pocket], tmp_path / "app", tmp_path / "venv") == []
    copy = tmp_path / "app/model" / POCKET
    assert (copy / "models/model.pt").read_bytes() == b"first"
    edit(pocket / "configs/metadata.json", lambda content: content.update(version="9.9.9"))
    (line,) = write_app([pocket], tmp_path / "app", tmp_path / "venv")
    assert line.startswith(f"{copy}: kept as it is, ")
    with pytest.raises(InputError, match="dev/null/app: expected to write it, found: "):
        write_app([pocket], Path("/dev/null/app"), tmp_path / "venv")
    with pytest.raises(InputError, match="expects a name that tells the task"):
        write_app([pocket.rename(tmp_path / "pocket")], tmp_path / "app", tmp_path / "venv")


# Environment


def test_an_environment_is_made_anew_for_other_requirements_only(tmp_path, monkeypatch):
    # pip fails the same way with and without a network, an index or constraints; its words are its own
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(server, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("torch==0.0.0\n")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/requirements.txt").write_text("torch==0.0.0\n")
    install(tmp_path / "venv")
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["requirements.txt"]

    (tmp_path / "venv/requirements.txt").write_text("torch==0.0.1\n")
    with pytest.raises(InputError, match=r"-m pip install to succeed, found: \S"):
        install(tmp_path / "venv")
    assert not (tmp_path / "venv/requirements.txt").exists()


# DICOM


def test_a_label_map_is_turned_to_its_series_and_one_of_another_grid_refused(pocket, tmp_path):
    series = write_stack(tmp_path / "series", make_hu(), make_positions(6))
    affine = read_order(series)[2]
    label_map = nib.Nifti1Image((np.arange(480).reshape(10, 8, 6) % 3).astype(np.float32), affine)
    nib.save(label_map.as_reoriented([[2, -1], [0, 1], [1, -1]]), tmp_path / "turned.nii.gz")
    write_segmentation(series, tmp_path / "turned.nii.gz", pocket, tmp_path / "a.seg.dcm")
    np.testing.assert_array_equal(read_with_highdicom(tmp_path / "a.seg.dcm", series), label_map.dataobj)
    other = save(tmp_path / "other.nii.gz", np.asarray(label_map.dataobj), affine + 0.5 * np.eye(4, k=3))
    with pytest.raises(InputError, match="other.nii.gz: expected the affine of the series, "):
        write_segmentation(series, other, pocket, tmp_path / "b.seg.dcm")
    assert not (tmp_path / "b.seg.dcm").exists()


# Comparing


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


VOXELS = (np.arange(2400).reshape(2, 30, 40) % 3).astype(np.uint8)
TIPPED = np.where(np.arange(VOXELS.size).reshape(VOXELS.shape) == 5, 0, VOXELS)


def test_of_few_labelled_voxels_one_may_tie_but_not_more(tmp_path):
    few = (np.arange(60).reshape(2, 5, 6) % 3).astype(np.uint8)
    maps = [few.copy() for _ in range(3)]
    maps[1].flat[5], maps[2].flat[5:9] = 0, 0
    expected, one, three = (save(tmp_path / f"{i}.nii.gz", voxels, np.eye(4)) for i, voxels in enumerate(maps))
    assert compare(one, expected, expected) == "20 kidney, 20 tumor, as alone but for 1"
    with pytest.raises(InputError, match="3 of 40 labelled voxels differ"):
        compare(three, expected, expected)


@pytest.mark.parametrize(
    ("voxels", "affine", "problem"),
    [
        (VOXELS, np.eye(4), None),
        (VOXELS.astype(np.float32), np.eye(4) + 1e-6, None),
        (TIPPED, np.eye(4), None),
        (np.where(VOXELS[:1] == 2, 0, VOXELS), np.eye(4), "of 1600 labelled voxels differ"),
        (VOXELS[..., ::-1].copy(), np.eye(4), "of 1600 labelled voxels differ"),
        (VOXELS, np.diag([-1, 1, 1, 1]), "expected the image's affine"),
        (VOXELS.transpose(1, 0, 2), np.eye(4), "expected the image's shape"),
    ],
    ids=["same", "same as float", "one tie", "no tumor", "mirrored", "other affine", "other shape"],
)
def test_label_maps_are_compared_voxel_by_voxel_and_affine_by_affine(tmp_path, voxels, affine, problem):
    expected = save(tmp_path / "expected.nii.gz", VOXELS, np.eye(4))
    found = save(tmp_path / "found.nii.gz", voxels, affine)
    if problem is None:
        told = "as alone but for 1" if voxels is TIPPED else "as alone"
        assert compare(found, expected, expected) == f"800 kidney, 800 tumor, {told}"
    else:
        with pytest.raises(InputError, match=problem):
            compare(found, expected, expected)
    with pytest.raises(InputError, match="expected the image's affine"):
        compare(expected, expected, save(tmp_path / "image.nii.gz", VOXELS, np.diag([2, 1, 1, 1])))


def test_the_studies_are_one_ipl_and_one_ras_case_with_labels(studies):
    images = sorted(studies.glob("*.nii.gz"))
    assert ["".join(nib.aff2axcodes(nib.load(path).affine)) for path in images] == ["IPL", "RAS"]
    for path in images:
        image, label = nib.load(path), nib.load(studies / "labels/final" / path.name)
        assert np.array_equal(image.affine, label.affine) and set(np.unique(label.dataobj)) == {0, 1, 2}
