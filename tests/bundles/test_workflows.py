"""The workflows of every bundle, from the command line, on synthetic cases."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import NAMES, POCKET, TORCHRUN, read_network, run_well, start_bundle

from common.compression.channels import load_pruned
from common.compression.zeros import measure_sparsity, prune_by_sigma
from common.networks import load_weights

WP, PWP = "kits_wp_unet_segmentation", "kits_unet_pwp_segmentation"
SMALL = {"spatial_size": "[32,32]"}
TRAINING = {**SMALL, "windows": "{'32': 1}"}


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_trains_evaluates_and_segments(name, copy_bundle, phantoms, tmp_path):
    bundle = copy_bundle(name)
    printed = run_well(bundle, "train", dataset_dir=phantoms, epochs=1, **TRAINING)
    assert "epoch 1/1" in printed and "left" in printed
    weights = load(bundle / "models/model.pt")
    assert all(isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" for tensor in weights.values())
    assert not (bundle / "models/checkpoint.pt").exists()
    assert list((bundle / "eval").glob("events.out.tfevents*"))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_well(bundle, "train", "evaluate", cwd=elsewhere, dataset_dir=phantoms, **SMALL)
    held_out = json.loads((bundle / "eval/split.json").read_text())["validation"]
    rows = list(csv.DictReader((bundle / "eval/metrics.csv").open()))
    assert [row["case"] for row in rows] == held_out
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("kidney_dice", "tumor_dice", "composite"))
    assert json.loads((bundle / "eval/summary.json").read_text())["cases"] == len(held_out)
    assert all((bundle / f"eval/{case}.png").stat().st_size > 10_000 for case in held_out)

    options = {"dataset_dir": phantoms, "output_dir": tmp_path / "out", "pictures": True, **SMALL}
    run_well(bundle, "inference", cwd=elsewhere, **options)
    cases = sorted(folder.name for folder in phantoms.iterdir())
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(
        f"{c}{s}" for c in cases for s in (".nii.gz", ".png")
    )
    for case in cases:
        image, result = nib.load(phantoms / case / "imaging.nii.gz"), nib.load(tmp_path / "out" / f"{case}.nii.gz")
        assert result.shape == image.shape and result.get_data_dtype() == np.uint8
        assert np.allclose(result.affine, image.affine) and nib.aff2axcodes(result.affine) == ("I", "P", "L")
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_a_plain_folder_is_segmented_from_the_bundles_own_folder(copy_bundle, phantoms, tmp_path):
    bundle = copy_bundle()
    run_well(bundle, "train", dataset_dir=phantoms, epochs=1, **TRAINING)
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, case in enumerate(sorted(phantoms.iterdir())[:2]):
        (plain / f"patient{number}.nii.gz").symlink_to(case / "imaging.nii.gz")
    run_well(bundle, "inference", dataset_dir=plain, output_dir="out", **SMALL)
    assert sorted(f.name for f in (bundle / "out").glob("*.nii.gz")) == ["patient0.nii.gz", "patient1.nii.gz"]


@pytest.mark.slow
def test_two_runs_and_a_killed_and_resumed_one_give_the_same_weights(copy_bundle, phantoms, tmp_path):
    bundle = copy_bundle()
    arguments = {"dataset_dir": phantoms, "epochs": 5, "cache_dir": tmp_path / "cache", **TRAINING}
    for run in ("first", "second"):
        run_well(bundle, "train", ckpt_dir=tmp_path / run, **arguments)
    assert equal(load(tmp_path / "first/model.pt"), load(tmp_path / "second/model.pt"))

    process = start_bundle(bundle, "train", ckpt_dir=tmp_path / "killed", **arguments)
    for line in process.stdout:
        if "epoch 3/5" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert (tmp_path / "killed/checkpoint.pt").is_file()
    printed = run_well(bundle, "train", ckpt_dir=tmp_path / "killed", **arguments)
    assert "resuming after epoch" in printed and "epoch 1/5" not in printed
    assert equal(load(tmp_path / "first/model.pt"), load(tmp_path / "killed/model.pt"))
    assert sorted(f.name for f in (tmp_path / "killed").iterdir()) == ["model.pt"]

    run_well(bundle, "train", ckpt_dir=tmp_path / "other", **(arguments | {"seed": 1}))
    assert not equal(load(tmp_path / "first/model.pt"), load(tmp_path / "other/model.pt"))


@pytest.mark.slow
def test_without_validation_the_last_weights_are_kept(copy_bundle, phantoms):
    bundle = copy_bundle()
    run_well(bundle, "train", dataset_dir=phantoms, epochs=1, val_interval=2, **TRAINING)
    assert not (bundle / "models/model.pt").exists()
    run_well(bundle, "train", dataset_dir=phantoms, epochs=1, val_interval=2, keep="last", **TRAINING)
    assert load(bundle / "models/model.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", [WP, PWP])
def test_the_recipe_of_a_pruned_network_from_training_to_segmentation(name, copy_bundle, phantoms, tmp_path):
    bundle = copy_bundle(name)
    data = {"dataset_dir": phantoms, **TRAINING}
    dense = {"network_def#channels": "[64,64,128,256,512]", "ckpt_dir": "models/dense"} if name == PWP else {}
    run_well(bundle, "train", epochs=1, **data, **dense)
    run_well(bundle, "train", "prune", epochs=2, importance="l1", **data)
    pruned = load_weights(read_network(bundle), bundle / "models/pruned/model.pt")
    settings = json.loads((bundle / "configs/prune.json").read_text())
    if name == WP:
        assert settings["method"] == "magnitude"
        for layer in measure_sparsity(pruned):
            assert layer.zeros == round(settings["amount"] * layer.weights)
    else:
        assert settings["method"] == "sigma"
        narrow = load_pruned(read_network(bundle), bundle / "models/dense/model.pt")
        expected = measure_sparsity(prune_by_sigma(narrow, settings["amount"]))
        assert measure_sparsity(pruned) == expected and all(layer.zeros for layer in expected)
    run_well(bundle, "train", "prune", "evaluate", **data)
    assert (bundle / "eval/pruned/summary.json").is_file()
    weights = bundle / "models/pruned/model.pt"
    run_well(bundle, "inference", output_dir=tmp_path / "out", weights=weights, dataset_dir=phantoms, **SMALL)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


@pytest.mark.slow
def test_a_killed_pruning_run_goes_on_to_the_same_weights_and_two_processes_prune_too(copy_bundle, phantoms, tmp_path):
    bundle = copy_bundle()
    run_well(bundle, "train", dataset_dir=phantoms, epochs=1, **TRAINING)
    arguments = {"dataset_dir": phantoms, "epochs": 4, **TRAINING}
    run_well(bundle, "train", "prune", ckpt_dir=tmp_path / "whole", **arguments)
    process = start_bundle(bundle, "train", "prune", ckpt_dir=tmp_path / "killed", **arguments)
    for line in process.stdout:
        if "epoch 1/4" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert (tmp_path / "killed/checkpoint.pt").is_file()
    assert "resuming after epoch" in run_well(bundle, "train", "prune", ckpt_dir=tmp_path / "killed", **arguments)
    assert equal(load(tmp_path / "whole/model.pt"), load(tmp_path / "killed/model.pt"))

    together = {"launcher": TORCHRUN, "ckpt_dir": tmp_path / "two"}
    run_well(bundle, "train", "prune", "multi_gpu_train", **arguments, **together)
    one, two = (load_weights(read_network(bundle), tmp_path / f"{run}/model.pt") for run in ("whole", "two"))
    assert measure_sparsity(one) == measure_sparsity(two) and all(layer.zeros for layer in measure_sparsity(one))


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(copy_bundle, phantoms):
    bundle = copy_bundle(POCKET)
    data = {"dataset_dir": phantoms, **TRAINING}
    printed = run_well(bundle, "train", "multi_gpu_train", launcher=TORCHRUN, epochs=2, **data)
    assert printed.count("epoch 2/2") == 1
    assert not any(key.startswith("module.") for key in load(bundle / "models/model.pt"))
    run_well(bundle, "train", "evaluate", dataset_dir=phantoms, subset="all", output_dir="one", **SMALL)
    run_well(
        bundle, "train", "evaluate", "multi_gpu_evaluate",
        launcher=TORCHRUN, dataset_dir=phantoms, subset="all", output_dir="two", **SMALL,
    )  # fmt: skip
    assert (bundle / "one/metrics.csv").read_text() == (bundle / "two/metrics.csv").read_text()
    assert (bundle / "one/summary.json").read_text() == (bundle / "two/summary.json").read_text()
