"""The speed benchmark on small networks: what is timed computes the same, and the report says what was measured."""

from __future__ import annotations

import csv

import pytest
import torch

from common.zoo.benchmarks import speed, speed_report
from common.zoo.benchmarks.speed import BACKENDS, REFERENCE, measure, open_backends, spread
from common.zoo.benchmarks.speed_report import read_speed, write_speed
from common.zoo.variants import VARIANTS, Variant

TINY = tuple(
    Variant(name, name, "", "", {"channels": channels})
    for name, channels in ((VARIANTS[0].name, [4, 8, 8, 8, 8]), ("tiny", [2, 2, 2, 2, 2]))
)
BASIC = Variant("basic", "basic", "", "", {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4] * 6})


@pytest.fixture
def tiny(monkeypatch):
    """Two small networks in place of the five and the baselines, and small probes."""
    monkeypatch.setattr(speed, "VARIANTS", TINY)
    monkeypatch.setattr(speed, "BASELINES", ())
    monkeypatch.setattr(speed_report, "TITLES", {row.name: row.title for row in TINY})
    for name, size in {"SIDE": 16, "COPIED": 1024, "ROWS": 32, "COLUMNS": 32}.items():
        monkeypatch.setattr(speed, name, size)
    monkeypatch.setattr(speed, "SLICE", (1, 1, 32, 32))


@pytest.mark.parametrize("row", [TINY[0], BASIC], ids=lambda row: row.name)
def test_all_backends_compute_the_same(row, tmp_path):
    torch.manual_seed(0)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        outputs = {backend: forward(image) for backend, forward in open_backends(row, tmp_path).items()}
    assert tuple(outputs) == BACKENDS
    for backend, output in outputs.items():
        tolerance = 0.1 if "bf16" in backend else 1e-4
        torch.testing.assert_close(output, outputs["eager"], rtol=tolerance, atol=tolerance)


def test_the_report_holds_every_network_and_backend(tiny, tmp_path):
    rows, machine = measure(rounds=3, volume_rounds=2, volume_slices=3)
    assert {(row["network"], row["backend"]) for row in rows} == {(r.name, b) for r in TINY for b in BACKENDS}
    assert all(row[key] > 0 for row in rows for key in ("slice_ms", "volume_ms", "slice_times_faster"))
    reference = next(row for row in rows if (row["network"], row["backend"]) == REFERENCE)
    assert reference["slice_times_faster"] == reference["volume_times_faster"] == 1
    assert machine.keys() == {"GFLOP/s", "GB/s"} and min(machine.values()) >= 0

    sections = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("machine", "slice", "volume"))
    (tmp_path / "speed.md").write_text(sections)
    write_speed(tmp_path, rows, machine, threads=1)
    page = (tmp_path / "speed.md").read_text()
    assert page.count("| tiny |") == 2 and "1 threads" in page
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    with (tmp_path / "speed.csv").open() as file:
        assert list(csv.DictReader(file)) == read_speed(tmp_path) and len(read_speed(tmp_path)) == len(rows)


def test_the_spread_is_between_the_quartiles():
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx(52 - 1.5)
    assert spread([5.0]) == 0
