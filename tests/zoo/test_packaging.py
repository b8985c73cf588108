"""Release files: what ships, the same bytes every time, all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_runs import POCKET, STEM
from monai.apps.utils import check_hash
from monai.bundle import get_bundle_info, get_bundle_versions

from common import __version__
from common.errors import InputError
from zoo import packaging
from zoo.packaging import package_bundles
from zoo.rendering import PACKAGE

FILES = {f"{STEM}.zip", "model_info.json", "catalog.json", "SHA256SUMS"}


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_metadata(bundle: Path, **changed) -> None:
    path = bundle / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


# ---- what is written


def test_a_zip_holds_the_bundle_and_nothing_that_runs_or_people_left_in_it(weighted_bundle, tmp_path):
    expected = read_folder(weighted_bundle)
    leftovers = [
        "eval/metrics.csv",
        "models/checkpoint.pt",
        "models/dense/model.pt",
        "out/case_00000.nii.gz",
        "notes.md",
    ]
    leftovers += [f"{PACKAGE}/__pycache__/files.pyc", "configs/.ipynb_checkpoints/train.json", "docs/.DS_Store"]
    for name in leftovers:
        (weighted_bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (weighted_bundle / name).write_text("left")
    package_bundles([weighted_bundle], tmp_path / "dist")
    assert set(read_folder(tmp_path / "dist")) == FILES
    with zipfile.ZipFile(tmp_path / "dist" / f"{STEM}.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            f"{POCKET}/{name}": content for name, content in expected.items()
        }
        assert archive.namelist() == sorted(archive.namelist(), key=lambda name: name.split("/"))
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {stat.S_IFREG | 0o644}


def test_the_same_bundle_gives_the_same_bytes_whenever_and_wherever(weighted_bundle, release, tmp_path):
    copy = shutil.copytree(weighted_bundle, tmp_path / "elsewhere" / POCKET)
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1e9, 1e9))
    package_bundles([copy], tmp_path / "again", base_url=release.as_uri())
    assert read_folder(tmp_path / "again") == read_folder(release)
    (copy / "docs/README.md").write_text("other")
    package_bundles([copy], tmp_path / "again", base_url=release.as_uri())
    assert read_folder(tmp_path / "again")[f"{STEM}.zip"] != read_folder(release)[f"{STEM}.zip"]


def test_monai_finds_version_url_and_checksum_in_the_model_info(weighted_bundle, tmp_path, monkeypatch):
    package_bundles([weighted_bundle], tmp_path / "dist", base_url="https://example.org/zoo/")
    text = (tmp_path / "dist/model_info.json").read_text()
    answer = types.SimpleNamespace(text=text, raise_for_status=lambda: None)
    monkeypatch.setattr("monai.bundle.scripts.has_requests", True)
    monkeypatch.setattr("monai.bundle.scripts.requests", types.SimpleNamespace(get=lambda *_, **__: answer))
    assert get_bundle_versions(POCKET) == {"latest_version": __version__, "all_versions": [__version__]}
    assert get_bundle_info(POCKET)["browser_download_url"] == f"https://example.org/zoo/{STEM}.zip"
    checksum = json.loads(text)[STEM]["checksum"]
    assert check_hash(tmp_path / "dist" / f"{STEM}.zip", checksum, "sha1")


def test_sha256sum_accepts_the_sums_and_notices_a_changed_file(release):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=release, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3, done.stderr
    (release / "catalog.json").write_text("{}")
    assert subprocess.run(command, cwd=release, capture_output=True).returncode != 0


def test_the_catalog_tells_of_every_bundle_what_its_metadata_does(weighted_bundle, tmp_path):
    weights, scores = {"license": "CC BY-NC-SA 4.0"}, {"shipped_weights": {"cases": 28, "tumor": 0.7}}
    (plain,) = package_bundles([weighted_bundle], tmp_path / "plain")
    change_metadata(weighted_bundle, weights=weights, scores=scores)
    (card,) = package_bundles([weighted_bundle], tmp_path / "dist")
    assert json.loads((tmp_path / "dist/catalog.json").read_text())["bundles"] == [card]
    path = tmp_path / "dist" / card["zip"]
    assert (card["name"], card["version"], card["title"]) == (POCKET, __version__, "Pocket U-Net")
    assert (card["parameters"], card["flops"]) == (53_027, 1_775_501_312)
    assert card["labels"] == {"0": "background", "1": "kidney", "2": "tumor"}
    assert card["license"] == {"code": "Apache License, Version 2.0, January 2004", "weights": "CC BY-NC-SA 4.0"}
    assert card["bytes"] == path.stat().st_size and check_hash(path, card["sha256"], "sha256")
    assert card["scores"] == scores and plain["scores"] is None and plain["license"]["weights"] is None
    assert "kidney tumour" in card["description"]


# ---- all or nothing


def test_a_release_is_replaced_by_the_next_one(weighted_bundle, release):
    change_metadata(weighted_bundle, version="99.0.0")
    package_bundles([weighted_bundle], release)
    assert set(read_folder(release)) == FILES - {f"{STEM}.zip"} | {f"{POCKET}_v99.0.0.zip"}
    assert {path.name for path in release.parent.iterdir()} == {POCKET, "dist"}


FOREIGN = {
    "a file": lambda path: path.write_text("mine"),
    "another folder": lambda path: (path.mkdir(), (path / "thesis.tex").write_text("mine")),
    "a folder with another's catalog": lambda path: (path.mkdir(), (path / "catalog.json").write_text("[]")),
}


def test_an_empty_folder_is_written_to(weighted_bundle, tmp_path):
    (tmp_path / "dist").mkdir()
    package_bundles([weighted_bundle], tmp_path / "dist")
    assert {path.name for path in (tmp_path / "dist").iterdir()} == FILES


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_package_py_did_not_write_is_left_alone(weighted_bundle, tmp_path, make):
    output = tmp_path / "taken"
    make(output)
    before = read_folder(tmp_path)
    with pytest.raises(InputError, match="taken: expected a new folder or what package.py wrote"):
        package_bundles([weighted_bundle], output)
    assert read_folder(tmp_path) == before and output.exists()


def test_a_release_to_which_something_was_added_is_left_alone(weighted_bundle, release):
    (release / "notes.md").write_text("mine")
    before = read_folder(release)
    with pytest.raises(InputError, match="expected a new folder"):
        package_bundles([weighted_bundle], release)
    assert read_folder(release) == before


@pytest.mark.parametrize(
    "fault, told", [(OSError(28, "No space left on device"), InputError), (KeyboardInterrupt(),) * 2]
)
def test_where_writing_fails_the_old_release_stays_and_nothing_else(weighted_bundle, release, monkeypatch, fault, told):
    def fail(path: Path, algorithm: str) -> str:
        raise fault

    before = read_folder(release.parent)
    monkeypatch.setattr(packaging, "_make_card", lambda content: {"zip": f"{STEM}.zip"})
    monkeypatch.setattr(packaging, "_write_zip", fail)
    with pytest.raises(told if isinstance(told, type) else type(told)):
        package_bundles([weighted_bundle], release)
    assert read_folder(release.parent) == before
    with pytest.raises(told if isinstance(told, type) else type(told)):
        package_bundles([weighted_bundle], release.parent / "new")
    assert read_folder(release.parent) == before


# ---- bundles that cannot ship

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda b: (b / "models/model.pt").unlink(), "found no models/model.pt in it"),
    "a Git LFS pointer": (lambda b: (b / "models/model.pt").write_bytes(POINTER), "model.pt: expected a PyTorch state"),
    "half the weights": (lambda b: os.truncate(b / "models/model.pt", 1000), "model.pt: expected a PyTorch state dict"),
    "other weights": (lambda b: change_metadata(b, weights={"sha256": "0" * 64}), "model.pt: expected sha256 000"),
    "longer weights": (lambda b: change_metadata(b, weights={"bytes": 5}), "model.pt: expected bytes 5 as in configs"),
    "no licence": (lambda b: (b / "LICENSE").unlink(), "found no LICENSE in it"),
    "no configs": (lambda b: shutil.rmtree(b / "configs"), "no configs/metadata.json, configs/inference.json in it"),
    "broken metadata": (lambda b: (b / "configs/metadata.json").write_text("{"), "expected metadata in JSON"),
    "a version that is a path": (lambda b: change_metadata(b, version="../../0"), "with a version such as 0.1.0"),
    "no labels": (lambda b: change_metadata(b, network_data_format={}), "found no 'outputs'"),
}


@pytest.mark.parametrize("spoil, words", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_a_bundle_that_cannot_ship_is_one_line_and_nothing_is_written(weighted_bundle, tmp_path, spoil, words):
    good = shutil.copytree(weighted_bundle, tmp_path / "good_segmentation")
    spoil(weighted_bundle)
    with pytest.raises(InputError) as caught:
        package_bundles([good, weighted_bundle], tmp_path / "dist")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {POCKET, "good_segmentation"}


@pytest.mark.parametrize("name", ["kits_vnet_segmentation", "kits.segmentation", "nowhere"])
def test_a_name_that_monai_would_cut_or_that_is_no_bundle_is_one_line(weighted_bundle, tmp_path, name):
    bundle = tmp_path / name if name == "nowhere" else weighted_bundle.rename(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: expected a (name of letters|bundle with weights)"):
        package_bundles([bundle], tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_one_package_name_with_two_codes_is_refused(weighted_bundle, tmp_path):
    other = shutil.copytree(weighted_bundle, tmp_path / "other_segmentation")
    assert len(package_bundles([weighted_bundle, other], tmp_path / "dist")) == 2
    code = other / PACKAGE / "files.py"
    code.write_text(code.read_text() + "# changed\n")
    with pytest.raises(InputError, match=f"other_segmentation: expected the {PACKAGE} of {POCKET}, found other code"):
        package_bundles([weighted_bundle, other], tmp_path / "dist")


def test_one_bundle_twice_is_refused(weighted_bundle, tmp_path):
    with pytest.raises(InputError, match="expected every name and version once"):
        package_bundles([weighted_bundle, weighted_bundle], tmp_path / "dist")
