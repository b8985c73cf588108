"""Wrong settings of training and inference: one line before the work, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundle_runs import BUNDLES, POCKET
from monai.bundle import ConfigWorkflow

from common.bundle_folder import open_bundle
from common.errors import find_input_error

SMALL = {"spatial_size": [32, 32], "windows": {"32": 1}, "views_per_epoch": 4, "batch_size": 4, "epochs": 1}


def run(config: str, folder: Path, cases: Path, **settings: object) -> str:
    """Run a config of Pocket U-Net in this process; gives the line that it was refused with."""
    bundle = BUNDLES / POCKET
    open_bundle(bundle)
    small = SMALL if config == "train" else {"spatial_size": [32, 32]}
    places = {"dataset_dir": str(cases), "output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models")}
    workflow = ConfigWorkflow(
        str(bundle / f"configs/{config}.json"), logging_file=False, bundle_root=str(bundle), **small | places | settings
    )
    workflow.initialize()
    with pytest.raises(Exception) as caught:  # MONAI wraps what comes of a component
        workflow.run()
    told = find_input_error(caught.value)
    assert told is not None, caught.value
    return str(told)


COUNT, NUMBER = "expected a positive whole number, found ", "expected a positive number, found "
WRONG = [
    ({"epochs": 0}, f"epochs: {COUNT}0"),
    ({"epochs": 1.5}, f"epochs: {COUNT}1.5"),
    ({"epochs": "ten"}, f"epochs: {COUNT}ten"),
    ({"val_interval": 0}, f"val_interval: {COUNT}0"),
    ({"batch_size": 0}, f"batch_size: {COUNT}0"),
    ({"batch_size": "four"}, f"batch_size: {COUNT}four"),
    ({"views_per_epoch": 0}, f"views_per_epoch: {COUNT}0"),
    ({"num_workers": -1}, "num_workers: expected 0 or a positive whole number, found -1"),
    ({"learning_rate": -1}, f"learning_rate: {NUMBER}-1"),
    ({"learning_rate": float("nan")}, f"learning_rate: {NUMBER}nan"),
    ({"device": "cuda:77"}, "device: expected one that is here, cpu or cuda, found cuda:77"),
    ({"device": "gpu"}, "device: expected one that is here, cpu or cuda, found gpu"),
    ({"output_dir": "{cases}"}, "expected another folder than that of the inputs"),
    ({"ckpt_dir": "{cases}/case_00000_synthetic"}, "expected another folder than that of the inputs"),
    ({"cache_dir": "{cases}"}, "expected another folder than that of the inputs"),
    ({"output_dir": "{folder}/file"}, "file: expected a folder to write to"),
    ({"ckpt_dir": "{folder}/file"}, "file: expected a folder to write to"),
    ({"cache_dir": "{folder}/file/cache"}, "cache: expected a folder to write to"),
    ({"seed": -1}, "seed: expected 0 or a positive whole number, found -1"),
    ({"seed": 1.5}, "seed: expected 0 or a positive whole number, found 1.5"),
    ({"output_dir": "a::b"}, "a::b: expected a path without ::"),
    ({"dataset_dir": "{folder}/nowhere"}, "nowhere: expected a folder of cases, found none"),
    ({"dataset_dir": 2023}, "2023: expected a folder of cases, found none"),
]
# these are found a little later, when the cases have been split
LATER = [
    ({"network_def#block": "inception"}, "block must be one of conv, residual, concat, dense, got block='inception'"),
    ({"network_def#spatial_dims": 3}, "image: expected 3 axes after batch and channels, found 2"),
    ({"spatial_size": 256}, "spatial_size: expected two positive whole numbers, found 256"),
    ({"spatial_size": [20.5, 20]}, "spatial_size: expected two positive whole numbers, found [20.5, 20]"),
    ({"windows": {"0": 1}}, "windows: expected multiples of 16 pixels, found [0]"),
    ({"windows": {"32": "a"}}, "windows: expected shares of 0 or more"),
    ({"network_def#channels": [16]}, "channels must be two or more positive numbers"),
    ({"view_shares": 3}, "view_shares: expected kinds of views and their shares, found 3"),
    ({"validation_fraction": "all"}, "validation_fraction: expected a number between 0 and 1, found all"),
]


def spell(settings: dict, **values: object) -> dict:
    return {key: value.format(**values) if isinstance(value, str) else value for key, value in settings.items()}


@pytest.mark.parametrize(("settings", "words"), WRONG + LATER, ids=str)
def test_a_wrong_setting_of_a_training_is_one_line_before_the_work(settings, words, phantoms, tmp_path):
    (tmp_path / "file").touch()
    before = sorted(phantoms.rglob("*"))
    told = run("train", tmp_path, phantoms, **spell(settings, folder=tmp_path, cases=phantoms))
    assert words in told and "\n" not in told
    assert sorted(phantoms.rglob("*")) == before and not (tmp_path / "models").exists()
    assert (settings, words) in LATER or not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, f"batch_size: {COUNT}0"),
        ({"spatial_size": 256}, "spatial_size: expected two positive whole numbers, found 256"),
        ({"device": "cuda:77"}, "device: expected one that is here"),
        ({"output_dir": "{cases}"}, "expected another folder than that of the inputs"),
        ({"output_dir": "{folder}/file"}, "file: expected a folder to write to"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_an_inference_is_one_line_before_the_work(settings, words, phantoms, tmp_path):
    (tmp_path / "file").touch()
    told = run("inference", tmp_path, phantoms, **spell(settings, folder=tmp_path, cases=phantoms))
    assert words in told and "\n" not in told and not (tmp_path / "eval").exists()


def test_folders_that_are_numbers_are_folders(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2023").symlink_to(phantoms)
    bundle = BUNDLES / POCKET
    open_bundle(bundle)
    workflow = ConfigWorkflow(
        str(bundle / "configs/train.json"), logging_file=False, bundle_root=str(bundle), **SMALL,
        dataset_dir=2023, output_dir=2024, ckpt_dir=2025,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    assert (tmp_path / "2024/split.json").is_file() and (tmp_path / "2025/model.pt").is_file()
