"""What the verification finds in metadata that is not true: the one line that says what."""

from __future__ import annotations

from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from good_bundle import LABELS, METADATA, SCORES, SWAPPED, edit, find_problems

from zoo.verification import verify_bundle


def set_io(side: str, name: str, **values: object) -> Callable[[dict], object]:
    return lambda metadata: metadata["network_data_format"][side][name].update(values)


def add(amount: float, *keys: str | int) -> Callable[[dict], None]:
    """Add to the number that keys lead to."""

    def change(metadata: dict) -> None:
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] += amount

    return change


def put(value: object, *keys: str) -> Callable[[dict], None]:
    """Set the value that keys lead to."""

    def change(metadata: dict) -> None:
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] = value

    return change


SWAP = set_io("outputs", "pred", channel_def={"0": "background", "1": "tumor", "2": "kidney"})
PATIENTS, SCAN = ("scores", "patients"), ("scores", "scan")
# what the metadata says, the check that is to find it out, and words of its one problem
METADATA_BREAKS = [
    (lambda m: m.pop("version"), "metadata schema", "found 'version' is a required property"),
    (lambda m: m.update(authors=1), "metadata schema", "found 1 is not of type 'string'"),
    (lambda m: m.update(version="9.9"), "changelog", "changelog: expected 9.9, found 0.2.0"),
    (SWAP, "labels", f"channel_def: expected {LABELS}, found {SWAPPED}"),
    (lambda m: m.update(label_classes="1 tumour, 2 kidney"), "labels", f"label_classes: expected {LABELS}, found 0 b"),
    (lambda m: m.update(pred_classes="0 background, 1 kidney"), "labels", f"pred_classes: expected {LABELS}, found 0"),
    (set_io("outputs", "pred", num_channels=4), "network", "outputs.pred.num_channels: expected 4, found 3"),
    (set_io("inputs", "image", num_channels=2), "network", "expected a network that takes (1, 2, 32, 32), found"),
    (set_io("outputs", "pred", spatial_shape=[16, 32]), "network", "expected [16, 32], found [32, 32]"),
    (set_io("outputs", "pred", dtype="float16"), "network", "pred.dtype: expected float16, found float32"),
    (add(1, "weights", "bytes"), "weights file", "models/model.pt bytes: expected "),
    (put("0" * 64, "weights", "sha256"), "weights file", f"models/model.pt sha256: expected {'0' * 64}, found "),
    (
        put("models/other.pt", "weights", "file"),
        "weights file",
        "weights.file: expected models/model.pt, found models/o",
    ),
    (
        put("MIT", "weights", "license"),
        "card",
        "weights.license: expected what docs/README.md and docs/data_license.txt",
    ),
    (lambda m: m["weights"].pop("license"), "card", "weights.license: expected what docs/README.md and docs/data_lic"),
    (put("all of KiTS19", "weights", "trained_on"), "card", "expected that the weights are trained on all of KiTS19"),
    (add(1, "complexity", "parameters"), "complexity", "complexity.parameters: expected 53028, found 53027"),
    (add(2, "complexity", "flops"), "complexity", "complexity.flops: expected 1775501314, found 1775501312"),
    (put("1 x", "complexity", "convention"), "complexity", "complexity.convention: expected parameters are "),
    (add(1, "complexity", "original", "parameters"), "complexity", "complexity.original.parameters: expected"),
    (add(2, "complexity", "original", "flops"), "complexity", "complexity.original.flops: expected"),
    (add(1, "complexity", "nonzero_parameters"), "sparsity", "complexity.nonzero_parameters: expected"),
    (add(0.001, "complexity", "sparsity"), "sparsity", "complexity.sparsity: expected"),
    (
        put(3, "complexity", "latency_ms"),
        "metadata keys",
        "complexity: expected no key that nobody recomputes, found late",
    ),
    (put(1, *SCAN, "hausdorff_mm"), "metadata keys", "scores.scan: expected no key that nobody recomputes, found hau"),
    (
        put("docs/nothere.md", "scores", "protocol"),
        "documented commands",
        "docs/nothere.md: expected a file, found none",
    ),
    (
        put("kits-lite score --label x", "scores", "command"),
        "documented commands",
        "scores.command: kits-lite score --label: expected an option of the command, found none",
    ),
    (put("make dice", "scores", "command"), "documented commands", "or kits-lite, found make dice"),
    (put("python scripts/train.py", "scores", "command"), "documented commands", "expected in the source repository: "),
    (add(0.0003, *SCAN, "kidney_and_tumor"), SCORES, "scores.scan.kidney_and_tumor: expected"),
    (add(-0.2, *SCAN, "invented_ml"), SCORES, "scores.scan.invented_ml: expected"),
    (add(-0.2, *SCAN, "all_pieces", "invented_ml"), SCORES, "scan.all_pieces.invented_ml: expected"),
    (add(0.0003, *PATIENTS, "pooled", "tumor"), SCORES, "scores.patients.pooled.tumor: expected"),
    (add(0.002, *PATIENTS, "per_patient", "tumor", "ci95_low"), SCORES, "per_patient.tumor.ci95_low: expected"),
    (add(1, *PATIENTS, "patients"), SCORES, "scores.patients.patients: expected 3, found 2"),
    (add(2, *PATIENTS, "tumor_found"), SCORES, "scores.patients.tumor_found: expected"),
    (add(-2, "scores", "without_kidney", "wrong_slices"), SCORES, "scores.without_kidney.wrong_slices: expected"),
]


@pytest.mark.parametrize(
    ("change", "check", "words"), METADATA_BREAKS, ids=[f"{b[1]} {i}" for i, b in enumerate(METADATA_BREAKS)]
)
def test_metadata_that_is_not_true_gives_one_line(change, check, words, broken, phantoms):
    edit(broken / METADATA, change)
    found = find_problems(broken, phantoms, check)
    assert [name for name, _ in found] == [check], found
    assert words in found[0][1]


def test_versions_that_are_not_installed_or_not_required_are_named(broken):
    changed = {"nibabel": "0.1", "no-such-package": "2"}
    edit(broken / METADATA, lambda m: m.update(numpy_version="1.0"))
    edit(broken / METADATA, lambda m: m["required_packages_version"].update(changed))
    details = {detail for name, detail in find_problems(broken) if name == "versions"}
    assert details == {
        f"numpy: expected 1.0, found {np.__version__}",
        f"docs/requirements.txt numpy: expected 1.0, found {np.__version__}",
        f"nibabel: expected 0.1, found {nib.__version__}",
        f"docs/requirements.txt nibabel: expected 0.1, found {nib.__version__}",
        "no-such-package: expected 2, found none installed",
        "docs/requirements.txt no-such-package: expected 2, found None",
    }


def test_a_schema_that_is_not_here_is_not_called_good(broken):
    edit(broken / METADATA, lambda m: m.update(schema="https://example.org/meta_schema_19990101.json"))
    (outcome,) = verify_bundle(broken, None, ["metadata schema"])
    assert (outcome.status, outcome.detail) == ("not recomputed", "no copy of the schema meta_schema_19990101.json")
