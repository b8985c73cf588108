"""Several processes on one bundle: the files of one process, and what happens when one of them is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from bundle_runs import BUNDLES
from distributed_runs import Run, start_distributed

from common.app.folder import segment_to_folder
from common.app.segmenter import Segmenter
from common.bundle_folder import build_on_meta
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.networks.weights import save_weights

SMALL = {"channels": [32] * 5}
SOON = "import common.partitioning.processes as p\np.LOST_AFTER_BEATS = 4"


@pytest.fixture(scope="module")
def make_bundle(tmp_path_factory):
    """A function that makes a narrow copy of a bundle, once, for slices of 32 x 32, with untrained weights."""

    @cache
    def make(name: str) -> Path:
        bundle = tmp_path_factory.mktemp("bundle") / name
        shutil.copytree(BUNDLES / name, bundle, ignore=shutil.ignore_patterns("eval", "models"))
        path = bundle / "configs/inference.json"
        config = json.loads(path.read_text()) | {"spatial_size": [32, 32]}
        config["network_def"] |= SMALL
        path.write_text(json.dumps(config))
        torch.manual_seed(0)
        save_weights(LiteUNet(**build_on_meta(bundle).arguments), bundle / "models/model.pt")
        return bundle

    return make


@pytest.fixture(scope="module")
def bundle(make_bundle) -> Path:
    return make_bundle("kits_sd_unet_segmentation")


@cache
def segment_alone(bundle: Path, cases: Path) -> dict[str, bytes]:
    """The files that one process writes."""
    segmenter = Segmenter(bundle, backend="torch")
    for case in find_cases(cases):
        segment_to_folder(segmenter, case, bundle / "alone")
    return read_files(bundle / "alone")


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}


def run_well(folder: Path, world: int, before: str = "", **options: object) -> str:
    codes, printed = start_distributed(folder, world, before, **options).wait()
    assert codes == [0] * world, printed
    return printed[0]


def get_error(codes: list[int], printed: list[str]) -> str:
    """The one line that all processes together print."""
    assert all(code == 1 for code in codes), printed
    lines = [line for text in printed for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and not any("Traceback" in text for text in printed), printed
    return lines[0]


def wait_for_a_file(folder: Path, run: Run) -> None:
    while not list(folder.glob("*.nii.gz")):
        assert all(process.is_alive() for process in run.processes), run.wait()
        time.sleep(0.01)


# ---- the same files


# 10 slices in batches of 4: the last batch is short
@pytest.mark.parametrize(
    ("name", "world", "options"),
    [
        ("kits_sd_unet_segmentation", 3, {"mode": "pipeline"}),
        ("kits_wp_unet_segmentation", 2, {"mode": "pipeline", "micro_batches": 2}),
        ("kits_unet_segmentation", 4, {"mode": "pipeline", "rule": "as_printed"}),
        ("kits_pocket_unet_segmentation", 1, {"mode": "pipeline"}),
        ("kits_sd_unet_segmentation", 2, {"mode": "data"}),
        ("kits_sd_unet_segmentation", 5, {"mode": "data"}),  # more than cases: slices are shared
    ],
)
def test_several_processes_write_the_files_of_one(name, world, options, make_bundle, phantoms, tmp_path):
    bundle = make_bundle(name)
    expected = segment_alone(bundle, phantoms)
    printed = run_well(tmp_path, world, bundle=bundle, input=phantoms, output=tmp_path / "apart", **options)
    assert read_files(tmp_path / "apart") == expected and len(expected) == 4
    assert "4 of 4 cases segmented" in printed


def test_micro_batches_need_not_be_the_bundles_batches(bundle, phantoms, tmp_path):
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "apart", "batch_size": 6, "micro_batches": 3}
    run_well(tmp_path, 2, **options)
    assert read_files(tmp_path / "apart").keys() == segment_alone(bundle, phantoms).keys()


@pytest.mark.parametrize("mode", ["pipeline", "data"])
def test_a_bad_case_is_told_and_the_others_are_done(mode, bundle, phantoms, tmp_path):
    cases = shutil.copytree(phantoms, tmp_path / "cases")
    image = cases / "case_00001_synthetic/imaging.nii.gz"
    image.write_bytes(image.read_bytes()[:500])
    options = {"bundle": bundle, "input": cases, "output": tmp_path / "apart", "mode": mode}
    codes, printed = start_distributed(tmp_path, 2, **options).wait()
    assert codes == [1, 0] and "3 of 4 cases segmented" in printed[0]
    assert [line for line in printed[0].splitlines() if line.startswith(f"error: {image}")]
    assert len(read_files(tmp_path / "apart")) == 3


def test_a_second_run_leaves_what_is_done_and_does_what_is_missing(bundle, phantoms, tmp_path):
    expected = segment_alone(bundle, phantoms)
    shutil.copytree(bundle / "alone", tmp_path / "out")
    first, *_, last = sorted((tmp_path / "out").iterdir())
    last.unlink()
    written = first.stat().st_mtime_ns
    run_well(tmp_path, 2, bundle=bundle, input=phantoms, output=tmp_path / "out")
    assert read_files(tmp_path / "out") == expected and first.stat().st_mtime_ns == written


def test_every_rank_holds_its_own_sub_model_only(bundle, phantoms, tmp_path):
    before = """
