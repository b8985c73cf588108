"""Bundles in a real MONAI Label server, from the start of the server to its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import NAMES, POCKET, ROOT, download, serve_files
from dicom_files import make_positions, write_stack
from dicom_readers import read_with_highdicom
from dicomweb import BOUNDARY, pack, serve_series
from good_bundle import edit

from common.app.segmenter import Segmenter
from common.errors import InputError
from common.files import hash_file
from common.kits.phantom import make_phantom
from zoo.label.check import TIES, check_bundles, check_labels, check_log, compare, segment
from zoo.label.server import ENVIRONMENT, ask, infer, install, run_server, train, write_app
from zoo.packaging import package_bundles

# one process: tests that made the environment at the same time would tread on each other
pytestmark = [pytest.mark.xdist_group("monai_label"), pytest.mark.timeout(3600)]


@pytest.fixture(scope="session")
def environment() -> Path:
    """MONAI Label's own environment, made once and kept."""
    try:
        install()
    except InputError as error:
        pytest.skip(f"MONAI Label cannot be installed: {error}")
    return ENVIRONMENT


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


def start_session(url: str, folder: Path) -> str:
    """Upload the files of a series to a server; the ID of its session."""
    named = {f'Content-Disposition: form-data; name="files"; filename="{p.name}"': p for p in folder.iterdir()}
    body = pack({lines: path.read_bytes() for lines, path in named.items()})
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    with urlopen(Request(f"{url}/session/", body, kind, method="PUT")) as answer:
        return json.load(answer)["session_id"]


@pytest.mark.slow
def test_a_dicom_series_comes_back_as_a_dicom_segmentation_where_asked(environment, pocket, tmp_path, monkeypatch):
    """From a DICOMweb server, as OHIF has it, and from an upload."""
    for name, value in {
        "no_proxy": "127.0.0.1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # with dcmqi, which is downloaded otherwise
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": tmp_path / "cache",
        "MONAI_LABEL_SESSION_PATH": tmp_path / "sessions",
    }.items():
        monkeypatch.setenv(name, str(value))
    volume, positions = make_phantom(0, (10, 48, 64), (12.0, 8.0, 7.0))[0].astype(int), make_positions(10, (0, 0, -12))
    tags = {"PixelSpacing": [8, 7], "SliceThickness": 12, "ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}
    series = write_stack(tmp_path / "series", volume[..., ::-1], positions, range(10)[::-1], **tags)
    own = Segmenter(pocket, backend="torch")(series).label_map
    assert min(np.count_nonzero(own == label) for label in (1, 2)) > 100

    write_app([pocket], tmp_path / "app", environment)
    with serve_series(series) as studies, run_server(tmp_path / "app", studies, environment=environment) as server:
        sessions = {"web": ("1.2.3", ""), "upload": ("", start_session(server.url, series))}
        for way, (case, session) in sessions.items():
            path = tmp_path / f"{way}.seg.dcm"
            infer(server.url, POCKET, case, path, session_id=session, output="dicom_seg")
            found = read_with_highdicom(path, series)
            assert np.count_nonzero(found != own) <= max(1, TIES * np.count_nonzero(own)), way
            made_by = pydicom.dcmread(path).SegmentSequence[1].SegmentationAlgorithmIdentificationSequence[0]
            assert hash_file(pocket / "models/model.pt") in made_by.AlgorithmParameters

        (tmp_path / "scan.nii.gz").touch()
        with pytest.raises(InputError, match="scan.nii.gz: expected a DICOM series for output=dicom_seg, found none"):
            infer(server.url, POCKET, str(tmp_path / "scan.nii.gz"), tmp_path / "none.dcm", output="dicom_seg")
        with pytest.raises(InputError, match="session_id: expected a session of this server, found gone"):
            infer(server.url, POCKET, "", tmp_path / "none.dcm", session_id="gone", output="dicom_seg")


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
