"""
File to file: seconds, CPU seconds and memory of every way to segment a scan, before a commit and now, all taking turns.

With --workers how many scans an hour a folder gives; with --roofline how near the networks are to the machine's peaks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

from common.errors import report_input_errors
from common.files import check_output_file, write_whole
from common.runtimes.packages import describe_cpu
from common.runtimes.plain import count_threads
from studies.roofline import measure_networks
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
F32, BUSY = ("--precision", "f32"), ", beside a busy process"
# whose checkout, and the words of the command
WAYS = {
    "segment, before": ("before", SEGMENT),
    "segment --precision f32": ("now", SEGMENT + F32),
    "segment": ("now", SEGMENT),
    "segment --fast": ("now", (*SEGMENT, "--fast")),
    f"segment{BUSY}": ("now", SEGMENT),
    "inference.json, before": ("before", WORKFLOW),
    "inference.json": ("now", WORKFLOW),
}
EVERY_S = 0.02  # memory is looked at so often


def write_tiled(scan: Path, slices: int, path: Path) -> None:
    """A scan repeated along its slices, int16, (X, Y, slices) in LPS order: what most files are like."""
    image = nib.as_closest_canonical(nib.load(scan))
    volume = np.asarray(image.dataobj).astype(np.int16)
    tiled = np.concatenate([volume] * -(-slices // volume.shape[2]), axis=2)[..., :slices]
    nib.save(nib.Nifti1Image(tiled[::-1, ::-1], np.diag([-1, -1, 1, 1]) @ image.affine), path)


def run(root: Path, words: Sequence[str], **paths: Path) -> dict[str, float]:
    """Run one command of a checkout in a process of its own, and measure it."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *(word.format(**paths) for word in words)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with tempfile.TemporaryFile() as told:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=told)
        watched, pid, curve = psutil.Process(process.pid), 0, 0.0
        while not pid:
            time.sleep(EVERY_S)
            with suppress(psutil.Error):  # it has just ended
                curve += EVERY_S * watched.memory_info().rss / 1e6
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        errors = told.read().decode()
    if status:
        raise SystemExit(f"{words}: expected the command to succeed, found: {errors.strip()}")
    return {
        "seconds": seconds,
        "CPU seconds": usage.ru_utime + usage.ru_stime,
        "peak MB": int(re.findall(r"^peak (\d+)$", errors, re.M)[-1]) / 1000,
        "MB x s": curve,
    }


def measure(
    ways: Sequence[str], checkouts: Mapping[str, Path], bundle: str, scan: Path, rounds: int
) -> list[dict[str, Any]]:
    """A row for every way: medians of some rounds in which all take turns, and how many times less than before."""
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}

    def run_way(way: str, scan: Path, output: Path) -> dict[str, float]:
        checkout, words = WAYS[way]
        root = checkouts[checkout]
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if way.endswith(BUSY) else []
        try:
            return run(root, words, bundle=root / "bundles" / bundle, scan=scan, output=output)
        finally:
            for process in busy:
                process.kill()
                process.wait()

    with tempfile.TemporaryDirectory() as folder:
        slice_alone = Path(folder) / "slice.nii.gz"
        write_tiled(scan, 1, slice_alone)
        for way in ways:  # exports what has to be exported
            run_way(way, slice_alone, Path(folder) / f"{way} 0")
        for number in range(1, rounds + 1):
            for way in ways:
                taken[way].append(run_way(way, scan, Path(folder) / f"{way} {number}"))
        first = _read_mask(Path(folder) / f"{ways[0]} 1")
        others = {way: int((_read_mask(Path(folder) / f"{way} 1") != first).sum()) for way in ways}
    rows, before = [], {}
    for way, measured in taken.items():
        medians = {key: statistics.median(values[key] for values in measured) for key in measured[0]}
        before = medians if WAYS[way][0] == "before" else before
        spread = {"fastest": min(m["seconds"] for m in measured), "slowest": max(m["seconds"] for m in measured)}
        ratios = {f"{key}, x less": before[key] / medians[key] for key in medians if before}
        rows.append({"way": way, **medians, **spread, **ratios, f"voxels other than {ways[0]}": others[way]})
    return rows


def _read_mask(folder: Path) -> np.ndarray:
    (path,) = folder.glob("*.nii.gz")
    return np.asarray(nib.load(path).dataobj)


