"""segment_distributed.py as users start it: by torchrun, on real slices."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_runs import SLICES, needs_slices
from distributed_runs import start_distributed

from common.app.folder import segment_to_folder
from common.app.segmenter import Segmenter
from common.errors import InputError
from common.kits.cases import find_cases

TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def start(**options: object) -> subprocess.Popen:
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "-m", "common", "segment", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def find_rank(process: subprocess.Popen, rank: int) -> int:
    """The process id of a rank that torchrun started."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no rank {rank}")


@needs_slices
@pytest.mark.slow
def test_real_slices_come_out_as_from_one_process_and_a_killed_rank_leaves_whole_files(weighted_bundle, tmp_path):
    segmenter = Segmenter(weighted_bundle, backend="torch")
    for case in find_cases(SLICES):
        segment_to_folder(segmenter, case, tmp_path / "alone")
    expected = read_files(tmp_path / "alone")
    assert len(expected) == 28

    process = start(bundle=weighted_bundle, input=SLICES, output=tmp_path / "pipeline", mode="pipeline")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "28 of 28 cases segmented" in printed and read_files(tmp_path / "pipeline") == expected

    process = start(bundle=weighted_bundle, input=SLICES, output=tmp_path / "data", mode="data")
    while not list((tmp_path / "data").glob("*.nii.gz")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(find_rank(process, 1), 9)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30 and process.returncode == 1
    (line,) = [line for line in errors.splitlines() if "error: rank" in line]
    assert "rank 0 stopped, because another process was lost" in line
    left = read_files(tmp_path / "data")
    assert left.items() < expected.items()

    # and goes on where it stopped
    codes, _ = start_distributed(
        tmp_path, 2, bundle=weighted_bundle, input=SLICES, output=tmp_path / "data", mode="data"
    ).wait()
    assert codes == [0, 0] and read_files(tmp_path / "data") == expected


def test_without_torchrun_it_says_so(weighted_bundle, phantoms, run_door, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(InputError, match="torchrun: expected it to start this program"):
        run_door("segment", mode="data", bundle=weighted_bundle, input=phantoms, output=tmp_path)
