"""The study on the ISBI 2012 stack: folds, networks, scores of cells, and the page's table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import ROOT, load_script
from PIL import Image

from common.errors import InputError
from common.networks import LiteUNet, StdConv2d
from studies.isbi import (
    FOLDS,
    NETWORKS,
    SCORES,
    Settings,
    format_table,
    make_network,
    score_cells,
    score_pixels,
    split_by_blocks,
)
from zoo.pages import read_table

TINY = Settings(channels=(32, 32), steps=1, batch_size=1, side=16)


def test_a_fold_holds_out_neighbouring_slices_and_every_slice_once():
    pairs = [{"case": str(number)} for number in range(30)]
    held_out = []
    for fold in range(FOLDS):
        training, own = split_by_blocks(pairs, fold)
        numbers = [int(pair["case"]) for pair in own]
        assert numbers == list(range(numbers[0], numbers[0] + 6)) and len(training) == 24
        assert not set(numbers) & {int(pair["case"]) for pair in training}
        held_out += numbers
    assert sorted(held_out) == list(range(30))
    with pytest.raises(InputError, match="folds: expected numbers from 0 to 4, found 5."):
        split_by_blocks(pairs, 5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_table_is_made_with_two_outputs(name):
    network = make_network(name, TINY)
    assert type(network) is LiteUNet and network.head.out_channels == 2
    standardized = {module.standardize_over for module in network.modules() if isinstance(module, StdConv2d)}
    expected = {"SD-UNet, filter": {"filter"}, "SD-UNet, layer": {"layer"}, "SD-UNet with BN": {"layer"}}
    assert standardized == expected.get(name, set())


def test_another_network_is_named():
    with pytest.raises(InputError, match="networks: expected some of U-Net, .*, found V-Net."):
        make_network("V-Net", TINY)


def make_cells() -> np.ndarray:
    """Four cells with membranes of three pixels between them."""
    inside = np.ones((40, 40), bool)
    inside[19:22] = inside[:, 19:22] = False
    return inside


def test_cells_are_scored_after_thinning():
    label = make_cells()
    assert score_cells(label, label) == pytest.approx((1, 1))
    thick = label.copy()
    thick[17:24] = thick[:, 17:24] = False
    assert min(score_cells(thick, label)) > 0.95, "but for forks at the border, a thick membrane is a thin one"
    leaking = label.copy()
    leaking[19:22, 5:12] = True
    rand, info = score_cells(leaking, label)
    assert 0.5 < rand < 0.95 and 0.5 < info < 0.95, "a gap of some pixels merges two cells"
    assert score_pixels(leaking, label)["accuracy"] > 0.98


def test_pixels_are_scored_by_arithmetic():
    predicted, label = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    assert score_pixels(predicted, label) == pytest.approx(
        {"accuracy": 0.75, "mean_iou": (2 / 3 + 1 / 2) / 2, "dice": 0.8}
    )


def write_stack(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for number in range(10):
        label = make_cells()
        Image.fromarray((255 * label).astype(np.uint8)).save(folder / f"label/{number:02}.png")
        image = 100 * label + generator.integers(0, 100, label.shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"image/{number:02}.png")
    return folder


def test_the_command_runs_what_the_table_lacks_and_writes_the_page(tmp_path):
    page = tmp_path / "isbi.md"
    page.write_text("<!-- isbi -->\n<!-- /isbi -->\n")
    words = ["--data", str(write_stack(tmp_path / "stack")), "--table", str(tmp_path / "isbi.csv"), "--page", str(page)]
    words += ["--cache-dir", str(tmp_path / "cache"), "--channels", "32", "32", "--steps", "2", "--side", "16"]
    words += ["--networks", "U-Net", "SD-UNet, layer", "--seeds", "0", "--folds"]
    main = load_script("isbi").main
    assert main([*words, "0"]) == 0
    first = read_table(tmp_path / "isbi.csv")
    assert main([*words, "0", "1"]) == 0
    rows = read_table(tmp_path / "isbi.csv")
    assert rows[:2] == first and [row["fold"] for row in rows] == ["0", "0", "1", "1"]
    assert all(float(row[key]) >= 0 for row in rows for key in SCORES) and rows[0]["channels"] == "32-32"
    assert page.read_text().count("\n| U-Net | 2 |") == 1


def test_the_page_is_what_the_table_gives():
    page, rows = ROOT / "docs/studies/isbi.md", read_table(ROOT / "docs/studies/isbi.csv")
    section = re.search(r"<!-- isbi -->\n(.*?)<!-- /isbi -->", page.read_text(), re.DOTALL)[1]
    assert section.strip() == format_table(rows).strip(), "run python scripts/isbi.py"
    settings = {tuple(row[key] for key in ("channels", "steps", "batch_size", "side", "learning_rate")) for row in rows}
    assert len(settings) <= 1, "rows of other settings do not compare"
