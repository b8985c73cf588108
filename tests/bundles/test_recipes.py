"""The papers' recipes, their scores, and other data than KiTS: overlays of train, evaluate and inference."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NAMES, POCKET, ROOT, read, run_bundle, run_well
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss, DiceLoss
from PIL import Image
from scipy import ndimage

from common.bundle_folder import open_bundle
from zoo.rendering import render
from zoo.variants import VARIANTS

RECIPES = {variant.recipe.removesuffix(".json"): variant.name for variant in VARIANTS if variant.recipe}
SMALL = {
    "spatial_size": "[32,32]",
    "windows": "{'32': 1}",
    "network_def#channels": "[32,32,32,32,32]",
    "batch_size": 2,
    "views_per_epoch": 4,
    "epochs": 1,
}
PAGE = ROOT / "docs/how_to/your_own_organ.md"


# ---- which bundle has which


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_a_bundle_has_the_recipe_of_its_own_paper_alone(variant):
    recipes = {Path(name).name for name in render(variant) if re.fullmatch(r"configs/recipes/.*_paper\.json", name)}
    assert recipes == ({variant.recipe} if variant.recipe else set())


def parse(recipe: str) -> ConfigParser:
    """Training by a recipe, its parts not made yet; the network narrow."""
    bundle = BUNDLES / RECIPES[recipe]
    open_bundle(bundle)  # its package becomes importable
    parser = ConfigParser()
    parser.read_config([bundle / "configs/train.json", bundle / f"configs/recipes/{recipe}.json"])
    parser["network_def"]["channels"] = [32] * 5
    parser["device"] = "cpu"
    return parser


@pytest.mark.parametrize(
    "recipe, values, optimizer",
    [
        ("wp_unet_paper", {"epochs": 100, "batch_size": 16, "hu_window": [0, 255]}, {"lr": 1e-3, "weight_decay": 4e-5}),
        ("sd_unet_paper", {"hu_window": [0, 255]}, {"lr": 1e-4, "weight_decay": 0}),
        ("unet_pwp_paper", {"batch_size": 32, "hu_window": [0, 255]}, {"lr": 1e-3, "eps": 1e-7}),
        ("pocketnet_paper", {"hu_window": [-100, 200], "initialization": "normal"}, {"lr": 1e-3, "weight_decay": 0}),
    ],
)
def test_a_recipe_is_what_its_paper_prints(recipe, values, optimizer):
    parser = parse(recipe)
    assert {key: parser[key] for key in values} == values and parser["spatial_size"] == [256, 256]
    adam = parser.get_parsed_content("optimizer")
    assert type(adam) is torch.optim.Adam
    assert {key: adam.param_groups[0][key] for key in optimizer} == optimizer
    loss = parser.get_parsed_content("loss")
    if recipe == "pocketnet_paper":
        assert type(loss) is DiceLoss and loss.squared_pred and not loss.include_background
        std = torch.cat([p.detach().flatten() for p in adam.param_groups[0]["params"] if p.dim() == 4]).std()
        assert std == pytest.approx(1, abs=0.05)
        scheduler = parser.get_parsed_content("scheduler")
        for _ in range(12):
            scheduler.step(0.5)
        assert adam.param_groups[0]["lr"] == 5e-4
    else:
        assert type(loss) is DiceCELoss and loss.lambda_dice == (0 if recipe == "unet_pwp_paper" else 1)


# ---- they run


@pytest.mark.slow
@pytest.mark.parametrize("recipe, name", RECIPES.items())
def test_a_recipe_trains_for_an_epoch(recipe, name, copy_bundle, phantoms):
    bundle = copy_bundle(name)
    small = SMALL | ({"network_def#channels": "[16,16,16,16,16]"} if name == POCKET else {})
    printed = run_well(bundle, "train", f"recipes/{recipe}", dataset_dir=phantoms, **small)
    assert "epoch 1/1" in printed and (bundle / "models/model.pt").is_file()


@pytest.mark.slow
def test_the_scores_of_the_papers_stand_beside_the_official_ones(weighted_bundle, phantoms, tmp_path):
    run_well(
        weighted_bundle,
        *("train", "evaluate", "recipes/paper_metrics"),
        dataset_dir=phantoms,
        subset="all",
        output_dir=tmp_path / "out",
        spatial_size="[32,32]",
    )
    official, papers = (list(csv.DictReader((tmp_path / "out" / f"{n}metrics.csv").open())) for n in ("", "paper_"))
    assert [row["case"] for row in papers] == [row["case"] for row in official]
    assert all(float(row["mean_iou"]) <= float(row["pixel_accuracy"]) <= 1 for row in papers)


@pytest.mark.slow
def test_the_largest_component_alone_is_kept(weighted_bundle, phantoms, tmp_path):
    case = sorted(phantoms.iterdir())[0]
    arguments = {"dataset_dir": case / "imaging.nii.gz", "spatial_size": "[32,32]"}
    run_well(weighted_bundle, "inference", "recipes/largest_component", output_dir=tmp_path, **arguments)
    mask = read(next(tmp_path.glob("*.nii.gz")))
    assert ndimage.label(mask > 0, np.ones((3, 3, 3)))[1] <= 1


# ---- the page "Your own organ"


def read_commands() -> list[list[str]]:
    """The words of every `monai.bundle run` on the page."""
    blocks = re.findall(r"(?m)^    (python -m monai\.bundle run(?:.*\\\n)*.*)$", PAGE.read_text())
    return [block.replace("\\\n", " ").split() for block in blocks]


def write_organs(folder: Path) -> None:
    """What the page's commands are given: pictures of two classes, and volumes of several channels."""
    generator = np.random.default_rng(0)
    for number in range(5):
        label = np.zeros((40, 48), bool)
        label[8 + number : 24 + number, 10:30] = True
        image = (generator.integers(0, 60, label.shape) + 150 * label).astype(np.uint8)
        for name, picture in (("image", image), ("label", 255 * label.astype(np.uint8))):
            (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"pictures/{name}/{number}.png")
        volume = np.repeat(label[..., None], 6, axis=2)
        channels = np.stack([volume * 100.0 + 10 * channel for channel in range(4)], axis=-1)
        for task, image in (("brats", channels), ("lits", volume * 150.0 - 20)):
            for name, values in (("imagesTr", image), ("labelsTr", volume.astype(np.uint8))):
                (folder / task / name).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{task}/{name}/{number}.nii.gz")


