"""A cohort on several machines, as docs/how_to/speed.md has it: the files of one process, by Slurm and by Dask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runs import POCKET, ROOT

from common.app.cli import main

PAGE = (ROOT / "docs/how_to/speed.md").read_text(encoding="utf-8")
SLURM, DASK = (re.search(f"```{language}\n(.*?)```", PAGE, re.S)[1] for language in ("bash", "python"))


def run(words: list[str], folder: Path, **variables: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "error" not in done.stdout, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_two_tasks_of_slurm_and_two_workers_of_dask_write_what_one_process_writes(phantoms, tmp_path, monkeypatch):
    from distributed import LocalCluster  # seconds that no other test need wait

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of Dask's workers
    scans = tmp_path / "scans"
    scans.mkdir()
    for case in phantoms.iterdir():
        (scans / f"{case.name}.nii.gz").hardlink_to(case / "imaging.nii.gz")
    assert main(["segment", "-b", POCKET, "-i", str(scans), "-o", str(tmp_path / "alone"), "--precision", "f32"]) == 0
    for task in "01":
        run(["bash", "-ec", SLURM], tmp_path, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        script = DASK.replace("tcp://scheduler:8786", cluster.scheduler_address).replace("/data/out", "/data/by_dask")
        run([sys.executable, "-c", script.replace("/data", str(tmp_path))], tmp_path)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("alone", "out", "by_dask")
    ]
    assert len(files[0]) == 4 and files[0] == files[1] == files[2]
    assert sorted(len(list(share.iterdir())) for share in (tmp_path / "shares").iterdir()) == [2, 2]
