"""Inference turns a volume of any orientation to RAS and its label map back, voxel for voxel."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd

from common.kits import volumes
from common.kits.cases import find_cases
from common.kits.inferer import AxialInferer
from common.kits.readers import CTReader
from common.kits.saving import SaveMaskd
from common.runtimes.scans import CHOSEN

SHAPE = (24, 24, 10)  # square slices, so that a transposed one would fit
AXES = ["IPL", "RAS", "LPS", "ASR", "oblique"]
CONFIG = Path(volumes.__file__).parents[2] / "scripts/zoo/skeleton/configs/inference.json"


class Threshold(torch.nn.Module):
    """(b, 1, H, W) -> logits (b, 3, H, W): kidney above 60 HU, tumour above 180."""

    def __init__(self, fault=lambda logits: logits) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x):
        centres = torch.tensor([0.0, 120.0, 240.0], device=x.device).reshape(1, 3, 1, 1) / 255
        return self.fault(centres * x - centres**2 / 2)


def make_patient() -> tuple[np.ndarray, np.ndarray]:
    """HU and label (X, Y, Z) in RAS: a small left and a large right kidney, and a tumour high in front."""
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 5:11, 2:7] = 1
    label[14:22, 6:14, 3:9] = 1
    label[17:21, 12:17, 6:9] = 2
    image = np.array([-100, 120, 240], np.int16)[label]
    image[:, :2] = -1000
    return image, label


@pytest.fixture
def patients(tmp_path, write_nifti, make_affine, store) -> dict[str, Path]:
    """One patient stored along all axes, each file called imaging.nii.gz, as in KiTS."""
    image, _ = make_patient()
    return {
        axes: write_nifti(store(image, axes), f"data/case_{axes}/imaging.nii.gz", make_affine(axes, SHAPE))
        for axes in AXES
    }


def make_weights(output_dir: Path) -> Path:
    """A file to stand for the network's weights: its hash goes into every mask."""
    path = output_dir.with_name("model.pt")
    path.write_bytes(b"weights")
    return path


def chain_in_python(output_dir: Path, invert: bool = True) -> tuple[Compose, Compose]:
    """Preprocessing and postprocessing as inference.json has them."""
    preprocessing = Compose(
        [
            LoadImaged("image", reader=CTReader(), dtype="uint8", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=None),
        ]
    )
    save = SaveMaskd("pred", output_dir, make_weights(output_dir))
    back = Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False)
    return preprocessing, Compose([back, save] if invert else [save])


def chain_of_config(output_dir: Path) -> tuple[Compose, Compose]:
    config = json.loads(CONFIG.read_text())
    parser = ConfigParser(
        {key: config[key] for key in ("preprocessing", "postprocessing", *CHOSEN)}
        | {"output_dir": output_dir, "weights": make_weights(output_dir), "hu_window": [0, 255]}
        | {"device": "cpu", "backend": "torch", "precision": None}
    )
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def segment(folder: Path, preprocessing: Compose, postprocessing: Compose, network=None) -> None:
    """Run an evaluator over all cases of a folder."""
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(find_cases(folder), preprocessing), batch_size=1),
        network=network or Threshold(),
        inferer=AxialInferer(SHAPE[:2], batch_size=4),
        postprocessing=postprocessing,
    ).run()


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("make_chain", [chain_in_python, chain_of_config])
def test_every_orientation_gives_its_label_map_back_voxel_for_voxel(patients, tmp_path, store, make_chain):
    segment(tmp_path / "data", *make_chain(tmp_path / "eval"))
    _, label = make_patient()
    assert sorted(file.name for file in (tmp_path / "eval").iterdir()) == sorted(f"case_{a}.nii.gz" for a in AXES)
    for axes, path in patients.items():
        source, found = nib.load(path), nib.load(tmp_path / "eval" / f"case_{axes}.nii.gz")
        assert found.shape == source.shape
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_allclose(found.affine, source.affine, atol=1e-4)
        expected_axes = "LPS" if axes == "oblique" else axes
        assert "".join(nib.aff2axcodes(found.affine)) == "".join(nib.aff2axcodes(source.affine)) == expected_axes
        np.testing.assert_array_equal(np.asarray(found.dataobj), store(label, axes))


def test_a_voxel_lies_at_the_same_millimetres_in_every_orientation(patients, tmp_path):
    """Independent of how the test stores volumes: the centre of mass of kidneys and tumour, in patient space."""
    segment(tmp_path / "data", *chain_in_python(tmp_path / "eval"))
    centres_mm = {}
    for axes, path in patients.items():
        image, found = nib.load(path), nib.load(tmp_path / "eval" / f"case_{axes}.nii.gz")
        for value, hu in ((1, 120), (2, 240)):
            for volume, wanted in ((image, hu), (found, value)):
                voxels = np.argwhere(np.asarray(volume.dataobj) == wanted).mean(axis=0)
                centres_mm.setdefault((axes, value), []).append(nib.affines.apply_affine(volume.affine, voxels))
    for axes, value in centres_mm:
        stored, segmented = centres_mm[axes, value]
        np.testing.assert_allclose(segmented, stored, atol=1e-3)
        if axes != "oblique":
            np.testing.assert_allclose(segmented, centres_mm["RAS", value][0], atol=1e-3)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("axes", AXES)
def test_a_volume_of_one_or_two_slices_keeps_its_shape(tmp_path, write_nifti, make_affine, store, axes, slices):
    image, label = (volume[..., 6 : 6 + slices] for volume in make_patient())
    source = write_nifti(store(image, axes), "data/thin.nii.gz", make_affine(axes, image.shape))
    segment(tmp_path / "data", *chain_in_python(tmp_path / "eval"))
    found = read(tmp_path / "eval" / "thin.nii.gz")
    assert found.shape == nib.load(source).shape
    np.testing.assert_array_equal(found, store(label, axes))


# The check is checked


def test_no_turned_copy_of_the_patient_equals_the_patient():
    _, label = make_patient()
    turns = itertools.product([False, True], repeat=4)
    for flip_x, flip_y, flip_z, transpose in list(turns)[1:]:
        turned = label[:: -1 if flip_x else 1, :: -1 if flip_y else 1, :: -1 if flip_z else 1]
        turned = turned.transpose(1, 0, 2) if transpose else turned
        assert turned.shape == label.shape
        assert not np.array_equal(turned, label)


@pytest.mark.parametrize(
    "fault", [lambda logits: logits.flip(2), lambda logits: logits.flip(3), lambda logits: logits.mT, torch.zeros_like]
)
def test_a_mirrored_transposed_or_empty_output_is_noticed(patients, tmp_path, store, fault):
    segment(tmp_path / "data", *chain_in_python(tmp_path / "eval"), network=Threshold(fault))
    _, label = make_patient()
    for axes in AXES:
        assert not np.array_equal(read(tmp_path / "eval" / f"case_{axes}.nii.gz"), store(label, axes))


def test_a_chain_that_forgets_to_turn_back_is_noticed(patients, tmp_path, store):
    segment(tmp_path / "data", *chain_in_python(tmp_path / "eval", invert=False))
    _, label = make_patient()
    right = {
        axes for axes in AXES if np.array_equal(read(tmp_path / "eval" / f"case_{axes}.nii.gz"), store(label, axes))
    }
    assert right == {"RAS"}
