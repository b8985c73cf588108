"""Training by the protocol and taking over what it made, on phantoms of two folds in place of three."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import pytest
import torch
from bundle_runs import BUNDLES, POCKET
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import InputError
from common.kits.cases import find_cases
from common.networks import LiteUNet, load_weights
from common.networks.weights import read_weights, save_weights
from studies import protocol, publishing
from studies.protocol import STAGES, Stage, find_variant, plan_length, segment_held_out, train
from studies.publishing import publish, ship_weights
from zoo import records

UNET_FLOPS = 96_200_556_544
SMALL = {"spatial_size": [32, 32], "translate_range": [2, 2], "val_interval": 2}


@pytest.fixture(scope="module")
def folds(phantoms, tmp_path_factory) -> Path:
    """The split files of two folds; the first two cases are always trained on."""
    folder = tmp_path_factory.mktemp("repository") / "docs/folds"
    folder.mkdir(parents=True)
    names = [case["case"] for case in find_cases(phantoms)]
    for number in (1, 2):
        held_out = names[number + 1]
        split = {"training": [name for name in names if name != held_out], "validation": [held_out]}
        (folder / f"fold_{number}.json").write_text(json.dumps(split))
    return folder


@pytest.fixture(autouse=True)
def small_protocol(folds, monkeypatch):
    """Two folds, two epochs a stage, 32 x 32 pixels."""
    stages = {name: Stage(2, 32, stage.settings | SMALL, stage.configs) for name, stage in STAGES.items()}
    monkeypatch.setattr(protocol, "STAGES", stages)
    monkeypatch.setattr(protocol, "SPLITS", folds)
    for module in (protocol, publishing):
        monkeypatch.setattr(module, "FOLDS", ("fold_1", "fold_2"))
    monkeypatch.setattr(records, "REPOSITORY", folds.parents[1])
    for module in (records, publishing):
        monkeypatch.setattr(module, "RECORDS", folds.parents[1] / "docs/cross_validation")


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trainings")


def train_pocket(phantoms: Path, trainings: Path) -> None:
    for fold in ("fold_1", "fold_2", "all"):
        folder = train(POCKET, fold, phantoms, trainings)
        if fold != "all":
            segment_held_out(folder, fold, phantoms, trainings / POCKET / "predictions")


@pytest.mark.xdist_group("protocol")
def test_a_training_is_published(phantoms, trainings, folds, tmp_path, monkeypatch):
    train_pocket(phantoms, trainings)
    with pytest.raises(InputError, match="found none on all and on any fold; run train.py"):
        publish("kits_wp_unet_segmentation", phantoms, trainings)
    monkeypatch.setattr(publishing, "BUNDLES", tmp_path)
    (tmp_path / POCKET).symlink_to(trainings / POCKET / "all")  # any bundle folder of that network
    docs = folds.parent / "cross_validation"
    log = trainings / POCKET / "fold_2/eval/long"
    log.rename(tmp_path / "log")
    with pytest.raises(InputError, match=f"{log}: expected the stage's TensorBoard log, found none"):
        publish(POCKET, phantoms, trainings)
    assert not docs.exists()
    (tmp_path / "log").rename(log)
    record = publish(POCKET, phantoms, trainings)

    assert record == json.loads((docs / f"{POCKET}.json").read_text())
    scores = record["cross_validation"]
    assert [fold["split_file"] for fold in scores["folds"]] == ["docs/folds/fold_1.json", "docs/folds/fold_2.json"]
    assert min(fold["kidney_and_tumor"] for fold in scores["folds"]) <= scores["kidney_and_tumor"] <= 1
    held_out = sorted(path.name for path in (docs / POCKET).iterdir())
    cases = {case["case"]: case for case in find_cases(phantoms)}
    assert held_out == sorted(f"{name}.nii.gz" for name in list(cases)[2:])
    for name in list(cases)[2:]:
        assert nib.load(docs / POCKET / f"{name}.nii.gz").shape == nib.load(cases[name]["label"]).shape
    assert record["shipped_weights"]["cases"] == 4
    with (docs / f"{POCKET}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["stage"], row["epoch"]) for row in rows[:4]] == [
        ("fold_1", "coarse", "1"),
        ("fold_1", "coarse", "2"),
        ("fold_1", "long", "3"),
        ("fold_1", "long", "4"),
    ]
    assert {row["fold"] for row in rows} == {"fold_1", "fold_2", "all"}
    assert len(rows) == 12 and all(float(row["loss"]) > 0 for row in rows)
    assert rows[1]["kidney_dice"] and not rows[0]["kidney_dice"]


@pytest.mark.parametrize(
    ("name", "complete", "missing"),
    [(POCKET, ["fold_2"], "all"), (POCKET, ["all"], "any fold"), (protocol.BASELINES[0].name, ["all"], "any fold")],
)
def test_without_a_fold_or_the_shipped_weights_nothing_is_published(name, complete, missing, phantoms, tmp_path):
    for fold in complete:
        weights = tmp_path / name / fold / "models/model.pt"
        weights.parent.mkdir(parents=True)
        weights.touch()
    with pytest.raises(InputError, match=f"{name}: expected complete trainings, found none on {missing}; run"):
        publish(name, phantoms, tmp_path)


@pytest.mark.xdist_group("protocol")
def test_a_fold_never_sees_its_held_out_case_and_all_sees_every_case(phantoms, trainings):
    train_pocket(phantoms, trainings)
    steps = {}
    for fold in ("fold_1", "all"):
        events = EventAccumulator(str(trainings / POCKET / fold / "eval/coarse")).Reload()
        steps[fold] = max(event.step for event in events.Scalars("train_loss"))
    assert steps["all"] > steps["fold_1"]
    split = json.loads((trainings / POCKET / "fold_1/eval/coarse/split.json").read_text())
    assert split == json.loads((protocol.SPLITS / "fold_1.json").read_text())


@pytest.mark.xdist_group("protocol")
def test_a_complete_training_is_left_alone_and_a_lost_stage_is_trained_again(phantoms, trainings):
    train_pocket(phantoms, trainings)
    models = trainings / POCKET / "fold_1/models"
    times = {stage: (models / stage / "model.pt").stat().st_mtime_ns for stage in ("coarse", "long")}
    (models / "long/model.pt").unlink()
    before = read_weights(models / "model.pt")
    train(POCKET, "fold_1", phantoms, trainings)
    assert (models / "coarse/model.pt").stat().st_mtime_ns == times["coarse"]
    assert (models / "long/model.pt").stat().st_mtime_ns > times["long"]
    again = read_weights(models / "model.pt")
    assert all(torch.equal(before[name], again[name]) for name in before)


@pytest.mark.xdist_group("protocol")
def test_a_training_in_bfloat16_is_another_one_and_ends_near_by(phantoms, trainings, tmp_path):
    train_pocket(phantoms, trainings)
    train(POCKET, "fold_1", phantoms, tmp_path, bfloat16=True)
    exact, rounded = (read_losses(folder / POCKET / "fold_1") for folder in (trainings, tmp_path))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)


def read_losses(training: Path) -> list[float]:
    return [row["loss"] for row in publishing.read_curves(training, find_variant(POCKET).stages)]


def test_a_network_that_is_pruned_from_another_waits_for_its_weights(phantoms, tmp_path):
    with pytest.raises(InputError, match="kits_unet_segmentation/fold_1/models/model.pt: expected the weights"):
        train("kits_unet_pwp_segmentation", "fold_1", phantoms, tmp_path)


def test_a_failing_stage_is_named_with_its_log(phantoms, tmp_path):
    with pytest.raises(InputError, match=r"train\.log: stage coarse failed"):
        train(POCKET, "fold_1", tmp_path / "nowhere", tmp_path)
    assert "nowhere" in (tmp_path / POCKET / "fold_1/train.log").read_text()


@pytest.mark.parametrize("baseline", protocol.BASELINES, ids=lambda row: row.name)
def test_a_baseline_becomes_a_bundle_of_its_own(baseline, tmp_path):
    protocol.write_untrained(baseline, tmp_path / "bundle")
    for config in ("train", "inference"):
        content = json.loads((tmp_path / f"bundle/configs/{config}.json").read_text())
        assert content["network_def"] == baseline.network
    complexity = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["complexity"]
    assert 1e6 < complexity["parameters"] != 31_030_723 and complexity["flops"] < UNET_FLOPS


@pytest.mark.parametrize(
    ("stage", "flops", "epochs", "batch_size"),
    [
        (Stage(60, 128, {}), 1_775_501_312, 60, 4),
        (Stage(60, 128, {}), UNET_FLOPS, 50, 2),  # 3 x 96.2 GFLOP x 66 slices / 4 = 4.76 TFLOP an epoch
        (Stage(24, 256, {}), UNET_FLOPS, 12, 2),
    ],
)
def test_no_stage_costs_more_than_the_budget(stage, flops, epochs, batch_size):
    assert plan_length(stage, flops) == {"epochs": epochs, "batch_size": batch_size}


@pytest.mark.parametrize(("width", "dtype"), [(2, torch.float32), (16, torch.float16)])
def test_large_files_ship_in_half_precision_and_load_strictly(width, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_WEIGHTS_BYTES", 200_000)
    network = LiteUNet(channels=[width] * 5)
    save_weights(network, tmp_path / "source.pt")
    ship_weights(tmp_path / "source.pt", tmp_path / "model.pt")
    assert {value.dtype for value in read_weights(tmp_path / "model.pt").values()} == {dtype}
    loaded = load_weights(LiteUNet(channels=[width] * 5), tmp_path / "model.pt")
    assert loaded.head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.head.weight, network.head.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("call", [lambda: find_variant("resnet"), lambda: protocol.find_split("fold_9")])
def test_unknown_names_are_refused(call):
    with pytest.raises(InputError, match="expected one of"):
        call()


def test_the_committed_folds_hold_out_every_case_once_but_the_two_that_are_always_trained_on():
    splits = [json.loads(path.read_text()) for path in sorted((BUNDLES.parent / "docs/folds").glob("fold_*.json"))]
    held_out = [name for split in splits for name in split["validation"]]
    everyone = set(splits[0]["training"]) | set(splits[0]["validation"])
    assert len(splits) == 3 and len(everyone) == 28 and len(held_out) == len(set(held_out)) == 26
    assert everyone - set(held_out) == {"case_00135", "case_00151"}
    assert all(set(split["training"]) == everyone - set(split["validation"]) for split in splits)
