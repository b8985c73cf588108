"""`prune`: a complete, smaller bundle, or one clear line and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import torch
from bundle_runs import BUNDLES, SCHEMA, read_network, run_well
from monai.bundle import verify_metadata, verify_net_in_out

from common.app.cli import main
from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.compression.zeros import measure_sparsity
from common.errors import find_input_error
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights

SD_UNET = "kits_sd_unet_segmentation"


@pytest.fixture(scope="session")
def prune():
    """A function that runs the command with words as typed."""
    return lambda words: main(["prune", *words])


@pytest.fixture
def sd_bundle(copy_bundle) -> Path:
    """SD-UNet, narrowed to 64 channels on every level, with untrained weights."""
    bundle = copy_bundle(SD_UNET)
    for config in ("train", "inference"):
        path = bundle / f"configs/{config}.json"
        content = json.loads(path.read_text())
        content["network_def"]["channels"] = [64] * 5
        path.write_text(json.dumps(content))
    save_weights(read_network(bundle), bundle / "models/model.pt")
    return bundle


def read_complexity(bundle: Path) -> dict:
    return json.loads((bundle / "configs/metadata.json").read_text())["complexity"]


def assert_verifies(bundle: Path, monkeypatch) -> LiteUNet:
    """What is checked of any bundle, and that its own weights fit; gives the network."""
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend(str(bundle))
    verify_metadata(meta_file="configs/metadata.json", filepath=str(SCHEMA))
    for config in ("train", "inference"):
        verify_net_in_out("network_def", "configs/metadata.json", f"configs/{config}.json", device="cpu")
        network = load_weights(read_network(bundle, config), bundle / "models/model.pt")
    complexity = read_complexity(bundle)
    assert complexity["parameters"] == count_parameters(network)
    assert complexity["nonzero_parameters"] == count_nonzero_parameters(network)
    zeros = complexity["parameters"] - complexity["nonzero_parameters"]
    assert complexity["sparsity"] == pytest.approx(zeros / complexity["parameters"], abs=1e-6)
    assert complexity["flops"] == count_flops(network, complexity["input_shape"])
    readme = (bundle / "docs/README.md").read_text()
    assert f"{complexity['parameters']:,} parameters" in readme and f"{complexity['flops']:,}" in readme
    assert f"{complexity['nonzero_parameters']:,} of the {complexity['parameters']:,} parameters are not zero" in readme
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert not [name for name in files if name.startswith(("eval/", "models/")) and name != "models/model.pt"]
    assert {"LICENSE", "docs/data_license.txt", "configs/prune.json"} <= files
    return network


@pytest.mark.parametrize("method, amount", [("magnitude", "0.6"), ("sigma", "1.0"), ("channel", "0.5")])
def test_every_method_writes_a_bundle_that_verifies(
    prune, weighted_bundle, tmp_path, monkeypatch, capsys, method, amount
):
    output = tmp_path / "kits_small_segmentation"
    assert prune(words(weighted_bundle, method, output, amount=amount)) == 0
    network = assert_verifies(output, monkeypatch)
    zeros, weights = (sum(getattr(layer, key) for layer in measure_sparsity(network)) for key in ("zeros", "weights"))
    complexity = read_complexity(output)
    assert complexity["original"] == {"channels": [16] * 5, "parameters": 53_027, "flops": 1_775_501_312}
    if method == "channel":
        assert network.channels == (8,) * 5 and zeros == 0
    else:
        assert zeros / weights == pytest.approx({"magnitude": 0.6, "sigma": 0.683}[method], abs=0.02)
        assert (output / "models/model.pt").stat().st_size < (weighted_bundle / "models/model.pt").stat().st_size
    printed = capsys.readouterr().out
    for value in (53_027, complexity["parameters"], complexity["nonzero_parameters"], complexity["flops"]):
        assert f"{value:,}" in printed
    assert "encoder.1.conv1" in printed and str(output) in printed


def words(bundle: Path, method: str, output: Path, **options: str) -> list[str]:
    """The command line of a pruning."""
    given = ["--bundle", str(bundle), "--method", method, "--output", str(output)]
    return given + [word for key, value in options.items() for word in (f"--{key}", str(value))]


def test_a_pruned_bundle_is_pruned_again_and_reports_against_the_original(
    prune, weighted_bundle, tmp_path, monkeypatch, capsys
):
    once, twice = tmp_path / "once_segmentation", tmp_path / "twice_segmentation"
    prune(words(weighted_bundle, "magnitude", once, amount="0.5"))
    capsys.readouterr()
    prune(words(once, "channel", twice, amount="0.5"))
    assert_verifies(twice, monkeypatch)
    complexity = read_complexity(twice)
    assert complexity["original"]["parameters"] == 53_027 and complexity["parameters"] < 53_027
    assert [step["method"] for step in complexity["pruning"]] == ["magnitude", "channel"]
    name = json.loads((twice / "configs/metadata.json").read_text())["name"]
    assert name == "Pocket U-Net, pruned"
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters"))
    assert row.split() == ["parameters", "53,027", "53,027", f"{complexity['parameters']:,}"]


def test_groupnorm_keeps_multiples_of_its_groups(prune, sd_bundle, tmp_path):
    output = tmp_path / "narrow_segmentation"
    assert prune(words(sd_bundle, "channel", output, amount="0.4")) == 0
    assert load_weights(read_network(output, "train"), output / "models/model.pt").channels == (32,) * 5


@pytest.mark.slow
@pytest.mark.parametrize("method, options", [("channel", {"amount": "0.5"}), ("magnitude", {"amount": "0.7"})])
def test_a_finetuned_bundle_is_trained_pruned_and_runs(
    prune, weighted_bundle, phantoms, tmp_path, monkeypatch, method, options, capfd
):
    output = tmp_path / "tuned_segmentation"
    tuning = {"finetune-epochs": 2, "coarse-epochs": int(method == "channel"), "dataset-dir": phantoms}
    assert prune(words(weighted_bundle, method, output, **options, **tuning)) == 0
    assert capfd.readouterr().out.count("epoch 1/1 ") == (1 if method == "channel" else 0)
    tuned = assert_verifies(output, monkeypatch)
    plain = tmp_path / "plain_segmentation"
    prune(words(weighted_bundle, method, plain, **options))
    untuned = load_weights(read_network(plain), plain / "models/model.pt")
    assert tuned.channels == untuned.channels
    assert [layer.zeros for layer in measure_sparsity(tuned)] == [layer.zeros for layer in measure_sparsity(untuned)]
    assert not torch.equal(tuned.head.weight, untuned.head.weight)
    run_well(output, "inference", dataset_dir=phantoms, output_dir=tmp_path / "out", spatial_size="[32,32]")
    segmented = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(segmented) == 4 and nib.load(segmented[0]).shape == (10, 48, 48)


@pytest.mark.slow
def test_taylor_importance_takes_gradients_from_the_training_cases(
    prune, weighted_bundle, phantoms, tmp_path, monkeypatch
):
    by_taylor, by_l1 = tmp_path / "taylor_segmentation", tmp_path / "l1_segmentation"
    taylor = {"importance": "taylor", "dataset-dir": phantoms, "amount": "0.5"}
    assert prune(words(weighted_bundle, "channel", by_taylor, **taylor)) == 0
    prune(words(weighted_bundle, "channel", by_l1, amount="0.5"))
    first = assert_verifies(by_taylor, monkeypatch)
    second = load_weights(read_network(by_l1), by_l1 / "models/model.pt")
    assert not torch.equal(first.encoder[0].conv1.weight, second.encoder[0].conv1.weight)
    assert not (weighted_bundle / "eval").exists()


# ---- wrong input

WRONG = {
    "amount 1": (("magnitude", {"amount": "1.0"}), "amount must be in [0, 1), got amount=1.0"),
    "negative amount": (("channel", {"amount": "-0.1"}), "amount must be in [0, 1), got amount=-0.1"),
    "negative ratio": (("sigma", {"amount": "-1"}), "must be 0 or more, got amount=-1.0"),
    "unknown method": (("lottery", {"amount": "0.5"}), "one of magnitude, sigma, channel, got method='lottery'"),
    "unknown importance": (
        ("channel", {"amount": "0.5", "importance": "magic"}),
        "one of l1, batchnorm, taylor, got importance='magic'",
    ),
    "no amount": (("magnitude", {}), "expected --amount or, for method channel, --channels"),
    "words for channels": (("channel", {"channels": "8,many"}), "--channels: expected numbers"),
    "too few channels": (("channel", {"channels": "8,8"}), "channels must be 5 positive numbers"),
    "no data to fine-tune on": (("channel", {"amount": "0.5", "finetune-epochs": "2"}), "dataset_dir: expected a KiTS"),
    "no data for gradients": (("channel", {"amount": "0.5", "importance": "taylor"}), "dataset_dir: expected a KiTS"),
    "bad data": (
        ("channel", {"amount": "0.5", "finetune-epochs": "1", "dataset-dir": "/nowhere"}),
        "the fine-tuning run failed",
    ),
}


@pytest.mark.parametrize("given, line", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_one_line_and_nothing_is_written(prune, weighted_bundle, tmp_path, given, line):
    assert_refused(prune, words(weighted_bundle, given[0], tmp_path / "new" / "x_segmentation", **given[1]), line)
    assert not list((tmp_path / "new").glob("*"))


def assert_refused(prune, command: list[str], line: str) -> None:
    with pytest.raises(Exception) as caught:
        prune(command)
    error = find_input_error(caught.value)
    assert error is not None and line in str(error) and "\n" not in str(error)


def test_missing_weights_are_one_line(prune, copy_bundle, tmp_path):
    command = words(copy_bundle(), "magnitude", tmp_path / "x_segmentation", amount="0.5")
    assert_refused(prune, command, "no weights here")


def test_a_folder_that_is_no_bundle_is_one_line(prune, tmp_path):
    command = words(tmp_path, "magnitude", tmp_path / "x_segmentation", amount="0.5")
    assert_refused(prune, command, "expected a bundle folder")


def test_a_channel_count_that_no_group_divides_is_one_line(prune, sd_bundle, tmp_path):
    command = words(sd_bundle, "channel", tmp_path / "x_segmentation", channels="48,32,32,32,32")
    assert_refused(prune, command, "multiples of GroupNorm's 32 groups, got channels=[48, 32, 32, 32, 32]")
    command = words(sd_bundle, "channel", tmp_path / "x_segmentation", amount="0.9")
    assert_refused(prune, command, "too few for GroupNorm with 32 groups")


def test_another_network_class_is_one_line(prune, weighted_bundle, tmp_path):
    path = weighted_bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    content["network_def"] = {"_target_": "BasicUNet"}
    path.write_text(json.dumps(content))
    command = words(weighted_bundle, "magnitude", tmp_path / "x_segmentation", amount="0.5")
    assert_refused(prune, command, "expected network_def to be a LiteUNet, found BasicUNet")


def test_an_existing_folder_is_left_alone(prune, weighted_bundle, tmp_path):
    output = shutil.copytree(BUNDLES / SD_UNET / "docs", tmp_path / "taken")
    command = words(weighted_bundle, "magnitude", output, amount="0.5")
    assert_refused(prune, command, "expected a new folder")
    assert {path.name for path in output.iterdir()} == {path.name for path in (BUNDLES / SD_UNET / "docs").iterdir()}
