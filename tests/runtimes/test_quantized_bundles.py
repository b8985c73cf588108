"""int8 files of bundles: calibrated with what inference sees, nearly the same Dice, refused in one line."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NAMES, POCKET, SLICES, needs_slices

from common.app.segmenter import Segmenter
from common.errors import InputError, find_input_error
from common.files import hash_file
from common.kits.cases import find_cases
from common.runtimes import quantize
from common.runtimes.export import export_bundle
from common.runtimes.packages import has_bf16
from common.runtimes.quantize import check_int8, collect_slices, export_int8, spread
from common.runtimes.run import ExportedNetwork
from studies.precision_dice import BF16, F32, INT8, measure_dice

# ---- a bundle


@pytest.fixture
def small_bundle(weighted_bundle) -> Path:
    """Pocket U-Net with untrained weights that sees slices at 48 x 48."""
    path = weighted_bundle / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial_size": [48, 48]}))
    return weighted_bundle


def test_a_bundles_file_is_a_quarter_and_tells_what_it_was_calibrated_with(small_bundle, phantoms, tmp_path):
    path = export_int8(small_bundle, phantoms, tmp_path / "out")
    files = [tmp_path / f"out/{POCKET}_int8{suffix}" for suffix in (".bin", ".xml")]
    assert path == files[1] and sorted(path.parent.iterdir()) == files
    full = export_bundle(small_bundle, "openvino", tmp_path / "out")
    assert files[0].stat().st_size < 0.3 * full.with_suffix(".bin").stat().st_size

    slices, cases = collect_slices(small_bundle, phantoms)
    metadata = ExportedNetwork(path, "openvino").metadata
    sha256 = hashlib.sha256(b"".join(slices)).hexdigest()
    found = metadata.pop("calibration")
    assert found.pop("nncf") and found == {"cases": cases, "slices": 40, "sha256": sha256}
    expected = ExportedNetwork(full, "openvino").metadata
    expected.pop("network_sha256")  # of what a bundle ships, which is not quantized
    assert metadata == expected | {"precision": "int8"}

    again = export_int8(small_bundle, phantoms, tmp_path / "again")
    # the graph numbers its operations on through a process
    assert hash_file(files[0]) == hash_file(again.with_suffix(".bin"))
    image = torch.from_numpy(slices[20])
    assert torch.equal(*(ExportedNetwork(one, "openvino")(image) for one in (path, again)))


def test_it_segments_and_its_segmentations_are_told_apart(small_bundle, phantoms, tmp_path):
    case = find_cases(phantoms)[0]
    path = export_int8(small_bundle, phantoms, tmp_path)
    eager, full = Segmenter(small_bundle, "cpu", backend="torch"), Segmenter(small_bundle, precision="f32")
    segmenter = Segmenter(small_bundle, exported=path, precision="f32")
    expected, found = (one.segment(case).label_map for one in (eager, segmenter))
    assert len(np.unique(expected)) > 1 and (expected == found).mean() > 0.9
    precisions = [one.describe(case)["Precision"] for one in (eager, full, segmenter)]
    assert precisions == ["f32", "f32", "int8, the rest f32"]
    assert len({one.fingerprint(case) for one in (eager, full, segmenter)}) == 3
    other = export_int8(small_bundle, case["image"], tmp_path / "other")
    assert Segmenter(small_bundle, exported=other, precision="f32").fingerprint(case) != segmenter.fingerprint(case)


def test_calibrated_is_with_what_the_network_sees_when_it_segments(small_bundle, phantoms):
    seen: list[np.ndarray] = []

    def watch(image: torch.Tensor) -> torch.Tensor:
        seen.extend(image[:, None].numpy())
        return image.repeat(1, 2, 1, 1)  # as if it were logits

    segmenter = Segmenter(small_bundle, "cpu", network=watch)
    for case in find_cases(phantoms):
        segmenter.segment(case)
    slices, cases = collect_slices(small_bundle, phantoms)
    assert cases == [case["case"] for case in find_cases(phantoms)]
    assert np.array_equal(slices, seen) and slices[0].shape == (1, 1, 48, 48) and slices[0].dtype == np.float32
    assert np.min(slices) == 0 and 0.5 < np.max(slices) <= 1


def test_of_many_cases_and_slices_some_are_taken_evenly(small_bundle, phantoms, monkeypatch):
    everything, names = collect_slices(small_bundle, phantoms)
    monkeypatch.setattr(quantize, "MAX_CASES", 2)
    monkeypatch.setattr(quantize, "MAX_SLICES", 6)
    slices, cases = collect_slices(small_bundle, phantoms)
    assert cases == [names[0], names[3]]
    assert np.array_equal(slices, [everything[i] for i in (0, 4, 9, 30, 34, 39)])
    assert spread("abc", 5) == ["a", "b", "c"] and spread("abcde", 3) == ["a", "c", "e"]


# ---- wrong input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("openvino", "int4", None), "precision: expected f32 or int8, found int4"),
        (("onnx", "int8", "scans"), "format: expected openvino, which alone has int8, found onnx"),
        (("openvino", "int8", None), "dataset_dir: expected images to calibrate int8 with, found none"),
        (("openvino", "f32", "scans"), "dataset_dir: expected none, as only int8 is calibrated, found scans"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_one_line(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        check_int8(*arguments)
    assert "\n" not in str(caught.value)


def test_missing_images_weights_and_packages_are_one_line_and_nothing_is_written(
    copy_bundle, small_bundle, phantoms, tmp_path, monkeypatch
):
    empty, bad = tmp_path / "empty", tmp_path / "bad"
    for folder in (empty, bad):
        folder.mkdir()
    (bad / "scan.nii.gz").write_bytes(b"no image")
    output = tmp_path / "out"
    for folder, words in {empty: "expected case_", bad: "scan.nii.gz", tmp_path / "none": "found none"}.items():
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (MONAI wraps it)
            export_int8(small_bundle, folder, output)
        message = str(find_input_error(caught.value))
        assert words in message and str(folder) in message and "\n" not in message
    (small_bundle / "models/model.pt").unlink()
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (MONAI wraps it)
        export_int8(small_bundle, phantoms, output)
    assert "model.pt: no weights here" in str(find_input_error(caught.value))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match="nncf: expected this package to be installed, .* pip install nncf"):
        export_int8(small_bundle, phantoms, output)
    assert not output.exists()


# ---- what it costs


@pytest.mark.slow
@pytest.mark.timeout(3600)  # the dense U-Net in three precisions
@needs_slices
@pytest.mark.parametrize("name", NAMES)
def test_dice_of_the_real_slices_changes_by_at_most_0_005(name):
    """But for SD-UNet in int8, whose filters of mean zero see little else than rounding (docs/studies/speed.md)."""
    dice = measure_dice(BUNDLES / name, SLICES)
    assert list(dice) == [F32, *([BF16] if has_bf16() else []), INT8]
    assert min(dice[F32].values()) > 0.3
    for precision in list(dice)[1:]:
        assert dice[precision] != dice[F32]
        loses = name == "kits_sd_unet_segmentation" and precision == INT8
        assert (dice[precision] == pytest.approx(dice[F32], abs=0.005)) != loses
