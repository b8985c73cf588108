"""benchmark_partition.py: the model by arithmetic, the counts by a run of two processes, the page by writing it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from distributed_runs import start_distributed

from common.errors import InputError
from common.networks import LiteUNet
from common.partitioning.algorithms import partition
from common.partitioning.layers import Layer, measure_layers
from studies.partition import Setting
from studies.partition_model import (
    Link,
    Work,
    calibrate,
    count_pipeline_bytes,
    count_slices_bytes,
    predict_alone,
    predict_cases,
    predict_cohort,
    predict_pipeline,
    predict_slices,
)
from studies.partition_report import (
    COHORT,
    LINKS,
    MACHINES,
    compare,
    foretell,
    format_cohort,
    format_forecast,
    write_report,
)

DOCS = Path(__file__).resolve().parents[2] / "docs/studies"
PERFECT = Link(float("inf"), 0.0)


@pytest.fixture
def work() -> Work:
    """Four layers of 1 s a batch; the last reads the first, and 7 batches of 2 slices."""
    sources = [(), (0,), (1,), (0, 2)]
    layers = [Layer(f"layer{i}", 0, 1, 0, 100 * (i + 1), s) for i, s in enumerate(sources)]
    return Work(layers, [1.0] * 4, batch_size=2, batches=7)


@pytest.mark.parametrize(("parts", "micro_batches"), [(1, 3), (2, 1), (2, 7), (4, 7), (4, 20)])
def test_an_even_pipeline_with_a_perfect_link_takes_gpipes_time(parts, micro_batches, work):
    starts = list(range(0, 4, 4 // parts))
    whole, rest = divmod(work.batches, micro_batches)
    fills = [micro_batches] * whole + [rest] * (rest > 0)
    expected = sum((count + parts - 1) * 4 / parts for count in fills)
    assert predict_pipeline(work, starts, PERFECT, micro_batches) == pytest.approx(expected)


def test_a_link_holds_up_the_sub_model_that_waits_for_it(work):
    link = Link(bytes_per_s=1000.0, latency_s=0.5)
    # of 2 slices, 200 bytes from layer1 and 100 from layer0 come in one go; 7 x 800 bytes of logits go back
    received = 0.5 + 2 * (200 + 100) / 1000
    expected = 2 + 7 * (received + 2) + 0.5 + 7 * 800 / 1000
    assert predict_pipeline(work, [0, 2], link, 7) == pytest.approx(expected)
    assert count_pipeline_bytes(work, [0, 2]) == 7 * (600 + 800)
    assert count_pipeline_bytes(work, [0]) == 0


def test_the_slowest_sub_model_sets_the_pace(work):
    assert predict_pipeline(work, [0, 1], PERFECT, 7) == pytest.approx(1 + 7 * 3)


def test_shared_slices_pay_for_every_batch_that_is_away(work):
    link = Link(bytes_per_s=1000.0, latency_s=0.5)
    away = 0.5 + 200 / 1000 + 0.5 + 800 / 1000
    # 7 batches by 3 processes: 3, 3, 1
    assert predict_slices(work, 3, link) == pytest.approx(3 * 4 + 4 * away)
    assert count_slices_bytes(work, 3) == 4 * (200 + 800)
    assert predict_slices(work, 1, link) == predict_alone(work) == 28


def test_processes_share_the_cores(work):
    assert predict_cases(work, 4) == 7 and predict_cases(work, 4, cores=2) == 14
    assert predict_pipeline(work, [0, 1, 2, 3], PERFECT, 7, cores=2) == pytest.approx(2 * 10)
    assert predict_slices(work, 4, PERFECT, cores=2) == pytest.approx(2 * 4 + 1.5 * 4)


def test_layers_are_scaled_to_the_whole_network(work):
    calibrated = calibrate(work.layers, [1, 2, 3, 4], 2, 13, [60.0, 70.0, 80.0])
    assert calibrated.batches == 7 and calibrated.seconds == pytest.approx([1, 2, 3, 4])
    assert predict_alone(calibrated) == pytest.approx(70)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipeline", "slices"])
def test_ranks_count_the_bytes_that_the_model_counts(kind, copy_bundle, tmp_path):
    bundle = copy_bundle()
    path = bundle / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial_size": [32, 32]}))
    setting = {"bundle": str(bundle), "slices": 14, "micro_batches": 2, "repeats": 2}
    assert Setting(**setting).slices == 14
    from common.networks.weights import save_weights

    network = LiteUNet(channels=[16] * 5)
    save_weights(network, tmp_path / "model.pt")
    before = f"""
