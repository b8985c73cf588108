"""What the verification finds in weights and predictions, and in bundles of another make."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from good_bundle import CHANNELS, INFERENCE, METADATA, README, SCORES, WEIGHTS, edit, find_problems
from monai.bundle import ConfigParser

from common.files import hash_file
from common.networks import LiteUNet, load_weights
from common.networks.weights import read_weights, save_weights
from common.runtimes.export import export_network
from common.runtimes.plain import describe_definition, mark_network
from zoo.shipped import write_shipped
from zoo.verification import CHECKS, verify_bundle


def test_a_changed_weight_is_found_out_by_the_sha256(broken):
    network = load_weights(LiteUNet(channels=CHANNELS), broken / WEIGHTS)
    next(network.parameters()).data[-1, 0, 0, 0] += 0.001
    before = hash_file(broken / WEIGHTS)
    save_weights(network, broken / WEIGHTS)
    problem = f"models/model.pt sha256: expected {before}, found {hash_file(broken / WEIGHTS)}"
    assert find_problems(broken) == [("weights file", problem)]


def test_a_shipped_network_of_other_weights_or_of_other_logits_is_found_out(broken):
    shipped = write_shipped(broken)
    assert [o.status for o in verify_bundle(broken, names=["shipped network"])] == ["ok"]
    network = load_weights(LiteUNet(channels=CHANNELS), broken / WEIGHTS)
    network.head.bias.data[1] += 1
    definition = describe_definition(json.loads((broken / INFERENCE).read_text())["network_def"])
    other = shipped.with_name("other.onnx")
    export_network(network, other, {"weights_sha256": hash_file(broken / WEIGHTS)} | mark_network(definition))
    other.replace(shipped)
    ((check, problem),) = find_problems(broken)
    assert check == "shipped network" and "model.onnx: expected the logits of models/model.pt, found them" in problem
    save_weights(network, broken / WEIGHTS)
    (outcome,) = verify_bundle(broken, names=["shipped network"])
    assert "expected the network of models/model.pt, found another" in outcome.detail


def test_a_weight_that_is_missing_is_named(broken):
    weights = read_weights(broken / WEIGHTS)
    name = sorted(weights)[3]
    del weights[name]
    torch.save(weights, broken / WEIGHTS)
    problem = f"models/model.pt: weights of another network: expected {name}, found no such key."
    assert find_problems(broken) == [("state dict", problem)]
    (outcome,) = verify_bundle(broken, None, ["sparsity"])
    assert (outcome.status, outcome.detail) == ("not recomputed", "models/model.pt does not fit network_def")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tensors load onto the GPU here, and are found out there")
def test_weights_saved_on_a_gpu_are_found_out(broken):
    path = broken / WEIGHTS
    torch.save(read_weights(path), path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in records.items():
            if name.endswith("data.pkl"):  # where a pickled tensor says on which device it was
                assert b"X\x03\0\0\0cpu" in content
                content = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            target.writestr(name, content)
    ((check, problem),) = [found for found in find_problems(broken) if found[0] != "weights file"]
    assert check == "weights on the CPU"
    assert problem.startswith("models/model.pt: expected a file that loads on the CPU, found ") and "CUDA" in problem


def test_another_split_is_found_out(broken, phantoms):
    """Patients that were trained on in the stead of those held out."""
    path = broken.parents[1] / "docs/splits/hold_out.json"
    edit(path, lambda split: split.update(training=split["validation"], validation=split["training"]))
    found = find_problems(broken, phantoms, SCORES)
    assert {name for name, _ in found} == {SCORES}
    assert any(problem.startswith("scores.patients.per_patient.") for _, problem in found)


def test_the_weights_that_run_are_scored(broken, phantoms):
    """The one file is named and counted, another is loaded."""
    shutil.copy(broken / WEIGHTS, broken / "models/other.pt")
    network = load_weights(LiteUNet(channels=CHANNELS), broken / WEIGHTS)
    network.head.bias.data += torch.tensor([0.0, 0.0, 100.0])
    save_weights(network, broken / "models/other.pt")
    text = (broken / "configs/inference.json").read_text()
    (broken / "configs/inference.json").write_text(text.replace("/models/model.pt", "/models/other.pt"))
    found = find_problems(broken, phantoms, SCORES)
    loaded = "configs/inference.json network: expected the weights of models/model.pt, found others"
    assert ("weights that run", loaded) in found
    assert any("scores.scan.tumor: expected" in detail for name, detail in found if name == SCORES)


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, {size}, padding="same")
    def forward(self, x):
        return self.conv(x)
"""


