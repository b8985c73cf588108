"""File to file: seconds, CPU seconds and peak memory of every way to segment a scan, before a commit and now."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from common.errors import report_input_errors
from zoo.pages import format_markdown_table

ROOT = Path(__file__).resolve().parents[1]
# a module with its arguments, which tells its peak itself: what the system tells begins with the peak of this process
PROGRAM = """
import atexit, re, runpy, sys
status = "/proc/self/status"
atexit.register(lambda: print("peak", re.search(r"VmHWM:\\s+(\\d+)", open(status).read())[1], file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
SEGMENT = ("common", "segment", "-b", "{bundle}", "-i", "{scan}", "-o", "{output}")
WORKFLOW = ("monai.bundle", "run", "--config_file", "{bundle}/configs/inference.json")
WORKFLOW += ("--bundle_root", "{bundle}", "--dataset_dir", "{scan}", "--output_dir", "{output}")
F32 = ("--precision", "f32")
# whose checkout, and the words of the command
WAYS = {
    "segment, before": ("before", SEGMENT),
    "segment --precision f32": ("now", SEGMENT + F32),
    "segment": ("now", SEGMENT),
    "inference.json, before": ("before", WORKFLOW),
    "inference.json": ("now", WORKFLOW),
}


def write_tiled(scan: Path, slices: int, path: Path) -> None:
    """A scan repeated along its slices, int16, (X, Y, slices) in LPS order: what most files are like."""
    image = nib.as_closest_canonical(nib.load(scan))
    volume = np.asarray(image.dataobj).astype(np.int16)
    tiled = np.concatenate([volume] * -(-slices // volume.shape[2]), axis=2)[..., :slices]
    nib.save(nib.Nifti1Image(tiled[::-1, ::-1], np.diag([-1, -1, 1, 1]) @ image.affine), path)


def run(way: str, checkouts: dict[str, Path], bundle: str, scan: Path, output: Path) -> dict[str, float]:
    """Run one command in a process of its own, and measure it."""
    checkout, words = WAYS[way]
    root = checkouts[checkout]
    paths = {"bundle": root / "bundles" / bundle, "scan": scan, "output": output}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *(word.format(**paths) for word in words)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{way}: expected the command to succeed, found: {told.strip()}")
    seconds = {"seconds": time.perf_counter() - start, "CPU seconds": usage.ru_utime + usage.ru_stime}
    return seconds | {"peak MB": int(re.findall(r"^peak (\d+)$", told, re.M)[-1]) / 1000}


def measure(
    ways: Sequence[str], checkouts: dict[str, Path], bundle: str, scan: Path, rounds: int
) -> list[dict[str, object]]:
    """A row for every way: medians of some rounds in which all take turns, and how many times less than before."""
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        slice_alone = Path(folder) / "slice.nii.gz"
        write_tiled(scan, 1, slice_alone)
        for way in ways:  # exports what has to be exported
            run(way, checkouts, bundle, slice_alone, Path(folder) / f"{way} 0")
        for number in range(1, rounds + 1):
            for way in ways:
                taken[way].append(run(way, checkouts, bundle, scan, Path(folder) / f"{way} {number}"))
    rows, before = [], {}
    for way, measured in taken.items():
        medians = {key: statistics.median(values[key] for values in measured) for key in measured[0]}
        before = medians if WAYS[way][0] == "before" else before
        row = {key: f"{value:.0f}" if key == "peak MB" else f"{value:.1f}" for key, value in medians.items()}
        ratios = {f"{key}, x less": f"{before[key] / medians[key]:.1f}" if before else "-" for key in medians}
        rows.append({"way": way, **row, **ratios})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python scripts/benchmark_inference.py --scan scan.nii.gz --before v0.1.0"
    )
    parser.add_argument("--bundle", default="kits_pocket_unet_segmentation", help="name of one in bundles/")
    parser.add_argument("--scan", type=Path, required=True, help="NIfTI file")
    parser.add_argument("--slices", type=int, help="repeat it to so many, as int16")
    parser.add_argument("--before", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workflow", action="store_true", help="inference.json, too")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    with tempfile.TemporaryDirectory() as name:
        checkouts, scan = {"now": ROOT}, arguments.scan.resolve()
        if arguments.slices:
            scan = Path(name) / "tiled.nii.gz"
            write_tiled(arguments.scan, arguments.slices, scan)
        if arguments.before:
            checkouts = {"before": Path(name) / "before", **checkouts}
            git = ["git", "-C", str(ROOT), "worktree"]
            subprocess.run([*git, "add", "--detach", str(checkouts["before"]), arguments.before], check=True)
        try:
            ways = [
                way
                for way, (checkout, words) in WAYS.items()
                if checkout in checkouts and (arguments.workflow or words != WORKFLOW)
            ]
            print(format_markdown_table(measure(ways, checkouts, arguments.bundle, scan, arguments.rounds)))
        finally:
            if arguments.before:
                subprocess.run([*git, "remove", "--force", str(checkouts["before"])], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
