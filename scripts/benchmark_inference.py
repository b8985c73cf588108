"""Peak memory and time of segmenting a large synthetic volume, file to file: by `Segmenter` and by the workflow."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser

from common.networks.weights import save_weights

KITS_AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1]])
# each runs in a process of its own, whose peak is its own too
WAYS = {
    "Segmenter": """
from common.app.folder import segment_to_folder
from common.app.segmenter import Segmenter
seconds = segment_to_folder(Segmenter(bundle, backend="torch"), find_cases(dataset_dir)[0], Path(output_dir))
""",
    "inference.json": """
from monai.bundle import run
run(config_file=bundle + "/configs/inference.json", bundle_root=bundle, dataset_dir=dataset_dir, output_dir=output_dir)
seconds = {}
""",
}
PROGRAM = """
import json, re, sys, time
from pathlib import Path
from common.kits.cases import find_cases
bundle, dataset_dir, output_dir = sys.argv[1:]
start = time.perf_counter()
{way}
seconds["all"] = time.perf_counter() - start
# not ru_maxrss, which starts from the peak of the process that started this one
peak_gb = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
print(json.dumps({{"peak_gb": peak_gb, "seconds": seconds}}))
"""


def write_volume(folder: Path, shape: tuple[int, ...], dtype: str) -> None:
    """A random CT in KiTS19's layout: slices first, IPL; int16 or, as KiTS19 stores it, float64."""
    slice_hu = np.random.default_rng(0).normal(40, 60, shape[1:])
    volume = np.broadcast_to(slice_hu, shape).astype(dtype)
    (folder / "case_00000_synthetic").mkdir(parents=True)
    nib.save(nib.Nifti1Image(volume, KITS_AFFINE), folder / "case_00000_synthetic/imaging.nii.gz")


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle that has weights: untrained ones where it has none, which cost the same."""
    copy = shutil.copytree(bundle, folder / bundle.name, ignore=shutil.ignore_patterns("eval"))
    if not (copy / "models/model.pt").is_file():
        sys.path.insert(0, str(copy))
        parser = ConfigParser(ConfigParser.load_config_file(copy / "configs/inference.json"))
        save_weights(parser.get_parsed_content("network_def"), copy / "models/model.pt")
    return copy


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python scripts/benchmark_inference.py --shape 100 512 512"
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/kits_pocket_unet_segmentation"))
    parser.add_argument("--shape", type=int, nargs=3, default=(1059, 512, 512), help="slices, rows, columns")
    arguments = parser.parse_args(arguments)
    for dtype in ("int16", "float64"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_volume(folder / "data", tuple(arguments.shape), dtype)
            bundle = copy_bundle(arguments.bundle.resolve(), folder)
            for way, code in WAYS.items():
                words = [str(bundle), str(folder / "data"), str(folder / way)]
                command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(way=code), *words]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                measured = json.loads(printed.splitlines()[-1])
                seconds = "  ".join(f"{stage} {value:.1f} s" for stage, value in measured["seconds"].items())
                print(f"{dtype}, {way}: peak {measured['peak_gb']:.2f} GB  {seconds}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
