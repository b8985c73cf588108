"""Bundles and scripts as users run them: from the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from common import __version__
from common.networks import LiteUNet
from zoo.variants import VARIANTS, VARIANTS_3D

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
NAMES = [variant.name for variant in VARIANTS]
NAMES_3D = [variant.name for variant in VARIANTS_3D]
SCHEMA = ROOT / "scripts/zoo/verification/meta_schema_20240725.json"
POCKET = "kits_pocket_unet_segmentation"
# of its release's zip
STEM = f"{POCKET}_v{__version__}"
# real slices, where they are at hand
SLICES = Path(os.environ.get("KITS_SLICES", ROOT.parent / "shared/kits19-slices"))
# held-out patients and the whole scan, beside them
DATA = [SLICES.parent / name for name in ("kits19-crops", "kits19-fullslices", "kits19-scan")]
needs_data = pytest.mark.skipif(not all(path.is_dir() for path in DATA), reason=f"no {DATA[0].name} in {SLICES.parent}")
needs_slices = pytest.mark.skipif(not SLICES.is_dir(), reason=f"no KiTS19 slices in {SLICES}; set KITS_SLICES")
TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc_per_node=2",
    "--rdzv_backend=c10d",
    "--rdzv_endpoint=127.0.0.1:0",
)


def start_bundle(
    bundle: Path, *configs: str, cwd: Path | None = None, launcher: tuple[str, ...] = (sys.executable,), **overrides
) -> subprocess.Popen:
    """
    `python -m monai.bundle run` with configs of a bundle, from its own folder or, with absolute paths, from another.
    """
    folder = Path("configs") if cwd is None else bundle / "configs"
    files = [str(folder / f"{config}.json") for config in configs]
    command = [*launcher, "-m", "monai.bundle", "run", "--config_file", files[0] if len(files) == 1 else str(files)]
    if cwd is not None:
        command += ["--bundle_root", str(bundle)]
    for key, value in overrides.items():
        command += [f"--{key}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=cwd or bundle, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_bundle(bundle: Path, *configs: str, **arguments) -> subprocess.CompletedProcess:
    """`start_bundle`, waited for."""
    process = start_bundle(bundle, *configs, **arguments)
    try:
        printed, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def run_well(bundle: Path, *configs: str, **arguments) -> str:
    """`run_bundle` that must succeed; gives what it printed."""
    done = run_bundle(bundle, *configs, **arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`python` in a folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@contextmanager
def serve_files(folder: Path) -> Iterator[str]:
    """A web server on the loopback device; gives the URL of a folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def download(name: str, url: str, folder: Path) -> Path:
    """What `python -m monai.bundle download` makes of a URL in a folder."""
    words = ["--name", name, "--url", url, "--bundle_dir", "zoo"]
    done = run_python(folder, "-m", "monai.bundle", "download", *words)
    assert done.returncode == 0, done.stderr
    return folder / "zoo" / name


def read_network(bundle: Path, config: str = "inference") -> LiteUNet:
    """The network that a config of a bundle describes, as this package's own class, untrained."""
    definition = json.loads((bundle / f"configs/{config}.json").read_text())["network_def"]
    return LiteUNet(**{key: value for key, value in definition.items() if key != "_target_"})


def read(path: Path) -> np.ndarray:
    """The voxels of a NIfTI file, as stored."""
    return np.asarray(nib.load(path).dataobj)


def load_script(name: str) -> ModuleType:
    """A module of scripts/, to be called in this process."""
    specification = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
