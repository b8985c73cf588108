"""A bundle as a stranger gets it: downloaded, run and loaded from an empty folder, where this repository is not."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import torch
from bundle_runs import BUNDLES, NAMES, POCKET, download, run_python, run_well, serve_files
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.networks import LiteUNet
from common.networks.weights import save_weights
from zoo import rendering
from zoo.packaging import package_bundles
from zoo.rendering import PACKAGE, write_bundle
from zoo.variants import VARIANTS
from zoo.zip_check import check_zip

WP = NAMES[1]
NEXT = f"{PACKAGE}_next"
# what a Python does first when it finds this as sitecustomize.py; absent, not forbidden: some packages look for others
ONLY_REQUIRED = """
import sys
from importlib.machinery import PathFinder

class OnlyRequired:
    find_distributions = PathFinder.find_distributions  # packages ask for their own version

    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyRequired
sys.meta_path[:] = [finder for finder in sys.meta_path if not str(finder).startswith("<class '__editable__")]
"""


def list_absent() -> set[str]:
    """Top-level modules here that a bundle's requirements.txt, and what those need, do not bring."""
    wanted = [line.partition("==")[0] for line in (BUNDLES / POCKET / "docs/requirements.txt").read_text().split()]
    required = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in required:
            continue
        required.add(name)
        with suppress(PackageNotFoundError):
            needs = [Requirement(line) for line in requires(name) or ()]
            wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    givers = packages_distributions().items()
    absent = {module for module, names in givers if not {canonicalize_name(name) for name in names} & required}
    return absent | {"common"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty folder; processes started in this test know only what a bundle requires, and ask no proxy."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(ONLY_REQUIRED.format(absent=list_absent()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def release(weighted_bundle, tmp_path) -> Path:
    """The zip of a released bundle."""
    (card,) = package_bundles([weighted_bundle], tmp_path / "dist")
    return tmp_path / "dist" / card["zip"]


@pytest.mark.parametrize("name", ["common", "onnx", "openvino", "jsonschema", "pytest"])
def test_what_a_bundle_does_not_require_cannot_be_imported_there(elsewhere, name):
    done = run_python(elsewhere, "-c", f"import {name}")
    assert done.returncode == 1 and f"No module named '{name}'" in done.stderr


@pytest.mark.slow
def test_a_bundle_downloaded_from_a_web_server_is_the_released_one(release, weighted_bundle, elsewhere):
    with serve_files(release.parent) as url:
        bundle = download(POCKET, f"{url}/{release.name}", elsewhere)
    assert read_folder(bundle) == read_folder(weighted_bundle)
    assert check_zip(bundle.with_suffix(".zip")) == "whole; no SHA256SUMS beside it"


@pytest.mark.slow
def test_a_downloaded_bundle_segments_trains_and_evaluates_from_an_empty_folder(release, elsewhere, phantoms, tmp_path):
    bundle = download(POCKET, release.as_uri(), tmp_path)
    shipped = (bundle / "models/model.pt").read_bytes()
    run = {"cwd": elsewhere, "dataset_dir": phantoms, "spatial_size": "[32,32]"}
    run_well(bundle, "inference", output_dir=elsewhere / "out", **run)
    assert len(list((elsewhere / "out").glob("*.nii.gz"))) == 4
    assert "epoch 1/1" in run_well(bundle, "train", epochs=1, windows="{'32': 1}", **run)
    assert (bundle / "models/model.pt").read_bytes() != shipped
    run_well(bundle, "train", "evaluate", **run)
    assert json.loads((bundle / "eval/summary.json").read_text())["cases"] == 1
    assert {path.name for path in elsewhere.iterdir()} == {"out"}


@pytest.mark.slow
def test_a_downloaded_bundle_segments_a_scan_with_one_command(release, elsewhere, phantoms, tmp_path):
    bundle = download(POCKET, release.as_uri(), tmp_path)
    scan = phantoms / "case_00000_synthetic/imaging.nii.gz"
    done = run_python(bundle, "-m", PACKAGE, "segment", "-i", str(scan), "-o", str(elsewhere / "out"))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (elsewhere / "out").iterdir()] == ["case_00000_synthetic.nii.gz"]


# ---- monai.bundle.load: one line per bundle, sys.path.append(folder), makes it work from anywhere

LOAD = """
import sys
import torch

names, output = sys.argv[1].split(), sys.argv[2]
networks = []
for folder in names:
    with open(folder + "/docs/README.md") as file:
        lines = [line.strip() for line in file if "sys.path.append(" in line or "monai.bundle.load(" in line]
    zoo = folder.rpartition("/")[0]
    path, load = (line.replace('"D/', f'"{zoo}/').replace('"D"', f'"{zoo}"') for line in lines)
    if not networks:
        try:
            exec("import monai.bundle\\n" + load)
            sys.exit("loaded without its folder in sys.path")
        except ImportError:
            pass
    exec(path + "\\n" + load)
    networks.append(network.cpu())
image = torch.linspace(0, 1, 32 * 32).reshape(1, 1, 32, 32)
with torch.inference_mode():
    logits = [network(image) for network in networks]
torch.save({"logits": logits, "classes": [type(network).__module__ for network in networks]}, output)
"""


@pytest.fixture
def versions(tmp_path, copy_bundle, monkeypatch) -> dict[Path, LiteUNet]:
    """Two bundles and the next version of the first, whose code adds 1 to the logits; and the networks inside."""
    current = [copy_bundle(POCKET), copy_bundle(WP)]
    monkeypatch.setattr(rendering, "PACKAGE", NEXT)
    later = write_bundle(VARIANTS[-1], tmp_path / "next")
    code = later / NEXT / "networks/lite_unet.py"
    code.write_text(code.read_text().replace("return self.head(", "return 1 + self.head("))
    assert "return 1 + self.head(" in code.read_text()
    networks = {}
    for seed, (folder, variant) in enumerate(zip([*current, later], [VARIANTS[-1], VARIANTS[1], VARIANTS[-1]])):
        torch.manual_seed(seed)
        networks[folder] = LiteUNet(**variant.network).eval()
        save_weights(networks[folder], folder / "models/model.pt")
    return networks


@pytest.mark.slow
def test_two_bundles_and_two_versions_of_one_are_loaded_in_one_process_each_with_its_own_code(
    versions, elsewhere, tmp_path
):
    folders = " ".join(str(folder) for folder in versions)
    done = run_python(elsewhere, "-c", LOAD, folders, str(tmp_path / "logits.pt"))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    image = torch.linspace(0, 1, 32 * 32).reshape(1, 1, 32, 32)
    with torch.inference_mode():
        expected = [network(image) for network in versions.values()]
    expected[2] = expected[2] + 1
    for one, other in zip(found["logits"], expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert [name.split(".")[0] for name in found["classes"]] == [PACKAGE, PACKAGE, NEXT]
