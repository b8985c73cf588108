"""Whatever writes files, at work in a folder with a bundle, cases and a training beside it."""

from __future__ import annotations

import logging
import warnings
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

from bundle_runs import POCKET

SMALL = {"spatial_size": [32, 32], "batch_size": 4}


def call(*words: object) -> None:
    from common.app.cli import main

    assert main([str(word) for word in words]) == 0


def train(folder: Path) -> None:
    from monai.bundle import ConfigWorkflow

    from common.bundle_folder import open_bundle

    logging.disable()
    warnings.simplefilter("ignore")
    bundle = folder.parent / POCKET
    open_bundle(bundle)
    settings = {"dataset_dir": str(folder.parent / "cases"), "epochs": 4, "windows": {"32": 1}, "views_per_epoch": 8}
    places = {"output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models"), "bundle_root": str(bundle)}
    workflow = ConfigWorkflow(str(bundle / "configs/train.json"), logging_file=False, **SMALL, **settings, **places)
    workflow.initialize()
    workflow.run()


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
    publishing.read_curves = lambda *_: [{"epoch": epoch, "loss": 0.5} for epoch in range(200)]
    scores = {"patients": {"kidney": 0.9}, "without_kidney": {"share": 0.1}, "scan": {"kidney": 0.9}}
    publishing.score_bundle = lambda *_: scores
    publishing.publish(POCKET, [], folder.parent / "training")
    rendering.write_bundle(publishing.find_variant(POCKET), folders["BUNDLES"])


TASKS = [train, segment, prune, package, export, publish]
