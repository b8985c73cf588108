"""Whatever writes files, at work in a folder with a bundle, cases and a training beside it."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import torch
from bundle_runs import BUNDLES, POCKET, ROOT

from common.kits.phantom import write_phantom_dataset
from common.networks import LiteUNet
from common.networks.weights import save_weights

SMALL = {"spatial_size": [32, 32], "batch_size": 4}


def make_place(folder: Path) -> Path:
    """A folder with a bundle, three cases and a training; a task works in a folder beside them."""
    shutil.copytree(BUNDLES / POCKET, folder / POCKET, ignore=shutil.ignore_patterns("eval", "models"))
    metadata = folder / POCKET / "configs/metadata.json"
    kept = {key: value for key, value in json.loads(metadata.read_text()).items() if key not in ("weights", "scores")}
    metadata.write_text(json.dumps(kept))
    inference = folder / POCKET / "configs/inference.json"
    inference.write_text(json.dumps(json.loads(inference.read_text()) | {"spatial_size": [32, 32]}))
    write_phantom_dataset(folder / "cases", 3, seed=3, shape=(8, 48, 48), spacing_mm=(12.0, 8.0, 8.0))
    torch.manual_seed(1)
    for bundle in ("training", POCKET):
        save_weights(LiteUNet(channels=[16] * 5), folder / bundle / "models/model.pt")
    return folder


def begin(task: Callable, place: Path) -> Path:
    """A new folder for a task, always of the same name, for that stands in what is written."""
    folder = place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if task is publish:
        shutil.copytree(BUNDLES / POCKET, folder / "bundles" / POCKET)
        shutil.copytree(
            ROOT / "docs/results", folder / "results", ignore=lambda _, names: {*names} - {f"{POCKET}.json"}
        )
    return folder


def read_visible(folder: Path) -> dict[str, bytes]:
    """Files that nobody takes for half-written ones, without logs and locks, in which the time stands or nothing."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    names = {path.relative_to(folder): path for path in files if path.suffix != ".lock"}
    return {str(n): p.read_bytes() for n, p in names.items() if not any(part[0] == "." for part in n.parts)}


def call(*words: object) -> None:
    from common.app.cli import main

    if code := main([str(word) for word in words]):
        raise SystemExit(code)


def train(folder: Path, *overlays: str) -> None:
    from monai.bundle import ConfigWorkflow

    from common.bundle_folder import open_bundle

    logging.disable()
    warnings.simplefilter("ignore")
    bundle = folder.parent / POCKET
    open_bundle(bundle)
    settings = {"dataset_dir": str(folder.parent / "cases"), "epochs": 4, "windows": {"32": 1}, "views_per_epoch": 8}
    places = {"output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models"), "bundle_root": str(bundle)}
    files = [str(bundle / f"configs/{name}.json") for name in ("train", *overlays)]
    workflow = ConfigWorkflow(files, logging_file=False, **SMALL, **settings, **places)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def train_together(folder: Path) -> None:
    train(folder, "multi_gpu_train")


def segment_in_pipeline(folder: Path) -> None:
    segment_together(folder, "pipeline")


def segment_cases_apart(folder: Path) -> None:
    segment_together(folder, "data")


def segment_together(folder: Path, mode: str) -> None:
    words = ("--input", folder.parent / "cases", "--output", folder / "masks", "--mode", mode)
    call("segment", "--bundle", folder.parent / POCKET, *words)


def segment(folder: Path) -> None:
    from common.app import segmenter

    segmenter.datetime = SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=zone))  # printed in a report
    words = ("--input", folder.parent / "cases", "--output", folder / "masks", "--report", "--backend", "torch")
    call("segment", "--bundle", folder.parent / POCKET, *words)


def prune(folder: Path) -> None:
    words = ("--output", folder / "pruned_segmentation", "--channels", "8,8,16,16,16")
    call("prune", "--method", "channel", "--bundle", folder.parent / POCKET, *words)


def export(folder: Path) -> None:
    call("export", "--bundle", folder.parent / POCKET, "--output", folder / "exported", "--format", "openvino")


def package(folder: Path) -> None:
    from zoo.packaging import package_bundles

    package_bundles([folder.parent / POCKET], folder / "release", base_url="https://example.org")


def publish(folder: Path) -> None:
    from studies import publishing
    from zoo import records, rendering

    folders = {"BUNDLES": folder / "bundles", "RECORDS": folder / "results"}
    for module in (publishing, records, rendering):
        vars(module).update(folders)
    publishing.find_labelled = publishing._read_patients = lambda *_: []
    publishing.read_training = lambda *_: (None, 0)
    publishing.read_curves = lambda *_: [{"views": epoch, "loss": 0.5} for epoch in range(1, 201)]
    record = records.read_record(POCKET)
    publishing.score_bundle = lambda *_: {key: record[key] for key in ("patients", "without_kidney", "scan")}
    publishing.publish(POCKET, [], folder.parent / "training")


TASKS = [train, segment, prune, package, export, publish]
