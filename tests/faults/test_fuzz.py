"""Random bytes in every file that is read beside images: nothing but InputError comes, one line with its name."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, POCKET, STEM
from hypothesis import given
from hypothesis import strategies as st
from test_properties import JSON, STEADY

from common.app.folder import is_done
from common.bundle_folder import open_bundle
from common.errors import InputError
from common.kits.preprocessing import SliceGrid
from common.kits.scores import find_label_maps
from common.kits.slices import SliceDataset
from common.networks import LiteUNet
from common.networks.weights import load_weights
from common.overrides import check_overrides
from common.training import RunKeeper
from zoo.packaging import read_metadata
from zoo.zip_check import check_zip

BYTES = st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | JSON.map(json.dumps).map(str.encode)
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


def damage(content: bytes, changes: list[tuple[float, int]], share: float) -> bytes:
    """Some bytes changed, and the end cut off."""
    changed = bytearray(content)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    return bytes(changed[: round(share * len(changed))])


def assert_told(action: Callable[[], object], name: str) -> None:
    """An action goes well, or is one line with a name in it."""
    try:
        action()
    except InputError as error:
        assert name in str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def weights() -> bytes:
    buffer = io.BytesIO()
    torch.save(LiteUNet(channels=[8] * 5).state_dict(), buffer)
    return buffer.getvalue()


@STEADY
@given(content=BYTES)
def test_no_bytes_as_weights_are_more_than_one_line(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert_told(lambda: load_weights(LiteUNet(channels=[8] * 5), path), "model.pt")


@STEADY
@given(changes=CHANGES, share=st.sampled_from([1.0, 1.0, 0.5, 0.99]))
def test_no_damaged_weights_are_more_than_one_line(tmp_path, weights, changes, share):
    path = tmp_path / "model.pt"
    path.write_bytes(damage(weights, changes, share))
    assert_told(lambda: load_weights(LiteUNet(channels=[8] * 5), path), "model.pt")


class Views(SimpleNamespace):
    """As much of training views as a keeper asks for."""

    case_names = ("a", "b")

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def make_keeper(folder: Path, channels: int = 8) -> tuple[RunKeeper, SimpleNamespace]:
    network = LiteUNet(channels=[channels] * 5)
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    validator = SimpleNamespace(state=SimpleNamespace(best_metric=0.5, best_metric_epoch=1))
    keeper = RunKeeper(folder, network, optimizer, scheduler, validator, Views())
    return keeper, SimpleNamespace(state=SimpleNamespace(epoch=1, iteration=3, max_epochs=4, rank=0))


@STEADY
@given(changes=CHANGES, share=st.sampled_from([1.0, 1.0, 0.0, 0.5]))
def test_no_damaged_state_of_a_run_is_more_than_one_line(tmp_path, changes, share):
    logging.getLogger("common.training").setLevel(logging.ERROR)
    keeper, engine = make_keeper(tmp_path)
    keeper.complete_epoch(engine)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes(), changes, share))
    assert_told(lambda: keeper.start(engine), "checkpoint.pt")


@STEADY
@given(content=BYTES)
def test_no_bytes_as_the_state_of_a_run_are_more_than_one_line(tmp_path, content):
    keeper, engine = make_keeper(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match="checkpoint.pt: expected an unfinished run, found a damaged file"):
        keeper.start(engine)


def test_the_state_of_another_networks_run_is_one_line(tmp_path):
    keeper, engine = make_keeper(tmp_path, channels=16)
    keeper.complete_epoch(engine)
    keeper, engine = make_keeper(tmp_path)
    with pytest.raises(InputError, match="expected the unfinished run of this network, found another"):
        keeper.start(engine)


@STEADY
@given(content=BYTES)
def test_no_bytes_as_a_config_are_more_than_one_line(tmp_path, content):
    path = tmp_path / "odd_segmentation/configs/inference.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert_told(lambda: open_bundle(path.parents[1]), "inference.json")


@STEADY
@given(content=BYTES)
def test_no_bytes_as_metadata_are_more_than_one_line(content):
    assert_told(lambda: read_metadata(content, "metadata.json"), "metadata.json")


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A small zip in the form of a release."""
    buffer = io.BytesIO()
    metadata = '{"version": "0.2.0"}'
    contents = {"LICENSE": "x", "configs/metadata.json": metadata, "configs/inference.json": "{}"}
    contents |= {"docs/README.md": "x" * 50, "models/model.pt": "y" * 50}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in contents.items():
            opened.writestr(f"{POCKET}/{name}", content)
    return buffer.getvalue()


def test_the_zip_that_is_damaged_below_is_whole(tmp_path, archive):
    path = tmp_path / f"{STEM}.zip"
    path.write_bytes(archive)
    assert check_zip(path).startswith("whole")


@STEADY
@given(changes=CHANGES, share=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0]))
def test_no_damaged_zip_is_more_than_one_line(tmp_path, archive, changes, share):
    path = tmp_path / f"{STEM}.zip"
    path.write_bytes(damage(archive, changes, share))
    assert_told(lambda: check_zip(path), path.name)


@STEADY
@given(content=BYTES)
def test_no_bytes_where_a_mask_goes_are_taken_for_one(tmp_path, content):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected no file or this case's own segmentation"):
        is_done(path, "kits-lite 0")
    assert find_label_maps(tmp_path) == {"scan": path}


@STEADY
@given(words=st.lists(st.text(max_size=8).map(lambda text: f"--{text}") | st.text(max_size=8), max_size=6))
def test_no_words_of_a_command_line_are_more_than_one_line(words):
    config = str(BUNDLES / POCKET / "configs/inference.json")
    program = "/usr/lib/monai/bundle/__main__.py"
    assert_told(lambda: check_overrides([program, "run", "--config_file", config, *words]), "--")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"\x93NUMPY\x01\x00", None], ids=["empty", "text", "cut", "other"]
)
def test_a_damaged_cache_or_one_of_another_form_is_prepared_anew(content, phantoms, tmp_path):
    cases = [{k: str(p / f"{n}.nii.gz") for k, n in (("image", "imaging"), ("label", "segmentation"))}
             for p in sorted(phantoms.iterdir())[:1]]  # fmt: skip
    grid = SliceGrid((32, 32))
    (file,) = SliceDataset(cases, tmp_path, grid).files
    whole = file.read_bytes()
    if content is None:
        np.save(file, np.zeros((3, 4), np.float32))
    else:
        file.write_bytes(content)
    assert SliceDataset(cases, tmp_path, grid).files == [file] and file.read_bytes() == whole


def test_a_cache_of_another_version_is_left_and_another_made(phantoms, tmp_path, monkeypatch):
    case = sorted(phantoms.iterdir())[0]
    cases = [{"image": str(case / "imaging.nii.gz"), "label": str(case / "segmentation.nii.gz")}]
    (old,) = SliceDataset(cases, tmp_path, SliceGrid((32, 32))).files
    monkeypatch.setattr("common.kits.slices.CACHE_FORMAT", 1)
    (new,) = SliceDataset(cases, tmp_path, SliceGrid((32, 32))).files
    assert old != new and old.is_file() and new.is_file()


def test_a_bundle_with_a_damaged_config_is_one_line(tmp_path):
    folder = shutil.copytree(BUNDLES / POCKET / "configs", tmp_path / POCKET / "configs").parent
    config = folder / "configs/inference.json"
    config.write_text(config.read_text()[:-20])
    assert_told(lambda: open_bundle(folder), "inference.json")
