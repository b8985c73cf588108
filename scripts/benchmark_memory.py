"""Peak memory and time of a bundle's inference workflow, file to file, on a large synthetic volume."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

KITS_AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1]])
# runs in a process of its own, whose peak is the workflow's
WORKFLOW = """
import json, resource, sys, time
from monai.bundle import run
bundle, dataset_dir, output_dir = sys.argv[1:]
start = time.monotonic()
run(config_file=bundle + "/configs/inference.json", bundle_root=bundle, dataset_dir=dataset_dir, output_dir=output_dir)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak_gb": peak * 1024 / 1e9, "seconds": time.monotonic() - start}))
"""


def write_volume(folder: Path, shape: tuple[int, ...], dtype: str) -> None:
    """A random CT in KiTS19's layout: slices first, IPL; int16 or, as KiTS19 stores it, float64."""
    slice_hu = np.random.default_rng(0).normal(40, 60, shape[1:])
    volume = np.broadcast_to(slice_hu, shape).astype(dtype)
    case = folder / "case_00000_synthetic"
    case.mkdir()
    nib.save(nib.Nifti1Image(volume, KITS_AFFINE), case / "imaging.nii.gz")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python scripts/benchmark_memory.py --shape 100 512 512"
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/kits_pocket_unet_segmentation"))
    parser.add_argument("--shape", type=int, nargs=3, default=(1059, 512, 512), help="slices, rows, columns")
    arguments = parser.parse_args(arguments)
    for dtype in ("int16", "float64"):
        with tempfile.TemporaryDirectory() as folder:
            write_volume(Path(folder), tuple(arguments.shape), dtype)
            command = [sys.executable, "-c", WORKFLOW, str(arguments.bundle.resolve()), folder, f"{folder}/out"]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        measured = json.loads(printed)
        print(f"{dtype}: peak {measured['peak_gb']:.2f} GB, {measured['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