from common.compression.complexity import count_parameters
from common.partitioning.distributed import PipelinedNetwork as P
made = P.__init__
def __init__(self, network, *arguments):
    made(self, network, *arguments)
    print("held", count_parameters(self.sub_model), all(p.is_meta for p in network.parameters()), flush=True)
P.__init__ = __init__
"""
    run = start_distributed(tmp_path, 2, before, bundle=bundle, input=phantoms, output=tmp_path / "out")
    _, printed = run.wait()
    found = [re.search(r"held (\d+) (\w+)", text).groups() for text in printed]
    whole = sum(p.numel() for p in build_on_meta(bundle).parameters())
    assert sum(int(number) for number, _ in found) == whole and all(on_meta == "True" for _, on_meta in found)
    assert all(0 < int(number) < whole for number, _ in found)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_partitions": 3}, "processes: expected one a sub-model, 3, found 2."),
        ({"max_partitions": 0}, "max_partitions: expected 1 to 34, the number of layers, found 0."),
        ({"max_partitions": 100}, "max_partitions: expected 1 to 34, the number of layers, found 100."),
        ({"batch_size": 3}, "batch_size: expected a multiple of the 4 micro-batches, found 3 slices."),
        ({"batch_size": 6}, "batch_size: expected a multiple of the 4 micro-batches, found 6 slices."),
        ({"micro_batches": 0}, "micro_batches: expected a positive number, found 0."),
        ({"keep_largest": -1}, "keep_largest: expected auto, 0 or a positive number, found -1."),
        ({"input": "nowhere"}, "nowhere: expected a folder of cases, found none."),
        ({"bundle": "nowhere"}, "nowhere: expected a bundle folder"),
    ],
)
def test_bad_input_is_one_line(options, words, bundle, phantoms, tmp_path):
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out"} | options
    assert words in get_error(*start_distributed(tmp_path, 2, **options).wait())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["pipeline", "data"])
def test_missing_weights_are_one_line(mode, copy_bundle, phantoms, tmp_path):
    options = {"bundle": copy_bundle(), "input": phantoms, "output": tmp_path / "out", "mode": mode}
    assert "no weights here" in get_error(*start_distributed(tmp_path, 2, **options).wait())
    assert not (tmp_path / "out").exists()


def test_other_weights_in_one_rank_are_one_line(bundle, phantoms, tmp_path):
    before = "import common.app.distributed as d\nif rank: d.hash_file = lambda path: 'others'"
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out"}
    line = get_error(*start_distributed(tmp_path, 2, before, **options).wait())
    assert "weights: expected the same file for every rank, found 2 different ones." in line


def test_a_problem_of_one_rank_stops_all(bundle, phantoms, tmp_path):
    before = (
        "import common.app.distributed as d\n"
        "from common.errors import InputError\n"
        "def fail(source):\n    raise InputError('no disk here')\n"
        "if rank: d.find_cases = fail"
    )
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out"}
    assert get_error(*start_distributed(tmp_path, 2, before, **options).wait()) == "error: no disk here"


# ---- a lost process


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("mode", ["pipeline", "data"])
def test_a_killed_rank_stops_the_other_with_one_line(mode, victim, bundle, phantoms, tmp_path):
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out", "mode": mode}
    run = start_distributed(tmp_path, 2, **options)
    wait_for_a_file(tmp_path / "out", run)
    run.processes[victim].kill()
    started = time.monotonic()
    codes, printed = run.wait(30)
    assert time.monotonic() - started < 30
    assert get_error([codes[1 - victim]], [printed[1 - victim]]).startswith(f"error: rank {1 - victim} stopped")
    check_files_are_whole(bundle, phantoms, tmp_path)


@pytest.mark.parametrize("mode", ["pipeline", "data"])
def test_a_rank_that_hangs_stops_the_other_with_one_line(mode, bundle, phantoms, tmp_path):
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out", "mode": mode}
    run = start_distributed(tmp_path, 2, SOON, **options)
    wait_for_a_file(tmp_path / "out", run)
    os.kill(run.processes[1].pid, signal.SIGSTOP)
    run.processes[0].join(30)
    codes, printed = run.wait(0)
    assert "rank 1 was lost" in get_error([codes[0]], [printed[0]])
    check_files_are_whole(bundle, phantoms, tmp_path)


def test_what_a_killed_rank_had_half_written_is_removed(bundle, phantoms, tmp_path):
    before = """
import os, signal
import nibabel as nib
def write(image, stream):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
if rank:
    nib.Nifti1Image.to_stream = write
"""
    options = {"bundle": bundle, "input": phantoms, "output": tmp_path / "out", "mode": "data"}
    codes, printed = start_distributed(tmp_path, 2, before, **options).wait()
    assert codes == [1, -signal.SIGKILL]
    get_error(codes[:1], printed[:1])
    check_files_are_whole(bundle, phantoms, tmp_path)


def check_files_are_whole(bundle: Path, cases: Path, folder: Path) -> None:
    assert read_files(folder / "out").items() <= segment_alone(bundle, cases).items()
