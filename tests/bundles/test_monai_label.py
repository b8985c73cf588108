"""Bundles in a real MONAI Label server, from the start of the server to its end."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NAMES, POCKET, ROOT, download, read_network, serve_files

from common.errors import InputError
from common.kits.inferer import resize_slices, scale_intensity
from common.kits.phantom import make_phantom
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights
from common.zoo.bundling import write_bundle
from common.zoo.monai_label import server
from common.zoo.monai_label.check import check_bundles, check_labels, check_log, compare, segment, write_studies
from common.zoo.monai_label.server import ENVIRONMENT, ask, infer, install, run_server, train, write_app
from common.zoo.packaging import package_bundles
from common.zoo.variants import VARIANTS

# one process: tests that made the environment at the same time would tread on each other
pytestmark = [pytest.mark.xdist_group("monai_label"), pytest.mark.timeout(3600)]
SIZE = (32, 32)


@pytest.fixture(scope="session")
def environment() -> Path:
    """MONAI Label's own environment, made once and kept."""
    try:
        install()
    except InputError as error:
        pytest.skip(f"MONAI Label cannot be installed: {error}")
    return ENVIRONMENT


@pytest.fixture(scope="module")
def make_bundle(tmp_path_factory) -> Callable[[str], Path]:
    """A function that gives a bundle at a small slice size, with the weights that it ships or with random ones."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def make(name: str) -> Path:
        bundle = write_bundle(next(variant for variant in VARIANTS if variant.name == name), folder)
        for config in ("inference", "train"):
            edit(bundle / f"configs/{config}.json", lambda content: content.update(spatial_size=SIZE))
        torch.manual_seed(0)
        network = read_network(bundle)
        if (shipped := BUNDLES / name / "models/model.pt").is_file():
            load_weights(network, shipped)
        save_weights(balance(network), bundle / "models/model.pt")
        edit(bundle / "configs/metadata.json", lambda content: content.pop("weights", None))  # of other weights
        return bundle

    return make


def balance(network: LiteUNet) -> LiteUNet:
    """Shift the logits so that every label wins somewhere: a map of one label looks right however it is turned."""
    image, _ = make_phantom(0, (10, 48, 64), (12.0, 8.0, 7.0))
    slices = scale_intensity(torch.from_numpy(image.clip(0, 255).astype(np.uint8))[:, None])
    with torch.no_grad():
        network.head.bias -= network.eval()(resize_slices(slices, SIZE)).mean(dim=(0, 2, 3))
    return network


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def pocket(make_bundle, tmp_path) -> Path:
    return shutil.copytree(make_bundle(POCKET), tmp_path / POCKET)


@pytest.fixture
def studies(tmp_path) -> Path:
    return write_studies(tmp_path / "studies")


def list_processes(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    lines = [path.read_bytes().replace(b"\0", b" ").decode() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if str(folder) in line]


# The whole talk


@pytest.mark.slow
def test_released_and_downloaded_bundles_do_in_a_server_what_they_do_by_themselves(
    environment, make_bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    cards = package_bundles([make_bundle(name) for name in NAMES], tmp_path / "dist")
    with serve_files(tmp_path / "dist") as url:
        bundles = [download(card["name"], f"{url}/{card['zip']}", tmp_path) for card in cards]
    told = list(check_bundles(bundles, environment))
    for name in NAMES:
        for case in ("IPL_synthetic", "RAS_synthetic"):
            (line,) = (line for line in told if line.startswith(f"{name}: {case}: "))
            assert max(int(count) for count in re.findall(r"(\d+) (?:kidney|tumor)", line)) > 100
    tipped = [int(count) for line in told for count in re.findall(r"as alone but for (\d+)", line)]
    assert sum("as alone" in line for line in told) == 2 * len(NAMES) and sum(tipped) <= 5, told
    assert told[-1] == f"{POCKET}: trained, and its new weights fit"


@pytest.mark.slow
def test_what_a_server_does_wrong_with_a_bundle_is_told(environment, make_bundle, studies, tmp_path):
    """One server of four bundles, three of them broken in a way that leaves it answering."""
    broken = {name: tmp_path / f"{name}_segmentation" for name in ("good", "nameless", "mirrored", "foreign")}
    for folder in broken.values():
        shutil.copytree(make_bundle(POCKET), folder)
    output = "outputs", "pred", "channel_def"
    edit(
        broken["nameless"] / "configs/metadata.json",
        lambda content: reduce(dict.get, output, content["network_data_format"]).update({"2": "cyst"}),
    )
    edit(broken["mirrored"] / "configs/inference.json", lambda content: content["postprocessing"]["transforms"].pop(0))
    weights = torch.load(broken["foreign"] / "models/model.pt", weights_only=True)
    del weights["head.bias"]
    torch.save(weights, broken["foreign"] / "models/model.pt")
    edit(broken["foreign"] / "configs/train.json", lambda content: content["loss"].update(_target_="NoSuchLoss"))
    own = segment(make_bundle(POCKET), studies, tmp_path / "own")["IPL_synthetic"]
    image = studies / own.name

    write_app(list(broken.values()), tmp_path / "app", environment)
    with run_server(tmp_path / "app", studies, environment=environment) as server:
        offered = json.loads(ask(f"{server.url}/info/"))["models"]
        check_labels("good_segmentation", offered)
        with pytest.raises(InputError, match="nameless_segmentation: .*expected the server to offer .*cyst"):
            check_labels("nameless_segmentation", offered)

        compare(infer(server.url, "good_segmentation", "IPL_synthetic", tmp_path / "good.nii.gz"), own, image)
        with pytest.raises(InputError, match="voxels differ"):
            compare(infer(server.url, "mirrored_segmentation", "IPL_synthetic", tmp_path / "m.nii.gz"), own, image)

        check_log("good_segmentation", server.log)
        infer(server.url, "foreign_segmentation", "IPL_synthetic", tmp_path / "foreign.nii.gz")
        with pytest.raises(InputError, match="foreign_segmentation: expected weights of its network"):
            check_log("foreign_segmentation", server.log)

        with pytest.raises(InputError, match="foreign_segmentation: expected training to end well, found ERROR"):
            train(server.url, "foreign_segmentation")
        with pytest.raises(InputError, match="expected HTTP 200, found 500"):
            infer(server.url, "good_segmentation", "no_such_case", tmp_path / "none.nii.gz")
        assert not (tmp_path / "none.nii.gz").exists()


# Start and end


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_the_training_that_it_runs(environment, pocket, studies, tmp_path, number):
    command = [sys.executable, "scripts/monai_label.py", "serve", "--bundles", pocket, "--app", tmp_path / "app"]
    command += ["--studies", studies, "--port", "0"]
    serving = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # a shell starts what it runs in the background deaf to Ctrl-C, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        url = serving.stdout.readline().split()[0]
        ask(f"{url}/train/{POCKET}", b'{"max_epochs": 1000, "val_split": 0.5}', "application/json")
        while len(list_processes(tmp_path)) < 3:  # the script, the server and the training
            assert json.loads(ask(f"{url}/train/"))["status"] in ("SUBMITTED", "RUNNING")
            time.sleep(0.1)
        serving.send_signal(number)
        serving.wait(60)
        assert list_processes(tmp_path) == []
    finally:
        serving.terminate()
        serving.communicate()


@pytest.mark.slow
def test_a_server_that_ends_at_its_start_says_why_in_one_line(environment, pocket, studies, tmp_path):
    edit(pocket / "configs/inference.json", lambda content: content["network_def"].update(_target_="gone.Network"))
    write_app([pocket], tmp_path / "app", environment)
    with (
        pytest.raises(InputError, match="expected a server that runs, found: .*gone") as caught,
        run_server(tmp_path / "app", studies, environment=environment),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert list_processes(tmp_path) == []


def test_an_environment_without_monai_label_is_told(pocket, studies, tmp_path):
    (tmp_path / "app/model").mkdir(parents=True)
    shutil.copytree(pocket, tmp_path / "app/model" / POCKET)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with (
        pytest.raises(InputError, match="found: .*No module named"),
        run_server(tmp_path / "app", studies, environment=tmp_path / "venv"),
    ):
        pass
    with pytest.raises(InputError, match="expected MONAI Label's environment, found none; install it first"):
        write_app([pocket], tmp_path / "other", tmp_path / "venv")
    assert not (tmp_path / "other").exists()


def test_a_port_in_use_is_told(studies, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"port: expected a free one, found {port} in use"),
            run_server(tmp_path / "app", studies, port),
        ):
            pass
    with (
        pytest.raises(InputError, match="found 99999 in use, forbidden or no port"),
        run_server(tmp_path, studies, 99999),
    ):
        pass


@pytest.mark.parametrize(
    "missing", ["models/model.pt", "configs/metadata.json", "configs/inference.json", "configs/train.json"]
)
def test_a_bundle_that_would_stop_the_server_is_refused(pocket, studies, tmp_path, missing):
    (tmp_path / "app/model").mkdir(parents=True)
    with pytest.raises(InputError, match="model: expected bundles, found none"), run_server(tmp_path / "app", studies):
        pass
    (pocket / missing).unlink()
    shutil.copytree(pocket, tmp_path / "app/model" / POCKET)
    with (
        pytest.raises(InputError, match=f"{POCKET}: MONAI Label expects {missing} in a bundle, found none"),
        run_server(tmp_path / "app", studies),
    ):
        pass


def test_a_bundle_that_is_in_the_app_keeps_its_trained_weights(pocket, tmp_path):
    (tmp_path / "venv/monailabel/sample-apps/monaibundle").mkdir(parents=True)
    for content in (b"first", b"second"):
        (pocket / "models/model.pt").write_bytes(content)
        assert write_app([pocket], tmp_path / "app", tmp_path / "venv") == []
    copy = tmp_path / "app/model" / POCKET
    assert (copy / "models/model.pt").read_bytes() == b"first"
    edit(pocket / "configs/metadata.json", lambda content: content.update(version="9.9.9"))
    (line,) = write_app([pocket], tmp_path / "app", tmp_path / "venv")
    assert line.startswith(f"{copy}: kept as it is, ")
    with pytest.raises(InputError, match="dev/null/app: expected to write it, found: "):
        write_app([pocket], Path("/dev/null/app"), tmp_path / "venv")
    with pytest.raises(InputError, match="expects a name that tells the task"):
        write_app([pocket.rename(tmp_path / "pocket")], tmp_path / "app", tmp_path / "venv")


# Environment


def test_an_environment_is_made_anew_for_other_requirements_only(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("torch==0.0.0\n")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/requirements.txt").write_text("torch==0.0.0\n")
    install(tmp_path / "venv")
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["requirements.txt"]

    (tmp_path / "venv/requirements.txt").write_text("torch==0.0.1\n")
    with pytest.raises(InputError, match="-m pip install to succeed, found: ERROR: No matching distribution"):
        install(tmp_path / "venv")
    assert not (tmp_path / "venv/requirements.txt").exists()


# Comparing


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


VOXELS = (np.arange(2400).reshape(2, 30, 40) % 3).astype(np.uint8)
TIPPED = np.where(np.arange(VOXELS.size).reshape(VOXELS.shape) == 5, 0, VOXELS)


@pytest.mark.parametrize(
    ("voxels", "affine", "problem"),
    [
        (VOXELS, np.eye(4), None),
        (VOXELS.astype(np.float32), np.eye(4) + 1e-6, None),
        (TIPPED, np.eye(4), None),
        (np.where(VOXELS[:1] == 2, 0, VOXELS), np.eye(4), "of 1600 labelled voxels differ"),
        (VOXELS[..., ::-1].copy(), np.eye(4), "of 1600 labelled voxels differ"),
        (VOXELS, np.diag([-1, 1, 1, 1]), "expected the image's affine"),
        (VOXELS.transpose(1, 0, 2), np.eye(4), "expected the image's shape"),
    ],
    ids=["same", "same as float", "one tie", "no tumor", "mirrored", "other affine", "other shape"],
)
def test_label_maps_are_compared_voxel_by_voxel_and_affine_by_affine(tmp_path, voxels, affine, problem):
    expected = save(tmp_path / "expected.nii.gz", VOXELS, np.eye(4))
    found = save(tmp_path / "found.nii.gz", voxels, affine)
    if problem is None:
        told = "as alone but for 1" if voxels is TIPPED else "as alone"
        assert compare(found, expected, expected) == f"800 kidney, 800 tumor, {told}"
    else:
        with pytest.raises(InputError, match=problem):
            compare(found, expected, expected)
    with pytest.raises(InputError, match="expected the image's affine"):
        compare(expected, expected, save(tmp_path / "image.nii.gz", VOXELS, np.diag([2, 1, 1, 1])))


def test_the_studies_are_one_ipl_and_one_ras_case_with_labels(studies):
    images = sorted(studies.glob("*.nii.gz"))
    assert ["".join(nib.aff2axcodes(nib.load(path).affine)) for path in images] == ["IPL", "RAS"]
    for path in images:
        image, label = nib.load(path), nib.load(studies / "labels/final" / path.name)
        assert np.array_equal(image.affine, label.affine) and set(np.unique(label.dataobj)) == {0, 1, 2}
