"""Training by the protocol and taking over what it made, on phantoms of one split."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundle_runs import POCKET

from common.compression.complexity import count_parameters
from common.errors import InputError
from common.kits.cases import find_cases
from common.kits.phantom import write_phantom_dataset
from common.networks import LiteUNet, load_weights
from common.networks.weights import read_weights, save_weights
from studies import protocol, publishing
from studies.protocol import STAGES, Length, find_variant, train
from studies.publishing import publish, read_curves, ship_weights
from zoo import records
from zoo.variants import ABLATIONS, BASELINES, ROWS

UNET_FLOPS = 96_200_556_544
SMALL = {"spatial_size": [32, 32], "windows": {"32": 1}, "batch_size": 8}
WP = "kits_wp_unet_segmentation"
# two epochs of two batches; the network is validated after both
LENGTH = Length(views=32, views_per_epoch=16)


pytestmark = pytest.mark.xdist_group("protocol")


@pytest.fixture(scope="module")
def repository(phantoms, tmp_path_factory) -> Path:
    """Splits of the four phantoms; the last is the whole scan, on no side of either."""
    root = tmp_path_factory.mktemp("repository")
    (root / "docs/splits").mkdir(parents=True)
    first, second, held_out, _ = (case["case"] for case in find_cases(phantoms))
    for name, training, validation in (("hold_out", [first, second], [held_out]), ("inner", [first], [second])):
        (root / f"docs/splits/{name}.json").write_text(json.dumps({"training": training, "validation": validation}))
    return root


@pytest.fixture(autouse=True)
def small_protocol(repository, phantoms, monkeypatch):
    """32 x 32 pixels."""
    for stage in STAGES:
        monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], settings=SMALL))
    monkeypatch.setattr(protocol, "VIEWS_TO_VALIDATE", 32)
    monkeypatch.setattr(protocol, "SPLITS", repository / "docs/splits")
    for module in (records, publishing):
        monkeypatch.setattr(module, "RECORDS", repository / "docs/results")
    monkeypatch.setattr(publishing, "REPOSITORY", repository)
    monkeypatch.setattr(records.score_bundle, "__defaults__", (find_cases(phantoms)[3]["case"],))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture
def training(phantoms, trainings) -> Path:
    """Pocket U-Net by the protocol; made once."""
    return train(POCKET, [phantoms], trainings, length=LENGTH)


def test_a_training_is_published(phantoms, training, repository, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "BUNDLES", tmp_path)
    shutil.copytree(training, tmp_path / POCKET, ignore=shutil.ignore_patterns("models", "eval"))
    results = repository / "docs/results"
    with pytest.raises(InputError, match="expected a complete training, found no models/model.pt; run train.py"):
        publish(POCKET, [phantoms], tmp_path)
    log = training / "eval/whole"
    log.rename(tmp_path / "log")
    with pytest.raises(InputError, match=f"{log}: expected the stage's TensorBoard log, found none"):
        publish(POCKET, [phantoms], training)
    assert not results.exists() and not (tmp_path / POCKET / "models").exists()
    (tmp_path / "log").rename(log)

    record = publish(POCKET, [phantoms], training)
    assert record == json.loads((results / f"{POCKET}.json").read_text())
    assert record["trained_on"].startswith("32 views of crops and slices of 2 KiTS19 patients")
    assert record["patients"]["patients"] == 1 and record["scan"]["case"] == find_cases(phantoms)[3]["case"]
    assert all(0 <= dice <= 1 for dice in record["patients"]["pooled"].values())
    shipped, made = (read_weights(folder / "models/model.pt") for folder in (tmp_path / POCKET, training))
    assert all(torch.equal(shipped[name], made[name]) for name in made)
    with (results / f"{POCKET}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["views"]) for row in rows] == [("whole", "16"), ("whole", "32")]
    assert all(float(row["loss"]) > 0 for row in rows) and rows[1]["kidney_dice"] and not rows[0]["kidney_dice"]

    before = dict(record)
    # what is scored is what ships, not what an older config makes of the weights
    (tmp_path / POCKET / "configs/inference.json").write_text("{}")
    assert publish(POCKET, [phantoms], None) == before  # the shipped weights, scored anew
    with pytest.raises(InputError, match="expected the patients that are held out, found none"):
        other = tmp_path / "others"
        write_phantom_dataset(other, 1, seed=9, shape=(8, 32, 32), spacing_mm=(20.0, 12.0, 12.0))
        (case,) = other.iterdir()
        publish(POCKET, [case.rename(other / "case_5").parent], None)


def test_a_training_that_goes_on_with_what_ships_continues_its_curves(
    phantoms, training, trainings, tmp_path, monkeypatch
):
    for module in (protocol, publishing):
        monkeypatch.setattr(module, "BUNDLES", tmp_path)
        monkeypatch.setattr(module, "RECORDS", tmp_path / "results")
    shutil.copytree(training, tmp_path / POCKET, ignore=shutil.ignore_patterns("models", "eval"))
    monkeypatch.setattr(publishing, "score_bundle", lambda *_: {})
    monkeypatch.setattr(publishing, "write_bundle", lambda *_: None)
    monkeypatch.setattr(publishing, "write_record", lambda *_: None)
    publish(POCKET, [phantoms], training)
    shipped = tmp_path / POCKET / "models/model.pt"
    longer = train(POCKET, [phantoms], trainings, seed=3, start=shipped, length=LENGTH)
    for _ in range(2):  # a second time changes nothing
        assert publish(POCKET, [phantoms], longer)["trained_on"].startswith("64 views")
        with (tmp_path / f"results/{POCKET}.csv").open() as file:
            assert [row["views"] for row in csv.DictReader(file)] == ["16", "32", "48", "64"]


def test_a_training_is_on_the_training_side_of_its_split(phantoms, training, trainings):
    inner = train(POCKET, [phantoms], trainings, split="inner", length=LENGTH)
    for folder, split in ((training, "hold_out"), (inner, "inner")):
        side = json.loads((folder / "eval/whole/split.json").read_text())
        assert side == json.loads((protocol.SPLITS / f"{split}.json").read_text())


def test_a_complete_training_is_left_alone_and_a_lost_stage_is_trained_again(phantoms, trainings):
    folder = train(WP, [phantoms], trainings, length=LENGTH)
    models = folder / "models"
    times = {stage: (models / stage / "model.pt").stat().st_mtime_ns for stage in ("dense", "sparse")}
    before = read_weights(models / "model.pt")
    (models / "sparse/model.pt").unlink()
    train(WP, [phantoms], trainings)  # of the length that it has
    assert (models / "dense/model.pt").stat().st_mtime_ns == times["dense"]
    assert (models / "sparse/model.pt").stat().st_mtime_ns > times["sparse"]
    again = read_weights(models / "model.pt")
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_a_training_in_bfloat16_is_another_one_and_ends_near_by(phantoms, training, tmp_path):
    other = train(POCKET, [phantoms], tmp_path, bfloat16=True, length=LENGTH)
    exact, rounded = ([row["loss"] for row in read_curves(folder, ("whole",))] for folder in (training, other))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)


def test_a_seed_has_a_folder_and_weights_of_its_own_and_a_start_is_gone_on_with(phantoms, training, trainings):
    other = train(POCKET, [phantoms], trainings, seed=1, start=training / "models/model.pt", length=LENGTH)
    assert other.name == "hold_out_1" and training.name == "hold_out_0"
    losses = [next(read_curves(folder, ("whole",)))["loss"] for folder in (training, other)]
    assert losses[1] < losses[0]
    with pytest.raises(InputError, match="start: expected a file of weights, found none at"):
        train(POCKET, [phantoms], trainings, start=trainings / "nowhere.pt")


@pytest.mark.parametrize("key", ["views", "views_per_epoch"])
def test_a_training_of_no_length_is_refused(key):
    with pytest.raises(InputError, match=f"{key}: expected a positive number, found 0"):
        Length(**{key: 0})


def test_a_failing_stage_is_named_with_its_log(tmp_path):
    with pytest.raises(InputError, match=r"train\.log: stage whole failed"):
        train(POCKET, [tmp_path / "nowhere"], tmp_path)
    assert "nowhere" in (tmp_path / POCKET / "hold_out_0/train.log").read_text()


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda row: row.name)
def test_a_baseline_becomes_a_bundle_of_its_own(baseline, tmp_path):
    protocol.write_untrained(baseline, tmp_path / "bundle")
    for config in ("train", "inference"):
        content = json.loads((tmp_path / f"bundle/configs/{config}.json").read_text())
        assert content["network_def"] == baseline.network
    complexity = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["complexity"]
    assert 1e6 < complexity["parameters"] != 31_030_723 and complexity["flops"] < UNET_FLOPS


@pytest.mark.parametrize("row", protocol.VARIANTS, ids=lambda row: row.title)
def test_the_page_says_how_many_views_a_network_saw(row):
    docs = Path(protocol.__file__).parents[2] / "docs"
    page = (docs / "protocol.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| {row.title} |"))
    record = json.loads((docs / f"results/{row.name}.json").read_text(encoding="utf-8"))
    with (docs / f"results/{row.name}.csv").open() as file:
        views = int(list(csv.DictReader(file))[-1]["views"])
    assert line.split("|")[2].strip() == f"{views:,}"
    assert record["trained_on"].startswith(f"{views:,} views")


def test_the_page_says_what_the_trainings_of_equal_budget_reached():
    docs = Path(protocol.__file__).parents[2] / "docs"
    page = (docs / "protocol.md").read_text(encoding="utf-8").split("<!-- equal -->")[1].split("<!-- /equal -->")[0]
    with (docs / "studies/equal_budget.csv").open() as file:
        last = {(row["network"], row["seed"]): row for row in csv.DictReader(file)}
    assert {row["views"] for row in last.values()} == {"32768"}
    rows = [
        f"| {network} | {seed} | {row['kidney_dice']} | {row['tumor_dice']} |" for (network, seed), row in last.items()
    ]
    assert page.strip().splitlines()[2:] == rows


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
    with pytest.raises(InputError, match="expected"):
        call()


@pytest.mark.parametrize("title", ABLATIONS)
def test_every_row_of_the_papers_tables_has_a_folder_to_be_trained_in(title, tmp_path):
    row = next(row for row in ROWS if row.title == title)
    protocol.write_untrained(row, tmp_path / "row")
    config = json.loads((tmp_path / "row/configs/train.json").read_text())
    network = LiteUNet(**{key: value for key, value in config["network_def"].items() if key != "_target_"})
    assert network.arguments == LiteUNet(**ABLATIONS[title]).arguments
    metadata = json.loads((tmp_path / "row/configs/metadata.json").read_text())
    assert metadata["complexity"]["parameters"] == count_parameters(network)


@pytest.mark.slow
def test_a_row_of_the_papers_tables_is_trained_by_the_protocol(phantoms, tmp_path):
    folder = train("pocket_densenet", [phantoms], tmp_path, length=LENGTH)
    load_weights(LiteUNet(**ABLATIONS["Pocket DenseNet"]), folder / "models/model.pt")