def measure_cohort(workers: Sequence[int], bundle: str, scan: Path, scans: int) -> list[dict[str, Any]]:
    """How many scans an hour `segment --workers` makes of a folder that holds one scan so many times."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scans"
        folder.mkdir()
        for number in range(scans):
            (folder / f"{number}.nii.gz").symlink_to(scan)
        for count in workers:
            words = (*SEGMENT, "--workers", str(count))
            paths = {"bundle": ROOT / "bundles" / bundle, "scan": folder, "output": Path(name) / f"{count}"}
            taken = run(ROOT, words, **paths)
            an_hour = 3600 * scans / taken["seconds"]
            row = {"workers": count, "scans": scans, "seconds": taken["seconds"], "CPU seconds": taken["CPU seconds"]}
            rows.append(row | {"scans an hour": an_hour, "a core": an_hour / count_threads()})
    return rows


def format_results(results: Mapping[str, Any]) -> str:
    """All that was measured, in Markdown."""
    parts = [f"{results['machine']}, {results['threads']} threads; medians of {results['rounds']} rounds."]
    for title, rows in results["tables"].items():
        columns = dict.fromkeys(key for row in rows for key in row)
        cells = [{column: _format(row.get(column, "-")) for column in columns} for row in rows]
        parts.append(f"## {title}\n{format_markdown_table(cells)}")
    return "\n\n".join(parts)


def _format(value: object) -> str:
    return f"{value:.{0 if value >= 100 else 2 if value < 1 else 1}f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python scripts/benchmark_inference.py --scan scan.nii.gz --before v0.1.0"
    )
    parser.add_argument(
        "--bundle", nargs="+", default=["kits_pocket_unet_segmentation"], help="names of some in bundles/"
    )
    parser.add_argument("--scan", type=Path, help="NIfTI file")
    parser.add_argument("--slices", type=int, nargs="+", default=[0], help="repeat it to so many, int16; 0: as it is")
    parser.add_argument("--before", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workflow", action="store_true", help="inference.json, too")
    parser.add_argument("--busy", action="store_true", help="segment beside a busy process, too")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="segment a folder by so many processes")
    parser.add_argument("--scans", type=int, default=8, help="in that folder")
    parser.add_argument("--roofline", action="store_true", help="the networks alone, beside the machine's peaks")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers, and what the tables were made of")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    if not arguments.scan and not arguments.roofline:
        parser.error("expected --scan, --roofline or both, found neither")
    if arguments.output:
        check_output_file(arguments.output, [arguments.scan] if arguments.scan else [])
    results = {"machine": describe_cpu(), "threads": count_threads(), "rounds": arguments.rounds, "tables": {}}
    if arguments.scan:
        results["tables"] |= _measure_scans(arguments)
    if arguments.roofline:
        results["tables"]["Roofline"] = measure_networks(arguments.rounds)
    print(format_results(results))
    if arguments.output:
        with write_whole(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _measure_scans(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    tables = {}
    with tempfile.TemporaryDirectory() as name:
        checkouts = {"now": ROOT}
        if arguments.before:
            checkouts = {"before": Path(name) / "before", **checkouts}
            git = ["git", "-C", str(ROOT), "worktree"]
            subprocess.run([*git, "add", "--quiet", "--detach", str(checkouts["before"]), arguments.before], check=True)
        ways = [
            way
            for way, (checkout, words) in WAYS.items()
            if checkout in checkouts
            and (arguments.workflow or words != WORKFLOW)
            and (arguments.busy or not way.endswith(BUSY))
        ]
        try:
            for slices in arguments.slices:
                scan = Path(name) / f"{slices}.nii.gz" if slices else arguments.scan.resolve()
                if slices:
                    write_tiled(arguments.scan, slices, scan)
                for bundle in arguments.bundle:
                    title = f"{bundle}, {f'{slices} slices' if slices else arguments.scan.name}"
                    tables[title] = measure(ways, checkouts, bundle, scan, arguments.rounds)
        finally:
            if arguments.before:
                subprocess.run([*git, "remove", "--force", str(checkouts["before"])], check=True)
    if arguments.workers:
        title = f"{arguments.bundle[0]}, scans an hour"
        tables[title] = measure_cohort(
            arguments.workers, arguments.bundle[0], arguments.scan.resolve(), arguments.scans
        )
    return tables


if __name__ == "__main__":
    sys.exit(main())