from studies.partition import measure_rank
measure_rank({kind!r}, {json.dumps(setting)!r}, {str(tmp_path)!r})
import os
os._exit(0)
"""
    codes, printed = start_distributed(tmp_path, 2, before).wait()
    assert codes == [0, 0], printed
    result = json.loads((tmp_path / "result.json").read_text())
    layers = measure_layers(network, (1, 1, 32, 32))
    # 14 slices are three and a half batches of 4
    work = Work(layers, [0.0] * len(layers), batch_size=2, batches=7)
    if kind == "pipeline":
        assert result["received_bytes"] == count_pipeline_bytes(work, partition(layers, max_partitions=2))
    else:
        # of two rounds of 8 slices, 4 and 2 are away
        assert result["received_bytes"] == 6 * (layers[0].activation_bytes + layers[-1].activation_bytes)
    assert len(result["peak_bytes"]) == 2 and min(result["peak_bytes"]) > 1e8 and len(result["seconds"]) == 2
    assert result["loopback_bytes"] > result["received_bytes"]


# ---- the page


@pytest.fixture
def measured() -> dict[tuple[str, int], dict]:
    one = {"seconds": [9.0, 10.0, 12.0], "peak_bytes": [5e8], "received_bytes": 0, "loopback_bytes": 10}
    two = {"seconds": [6.0, 5.0, 7.0], "peak_bytes": [5e8, 6e8], "received_bytes": 1000, "loopback_bytes": 1100}
    return {("cases", 1): one, ("pipeline", 2): two, ("slices", 2): two, ("cases", 2): two}


def test_the_page_the_table_and_the_picture_are_written_anew(work, measured, tmp_path):
    shutil.copy(DOCS / "partitioning.md", tmp_path)
    before = (tmp_path / "partitioning.md").read_text()
    rows, forecast = compare(work, PERFECT, 2, 4, measured), foretell(work)
    setting = {"bundle": "bundles/some", "slices": 14, "micro_batches": 4, "repeats": 3}
    write_report(tmp_path, rows, forecast, work, PERFECT, setting)
    page = (tmp_path / "partitioning.md").read_text()
    assert "| pipeline | 2 | 6.00 (5.00 to 7.00) | 1.67 |" in page and "0.50 0.60" in page
    assert "sharing whole cases in" in page
    assert strip_sections(page) == strip_sections(before)
    found = list(csv.DictReader((tmp_path / "partitioning.csv").open()))
    assert [row["kind"] for row in found] == ["cases", "pipeline", "slices", "cases"] and found[1]["seconds"] == "6.0"
    assert (tmp_path / "partitioning.png").stat().st_size > 10_000
    write_report(tmp_path, rows, forecast, work, PERFECT, setting)
    assert (tmp_path / "partitioning.md").read_text() == page


def strip_sections(page: str) -> str:
    return re.sub(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", r"\1\3", page, flags=re.DOTALL)


def test_without_the_page_it_says_so(work, measured, tmp_path):
    rows = compare(work, PERFECT, 2, 4, measured)
    with pytest.raises(InputError, match="partitioning.md: expected the page"):
        write_report(tmp_path, rows, foretell(work), work, PERFECT, {})
    assert not list(tmp_path.iterdir())


def test_more_machines_than_layers_have_no_pipeline(work):
    rows = {(r["computing"], r["link"], r["machines"]): r for r in foretell(work)}
    assert (
        rows["as fast as here", "1 Gbit/s", 4]["pipeline"]
        and rows["as fast as here", "1 Gbit/s", 8]["pipeline"] is None
    )
    assert format_forecast(list(rows.values())).count(" - ") >= 6 and MACHINES[-1] == 64


def test_the_committed_page_holds_the_committed_numbers():
    page = (DOCS / "partitioning.md").read_text()
    for row in csv.DictReader((DOCS / "partitioning.csv").open()):
        spread = [f"{float(row[key]):.2f}" for key in ("seconds", "fastest_s", "slowest_s")]
        assert f"| {row['processes']} | {spread[0]} ({spread[1]} to {spread[2]}) |" in page


def test_a_cohort_is_held_up_by_cores_or_by_the_storage():
    by_cores, by_storage = predict_cohort(10_000, 64, 8, 3.0, 57e6, LINKS["1 Gbit/s"])
    assert by_cores == 20 * 3.0 and by_storage == pytest.approx(10_000 * 57e6 / 125e6)
    assert predict_cohort(3, 1, 2, 5.0, 0, LINKS["1 Gbit/s"])[0] == 10.0  # the third waits for a core


def test_the_committed_page_holds_the_cohort_of_the_scan_that_was_measured():
    page = (DOCS / "partitioning.md").read_text()
    assert f"<!-- cohort -->\n{format_cohort()}\n<!-- /cohort -->" in page
    speed = (DOCS.parent / "how_to/speed.md").read_text()
    assert f"| `segment --precision f32` | {COHORT['core_s']} |" in speed
