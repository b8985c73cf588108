"""benchmark_inference.py: medians and ratios by arithmetic, one run of the real command, and the roofline by hand."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import POCKET, load_script

from common.partitioning.layers import Layer
from common.runtimes.packages import has_bf16
from studies import roofline
from zoo.variants import VARIANTS

INPUT, CONV, HEAD = (
    Layer(name, parameters, 0, 0, size, sources)
    for name, parameters, size, sources in (("input", 0, 100, ()), ("conv", 10, 800, (0,)), ("head", 2, 300, (0, 1)))
)


def test_a_row_holds_medians_and_how_many_times_less_than_before(phantoms, tmp_path, monkeypatch):
    script = load_script("benchmark_inference")
    scan = phantoms / "case_00000_synthetic/imaging.nii.gz"
    seconds = {"before": iter([1.0, 12.0, 10.0, 11.0]), "now": iter([1.0, 2.0, 40.0, 5.0])}

    def run(root, words, output, **paths):
        output.mkdir()
        mask = np.zeros((2, 2, 2), np.uint8)
        mask[0, 0, 0] = root.name == "now"
        nib.save(nib.Nifti1Image(mask, np.eye(4)), output / "mask.nii.gz")
        return {"seconds": next(seconds[root.name]), "peak MB": 100.0}

    monkeypatch.setattr(script, "run", run)
    checkouts = {name: tmp_path / name for name in seconds}
    before, now = script.measure(["segment, before", "segment"], checkouts, POCKET, scan, 3)
    assert (before["seconds"], now["seconds"], now["fastest"], now["slowest"]) == (11.0, 5.0, 2.0, 40.0)
    assert now["seconds, x less"] == 2.2 and now["peak MB, x less"] == 1.0
    assert now["voxels other than segment, before"] == 1


@pytest.mark.slow
def test_a_slice_and_a_folder_from_file_to_file(phantoms, tmp_path, capsys):
    scan, output = phantoms / "case_00000_synthetic/imaging.nii.gz", tmp_path / "inference.json"
    words = ["--scan", str(scan), "--slices", "1", "--rounds", "1", "--workers", "1", "--scans", "2"]
    assert load_script("benchmark_inference").main([*words, "--output", str(output)]) == 0
    slices, cohort = json.loads(output.read_text())["tables"].values()
    assert [row["way"] for row in slices] == ["segment --precision f32", "segment", "segment --fast"]
    for row in slices:
        assert 0 < row["MB x s"] <= row["peak MB"] * row["seconds"] and row["CPU seconds"] > 0
    assert slices[0]["voxels other than segment --precision f32"] == 0
    assert cohort[0]["scans an hour"] == pytest.approx(3600 * 2 / cohort[0]["seconds"])
    assert "| segment --fast |" in capsys.readouterr().out


def test_the_roof_is_the_slower_of_computing_and_moving():
    moved = roofline.count_bytes([INPUT, CONV, HEAD], "f32")
    assert moved == (100 + 800 + 300) + (100 + 100 + 800) + 12 * 4 / roofline.BATCH
    assert roofline.count_bytes([INPUT, CONV, HEAD], "bf16") == moved / 2
    by_computing = roofline.rate(0.02, flops=1e9, moved=1e6, flops_per_s=1e11, bytes_per_s=1e9)
    assert by_computing["x roof"] == pytest.approx(2) and by_computing["GFLOP/s, % of peak"] == pytest.approx(50)
    by_moving = roofline.rate(0.02, flops=1e9, moved=1e7, flops_per_s=1e12, bytes_per_s=1e9)
    assert by_moving["x roof"] == pytest.approx(2) and by_moving["GB/s"] == pytest.approx(0.5)


@pytest.mark.slow
def test_every_network_has_a_row_of_what_it_reached(monkeypatch):
    monkeypatch.setattr(roofline, "SIDE", 16)
    monkeypatch.setattr(roofline, "COPIED", 1024)
    monkeypatch.setattr(roofline, "SLICE", (1, 1, 32, 32))
    monkeypatch.setattr(roofline, "VARIANTS", VARIANTS[-1:])
    rows = roofline.measure_networks(rounds=1)
    assert [row["precision"] for row in rows] == (["f32", "bf16"] if has_bf16() else ["f32"])
    assert all(row["network"] == VARIANTS[-1].title and row["ms"] > 0 and row["x roof"] > 0 for row in rows)


def test_without_a_scan_or_the_roofline_there_is_nothing_to_do(capsys):
    with pytest.raises(SystemExit) as end:
        load_script("benchmark_inference").main([])
    assert end.value.code and "expected --scan, --roofline or both" in capsys.readouterr().err
