"""`segment --workers`: the files and lines of one process, by several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from bundle_runs import ROOT

from common.app.workers import segment_by_workers
from common.errors import InputError


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "common", "segment", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_workers_write_what_one_process_writes_and_tell_what_it_tells(weighted_bundle, phantoms, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for case in sorted(phantoms.iterdir()):
        (folder / f"{case.name}.nii.gz").symlink_to(case / "imaging.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no image")
    told, files = [], []
    for name, options in (("alone", ()), ("together", ("--workers", 2))):
        process = start("-b", weighted_bundle, "-i", folder, "-o", tmp_path / name, "--precision", "f32", *options)
        printed, errors = process.communicate()
        assert process.returncode == 1 and "4 of 5 cases segmented" in printed
        told.append([line for line in errors.splitlines() if line.startswith("error: ")])
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert told[0] == told[1] and "broken.nii.gz" in told[0][0]
    assert files[0] == files[1] and len(files[0]) == 4


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(InputError, match="workers: expected a positive number, found 0"):
        next(segment_by_workers("kits_pocket_unet_segmentation", [], tmp_path, 0))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc to see processes")
def test_workers_end_with_the_process_that_started_them(weighted_bundle, phantoms, tmp_path):
    process = start("-b", weighted_bundle, "-i", phantoms, "-o", tmp_path / "out", "--workers", 2)
    children: list[int] = []
    deadline = time.monotonic() + 300
    while len(children) < 2 and process.poll() is None and time.monotonic() < deadline:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            children = [int(word) for word in file.read().split()]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(os.path.isdir(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children and not [child for child in children if os.path.isdir(f"/proc/{child}")]