def write_stranger(good: Path, folder: Path, size: int) -> Path:
    """A bundle of another make, whose code lies in scripts/ and whose metadata says the least."""
    for name in ("LICENSE", "docs/data_license.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good / name, folder / name)
    for name in ("configs", "scripts", "models"):
        (folder / name).mkdir()
    metadata = json.loads((good / METADATA).read_text())
    for key in ("complexity", "weights", "scores"):
        del metadata[key]
    texts = {"label_classes": "1 is spleen, 0 is everything else", "pred_classes": "3 channels"}
    (folder / METADATA).write_text(json.dumps(metadata | texts))
    (folder / README).write_text("A network.\n")
    (folder / "configs/inference.json").write_text(json.dumps({"network_def": {"_target_": "scripts.net.Net"}}))
    (folder / "scripts/net.py").write_text(NET.format(size=size))
    torch.save(
        {"conv.weight": torch.zeros(3, 1, size, size), "conv.bias": torch.zeros(3)}, folder / WEIGHTS
    )  # fmt: skip
    return folder


def test_bundles_of_strangers_are_told_apart_and_need_not_record_what_ours_do(good, phantoms, tmp_path):
    path = list(sys.path)
    for size in (1, 3):
        stranger = write_stranger(good, tmp_path / f"size_{size}" / "bundle", size)
        outcomes = {outcome.name: outcome for outcome in verify_bundle(stranger, phantoms)}
        not_recorded = {name for name, outcome in outcomes.items() if outcome.status == "not recorded"}
        assert not_recorded == {
            "metadata keys", "labels", "inferer", "weights file", "weights that run", "complexity", "sparsity", "card",
            "run elsewhere", SCORES,
        }  # fmt: skip
        assert all(outcomes[name].status == "ok" for name in CHECKS.keys() - not_recorded), outcomes
    assert sys.path == path and "scripts.net" not in sys.modules


ZOO = {
    "imports": ["$import glob", "$import torch"],
    "bundle_root": ".",
    "dataset_dir": "data",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4, 4, 4, 4, 4, 4], "out_channels": 3},
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
    "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz'))]",
    "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset"},
    "handlers": [
        {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        }
    ],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "val_handlers": "@handlers",
    },
    "run": ["$@evaluator.run()"],
}


@pytest.mark.slow
def test_a_bundle_in_the_model_zoo_s_manner_is_not_called_broken(good, tmp_path):
    """A `CheckpointLoader`, data laid out otherwise, an output of another name."""
    folder = write_stranger(good, tmp_path / "bundle", 1)
    (folder / "configs/inference.json").write_text(json.dumps(ZOO))
    torch.manual_seed(0)
    torch.save(ConfigParser(ZOO).get_parsed_content("network_def").state_dict(), folder / WEIGHTS)
    edit(
        folder / METADATA,
        lambda m: m["network_data_format"]["outputs"].update(
            probabilities=m["network_data_format"]["outputs"].pop("pred")
        ),
    )
    outcomes = {outcome.name: outcome for outcome in verify_bundle(folder)}
    assert [outcome for outcome in outcomes.values() if outcome.status == "problem"] == []
    assert outcomes["run elsewhere"].status == "not recomputed"
    for name in ("network", "state dict", "weights that run", "configs"):
        assert outcomes[name].status == "ok", name
    config = json.dumps(ZOO).replace("/models/model.pt", "/models/other.pt")
    (folder / "configs/inference.json").write_text(config)
    (outcome,) = verify_bundle(folder, names=["weights that run"])
    assert outcome.detail.endswith("expected the weights of models/model.pt, found others")