@pytest.mark.slow
def test_the_commands_of_the_page_run(copy_bundle, tmp_path):
    write_organs(tmp_path)
    bundle = copy_bundle()
    shutil.rmtree(bundle / "models", ignore_errors=True)
    commands = read_commands()
    assert len(commands) >= 4
    small = {"epochs": "1", "side": "32", "batch_size": "2", "views_per_epoch": "4"}
    for words in commands:
        arguments = dict(zip((w.removeprefix("--") for w in words[4::2]), words[5::2]))
        files = re.findall(r"configs/([\w/]+)\.json", arguments.pop("config_file"))
        arguments = {key: value.strip('"') for key, value in arguments.items()}
        arguments["dataset_dir"] = tmp_path / arguments["dataset_dir"]
        trains = files[0] == "train" and "data/pairs_evaluate" not in files
        run_well(bundle, *files, **arguments | (small if trains else {}))
    tables = list(bundle.rglob("metrics.csv"))
    assert tables and "mean_dice" in tables[0].read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"class_names": "['a','b','c']", "label_values": "[0,255]"}, "label_values: expected one value for each of"),
        ({"label_values": "[0,255]", "in_channels": 3}, "expected in_channels=3 channels, found 1."),
    ],
)
def test_settings_that_the_data_do_not_fit_are_told_in_one_line(copy_bundle, tmp_path, arguments, words):
    write_organs(tmp_path)
    done = run_bundle(copy_bundle(), "train", "data/pairs", dataset_dir=tmp_path / "pictures", **arguments)
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_bundle_takes_other_data(name):
    overlays = {path.stem for path in (BUNDLES / name / "configs/data").glob("*.json")}
    assert overlays == {"pairs", "pairs_evaluate", "isbi_em"}
    assert json.loads((BUNDLES / name / "configs/data/isbi_em.json").read_text())["class_names"] == [
        "membrane",
        "inside",
    ]
