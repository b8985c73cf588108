"""Bad input from the command line: one clear line, an exit code that is not 0, nothing half-written."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import run_bundle

from common.networks import LiteUNet
from common.networks.weights import save_weights

TRAIN, EVALUATE, INFERENCE, PRUNE = ("train",), ("train", "evaluate"), ("inference",), ("train", "prune")
SMALL = {"spatial_size": "[32,32]", "windows": "{'32': 1}"}
ALL = {INFERENCE: {}, EVALUATE: {"subset": "all"}}


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def change(path: Path, function: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(function(np.asarray(image.dataobj)), image.affine), path)


def set_label_7(voxels: np.ndarray) -> np.ndarray:
    voxels[0, 0, 0] = 7
    return voxels


def no_folder(data: Path) -> None:
    shutil.rmtree(data)


def empty_folder(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


# what is done to the data, the workflow, words of the line that says so
BAD_DATA = {
    "missing folder": (no_folder, TRAIN, ["expected a folder of cases"]),
    "missing folder for inference": (no_folder, INFERENCE, ["expected a folder of cases"]),
    "empty folder": (empty_folder, TRAIN, ["images or a DICOM series, found none"]),
    "empty folder for inference": (empty_folder, INFERENCE, ["found none"]),
    "truncated image": (lambda d: truncate(d / "case_0_synthetic/imaging.nii.gz"), TRAIN, ["truncated or damaged"]),
    "truncated image for inference": (
        lambda d: truncate(d / "case_0_synthetic/imaging.nii.gz"),
        INFERENCE,
        ["truncated or damaged"],
    ),
    "image without label": (
        lambda d: (d / "case_1_synthetic/segmentation.nii.gz").unlink(),
        TRAIN,
        ["case_1_synthetic", "expected label"],
    ),
    "label of another shape": (
        lambda d: change(d / "case_0_synthetic/segmentation.nii.gz", lambda v: v[:-1]),
        TRAIN,
        ["expected the image's shape (8, 32, 32), found (7, 32, 32)"],
    ),
    "label value 7": (
        lambda d: change(d / "case_0_synthetic/segmentation.nii.gz", set_label_7),
        TRAIN,
        ["case_0_synthetic", "expected labels [0, 1, 2, 3], found 7"],
    ),
    "2-D image": (
        lambda d: change(d / "case_0_synthetic/imaging.nii.gz", lambda v: v[0]),
        INFERENCE,
        ["expected a 3-D image, found shape (32, 32)"],
    ),
    "4-D image": (
        lambda d: change(d / "case_0_synthetic/imaging.nii.gz", lambda v: np.stack([v, v], axis=-1)),
        INFERENCE,
        ["expected a 3-D image, found shape (8, 32, 32, 2)"],
    ),
}


@pytest.fixture
def data(phantoms, tmp_path) -> Path:
    """Three tiny labelled cases that a test may break."""
    for number, case in enumerate(sorted(phantoms.iterdir())[:3]):
        folder = tmp_path / "data" / f"case_{number}_synthetic"
        folder.mkdir(parents=True)
        for name in ("imaging", "segmentation"):
            image = nib.load(case / f"{name}.nii.gz")
            voxels = np.asarray(image.dataobj)[:8, 8:40, 8:40]
            nib.save(nib.Nifti1Image(voxels, image.affine), folder / f"{name}.nii.gz")
    return tmp_path / "data"


@pytest.fixture
def bundle(weighted_bundle) -> Path:
    return weighted_bundle


def find_error(bundle: Path, *configs: str, **arguments) -> list[str]:
    """The lines of the error that a run must end with."""
    done = run_bundle(bundle, *configs, **({"spatial_size": "[32,32]"} if configs == INFERENCE else SMALL) | arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    return lines[start:]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "configs", "words"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_one_clear_line(spoil, configs, words, bundle, data):
    weights = (bundle / "models/model.pt").read_bytes()
    spoil(data)
    lines = find_error(bundle, *configs, dataset_dir=data, output_dir=bundle / "out")
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines
    assert (bundle / "models/model.pt").read_bytes() == weights
    assert not list(bundle.glob("out/**/.*"))


@pytest.mark.slow
def test_all_bad_cases_are_told_at_once_before_training(bundle, data):
    change(data / "case_0_synthetic/segmentation.nii.gz", set_label_7)
    truncate(data / "case_1_synthetic/imaging.nii.gz")
    change(data / "case_2_synthetic/imaging.nii.gz", lambda v: np.clip(v, 0, 1))
    split = bundle / "split.json"
    split.write_text('{"training": ["case_0_synthetic", "case_1_synthetic", "case_2_synthetic"], "validation": ["x"]}')
    split.write_text(split.read_text().replace('"x"', '"case_3_synthetic"'))
    shutil.copytree(data / "case_0_synthetic", data / "case_3_synthetic")
    lines = find_error(bundle, *TRAIN, dataset_dir=data, split_file=split)
    assert len(lines) == 3, lines
    assert all(f"case_{number}_synthetic" in line for number, line in enumerate(lines))


@pytest.mark.slow
def test_missing_and_foreign_weights_are_one_clear_line(bundle, data):
    run = {"dataset_dir": data, "output_dir": bundle / "out"}
    save_weights(LiteUNet(channels=[8] * 5), bundle / "models/model.pt")
    (line,) = find_error(bundle, *INFERENCE, **run)
    assert "models/model.pt: weights of another network" in line
    torch.save({}, bundle / "other.pt")
    (line,) = find_error(bundle, *INFERENCE, weights=bundle / "other.pt", **run)
    assert "weights of another network" in line
    (bundle / "broken.pt").write_bytes(gzip.compress(b"nothing"))
    (line,) = find_error(bundle, *INFERENCE, weights=bundle / "broken.pt", **run)
    assert "expected a PyTorch state dict" in line
    (bundle / "models/model.pt").unlink()
    for configs in (INFERENCE, EVALUATE):
        (line,) = find_error(bundle, *configs, **ALL[configs], **run)
        assert "no weights here" in line
    assert not (bundle / "out").exists() or not list((bundle / "out").iterdir())


@pytest.mark.slow
def test_inference_and_evaluation_do_the_others_where_one_case_fails(bundle, data):
    truncate(data / "case_0_synthetic/imaging.nii.gz")
    out = bundle / "out"
    (out / "case_1_synthetic.nii.gz").mkdir(parents=True)  # where its mask would go
    lines = find_error(bundle, *INFERENCE, dataset_dir=data, output_dir=out)
    assert len(lines) == 2 and "truncated or damaged" in lines[0] and "case_1_synthetic" in lines[1]
    assert nib.load(out / "case_2_synthetic.nii.gz").shape == (8, 32, 32)
    lines = find_error(bundle, *EVALUATE, dataset_dir=data, output_dir=bundle / "eval", subset="all")
    assert len(lines) == 1 and "case_0_synthetic" in lines[0]
    rows = (bundle / "eval/metrics.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["case_1_synthetic", "case_2_synthetic"]


@pytest.mark.slow
def test_inference_and_evaluation_never_write_where_they_read(bundle, data):
    before = {path: path.read_bytes() for path in data.rglob("*.nii.gz")}
    for configs in (INFERENCE, EVALUATE):
        for output in (data, data / "case_1_synthetic"):
            (line,) = find_error(bundle, *configs, dataset_dir=data, output_dir=output, **ALL[configs])
            assert "expected another folder than that of the inputs" in line
    plain = bundle / "scans"
    plain.mkdir()
    shutil.copy(data / "case_0_synthetic/imaging.nii.gz", plain / "scan.nii.gz")
    (line,) = find_error(bundle, *INFERENCE, dataset_dir=plain, output_dir=plain)
    assert "expected another folder than that of the inputs" in line
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert [path.name for path in plain.iterdir()] == ["scan.nii.gz"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"outptu_dir": "out"}, "--outptu_dir: expected a key of the configs, found none of this name; did you mean"),
        ({"device": "cuda:77"}, "device: expected one that is here, cpu or cuda, found cuda:77"),
        ({"output_dir": "configs/inference.json"}, "expected a folder to write to"),
    ],
    ids=["unknown override", "device", "output"],
)
def test_a_wrong_setting_of_inference_is_one_line_before_anything_is_computed(settings, words, bundle, data):
    (line,) = find_error(bundle, *INFERENCE, **{"dataset_dir": data, "output_dir": "out"} | settings)
    assert words in line
    assert not (bundle / "out").exists()


@pytest.mark.slow
def test_a_split_with_a_case_on_both_sides_is_refused(bundle, data):
    split = bundle / "split.json"
    split.write_text('{"training": ["case_0_synthetic", "case_1_synthetic"], "validation": ["case_1_synthetic"]}')
    (line,) = find_error(bundle, *TRAIN, dataset_dir=data, split_file=split)
    assert "found on both: case_1_synthetic" in line


@pytest.mark.slow
def test_an_unfinished_run_on_other_cases_is_not_gone_on_with(bundle, data):
    torch.save({"run": {"cases": ["case_9"], "epochs": 2}}, bundle / "models/checkpoint.pt")
    (line,) = find_error(bundle, *TRAIN, dataset_dir=data, epochs=2)
    assert "checkpoint.pt: expected the unfinished run of these cases" in line


WRONG_SETTINGS = {
    "keep": (TRAIN, {"keep": "first"}, "keep must be 'best' or 'last', got keep='first'"),
    "pretrained": (TRAIN, {"pretrained": "nowhere.pt"}, "nowhere.pt: no weights here"),
    "window": (TRAIN, {"windows": "{'40': 1}"}, "windows: expected multiples of 16 pixels, found [40]."),
    "windows": (TRAIN, {"windows": "{'640': 1}"}, "windows: expected slices"),
    "kind of view": (TRAIN, {"view_shares": "{'near': 1}"}, "expected foreground, negative, hard, found near"),
    "no share": (TRAIN, {"view_shares": "{'negative': 1}"}, "expected a share of foreground views above 0"),
    "HU window": (TRAIN, {"hu_window": "[255,0]"}, "hu_window: expected two Hounsfield units, the lower first"),
    "pixel size": (TRAIN, {"spatial_size": None, "pixel_mm": 0}, "pixel_mm: expected a positive number, found 0"),
    "method": (PRUNE, {"method": "lottery"}, "method must be one of magnitude, sigma, got method='lottery'"),
    "amount": (PRUNE, {"amount": 1.0}, "amount must be in [0, 1), got amount=1.0"),
    "ramp": (PRUNE, {"ramp": 0}, "ramp must be in (0, 1], got ramp=0"),
    "importance": (PRUNE, {"network_def#channels": "[8,8,8,8,8]", "importance": "magic"}, "got importance='magic'"),
    "channels": (PRUNE, {"network_def#channels": "[32,32,32,32,32]"}, "none above [16, 16, 16, 16, 16]"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("configs", "settings", "words"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_a_wrong_setting_of_training_or_pruning_is_one_clear_line(configs, settings, words, bundle, data):
    (line,) = find_error(bundle, *configs, dataset_dir=data, epochs=1, **settings)
    assert words in line
    assert not (bundle / "models/pruned").exists()
