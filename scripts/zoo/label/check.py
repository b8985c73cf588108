"""A talk with a real MONAI Label server: whether bundles do there what they do by themselves."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from common.errors import InputError
from common.kits.phantom import write_phantom_case

from .server import ENVIRONMENT, ask, infer, run, run_server, train, write_app

LABELS = {"kidney": 1, "tumor": 2}
WRONG_WEIGHTS = "Checkpoint keys don't match"
# of the labelled voxels, but at least one: MONAI Label leaves channels_last out, and sums in another order tip a voxel
# where labels tie
TIES = 1e-3


def check_bundles(bundles: Sequence[Path], environment: Path = ENVIRONMENT) -> Iterator[str]:
    """
    Serve bundles, and hold what the server says against what the bundles do by themselves, on synthetic cases.

    Each must offer kidney and tumor, and segment a case in IPL and one in RAS as its own `inference.json` does with
    PyTorch, which the server uses, voxel by voxel but for `TIES`. The smallest is trained for one epoch, after which
    its new weights must fit its network. All on copies.

    Yields:
        A line for each thing that was found right.

    Raises:
        InputError: for the first that was not.
    """
    with tempfile.TemporaryDirectory() as folder:
        app, studies = Path(folder) / "app", write_studies(Path(folder) / "studies")
        write_app(bundles, app, environment)
        models = sorted((app / "model").iterdir(), key=lambda model: (model / "models/model.pt").stat().st_size)
        own = {model.name: segment(model, studies, Path(folder) / "own" / model.name) for model in models}
        with run_server(app, studies, environment=environment) as server:
            offered = json.loads(ask(f"{server.url}/info/"))["models"]
            for model in models:
                check_labels(model.name, offered)
                for case, path in own[model.name].items():
                    found = infer(server.url, model.name, case, Path(folder) / "served" / model.name / path.name)
                    counts = compare(found, path, studies / path.name)
                    check_log(model.name, server.log)
                    yield f"{model.name}: {case}: {counts}"
            weights = models[0] / "models/model.pt"
            before = weights.read_bytes()
            train(server.url, models[0].name)
            if weights.read_bytes() == before:
                raise InputError(f"{models[0].name}: expected training to write new weights, found the old ones.")
            segment(models[0], studies, Path(folder) / "trained")  # loads them strictly
            yield f"{models[0].name}: trained, and its new weights fit"


def write_studies(folder: Path) -> Path:
    """Two small synthetic patients, one file in IPL and one in RAS, with their labels, as MONAI Label stores them."""
    (folder / "labels/final").mkdir(parents=True)
    for seed, axes in enumerate(("IPL", "RAS")):
        case = write_phantom_case(folder / "parts", f"{axes}_synthetic", seed, (10, 48, 64), (12.0, 8.0, 7.0))
        for name, target in (("imaging", folder), ("segmentation", folder / "labels/final")):
            image = nib.load(case / f"{name}.nii.gz")
            turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
            nib.save(image.as_reoriented(turn), target / f"{case.name}.nii.gz")
    shutil.rmtree(folder / "parts")
    return folder


def segment(bundle: Path, cases: Path, output: Path) -> dict[str, Path]:
    """The label map of every case, by its name, that `monai.bundle run` with a bundle's `inference.json` writes."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(cases.resolve()), "--output_dir", str(output.resolve()), "--backend", "torch"]
    run(bundle, *command, cwd=bundle)
    return {path.name.removesuffix(".nii.gz"): path for path in sorted(output.glob("*.nii.gz"))}


def check_labels(model: str, offered: dict[str, Any]) -> None:
    """Raise an `InputError` unless a server's /info offers a model with kidney and tumor."""
    found = offered.get(model, {}).get("labels")
    if found != LABELS:
        raise InputError(f"{model}: expected the server to offer labels {LABELS}, found {found}.")


def compare(found: Path, expected: Path, image: Path) -> str:
    """Raise an `InputError` unless two label maps, of the grid of an image, are the same but for `TIES`; in words."""
    ours, theirs, grid = (nib.load(path) for path in (expected, found, image))
    for name in ("shape", "affine"):
        values = [np.asarray(getattr(nifti, name)) for nifti in (ours, theirs, grid)]
        if not all(value.shape == values[0].shape and np.allclose(value, values[0], atol=1e-4) for value in values):
            told = [value.tolist() for value in values]
            raise InputError(f"{found}: expected the image's {name} {told[2]}, found {told[1]}, alone {told[0]}.")
    ours, theirs = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    differing, labelled = np.count_nonzero(ours != theirs), np.count_nonzero(ours)
    if differing > max(1, TIES * labelled):
        raise InputError(f"{found}: {differing} of {labelled} labelled voxels differ from the bundle's own.")
    counts = ", ".join(f"{np.count_nonzero(ours == value)} {name}" for name, value in LABELS.items())
    return f"{counts}, {f'as alone but for {differing}' if differing else 'as alone'}"


def check_log(model: str, log: Path) -> None:
    """Raise an `InputError` where a server has said that weights and network do not match: it goes on regardless."""
    line = next((line for line in log.read_text().splitlines() if WRONG_WEIGHTS in line), None)
    if line:
        raise InputError(f"{model}: expected weights of its network, found {line[line.index(WRONG_WEIGHTS) :][:200]}")
