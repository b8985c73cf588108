"""The speed benchmark on small networks: what is timed computes the same, and the report says what was measured."""

from __future__ import annotations

import math

import pytest
import torch
from bundle_runs import load_script

from common.errors import InputError
from common.runtimes.packages import describe_cpu
from studies import precision_dice, speed, speed_report
from studies.speed import BACKENDS, BF16, REFERENCE, measure, open_backends, spread, take_turns
from studies.speed_report import write_speed
from zoo.pages import read_figure, read_table
from zoo.variants import VARIANTS, Variant

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
        tolerance = 0.1 if "bf16" in backend else 0.5 if "int8" in backend else 1e-4
        torch.testing.assert_close(output, outputs["eager"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bf16", [True, False])
def test_the_report_holds_every_network_and_backend(bf16, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "has_bf16", lambda: bf16)
    rows, machine = measure(rounds=3, volume_rounds=2, volume_slices=3)
    assert {(row["network"], row["backend"]) for row in rows} == {(r.name, b) for r in TINY for b in BACKENDS}
    assert all(row[key] > 0 for row in rows for key in ("slice_ms", "slice_times_faster"))
    assert all(row["volume_ms"] > 0 or (not bf16 and row["backend"] == BF16) for row in rows)
    reference = next(row for row in rows if (row["network"], row["backend"]) == REFERENCE)
    assert reference["slice_times_faster"] == reference["volume_times_faster"] == 1
    assert machine.keys() == {"GFLOP/s", "GB/s"}

    sections = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("machine", "slice", "volume"))
    (tmp_path / "speed.md").write_text(sections)
    write_speed(tmp_path, rows, machine, threads=1)
    page = (tmp_path / "speed.md").read_text()
    assert (
        page.count("| tiny |") == 2
        and page.count(" - |") == (0 if bf16 else len(TINY))
        and f"{describe_cpu()}, 1 threads" in page
    )
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    table = read_table(tmp_path / "speed.csv")
    assert len(table) == len(rows) and read_figure(tmp_path / "speed.png") == table


def test_times_become_ratios_and_the_machine_s_speed(tiny, monkeypatch):
    """A second for the reference, a quarter for all else; 2 x 2048^3 operations and 2 x 2^28 bytes in that quarter."""
    monkeypatch.setattr(
        speed,
        "take_turns",
        lambda forwards, call, rounds, warm=True: {
            key: [1000.0 if key == REFERENCE else 250.0] * rounds for key in forwards
        },
    )
    rows, machine = measure(rounds=3, volume_rounds=0, volume_slices=2)
    ratios = {(row["network"], row["backend"]): row["slice_times_faster"] for row in rows}
    assert all(ratio == (1 if key == REFERENCE else 4) for key, ratio in ratios.items())
    assert all(math.isnan(row["volume_times_faster"]) for row in rows)
    assert machine == {"GFLOP/s": round(2 * 2048**3 / 0.25 / 1e9, 1), "GB/s": round(2 * 2**28 / 0.25 / 1e9, 1)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rounds", "0"], "rounds: expected some, or --dataset-dir to measure Dice on, found 0 and none"),
        (["--output", "nowhere"], "nowhere/speed.md: expected the page that is written to, found none"),
    ],
)
def test_a_benchmark_that_could_write_nothing_does_not_start(words, told):
    with pytest.raises(InputError, match=told):
        load_script("benchmark").main(words)


def test_what_is_timed_comes_right_after_the_same():
    turns = []
    forwards = {name: lambda image, name=name: turns.append(name) for name in "ab"}
    taken = take_turns(forwards, lambda run: run(None), rounds=2)
    assert "".join(turns) == "aabb" * 2 and [len(times) for times in taken.values()] == [2, 2]
    turns.clear()
    take_turns(forwards, lambda run: run(None), rounds=2, warm=False)
    assert "".join(turns) == "abab"


@pytest.mark.parametrize("bf16_too", [True, False])
def test_the_table_of_dice_has_a_row_a_bundle_and_dashes_for_what_is_not_there(bf16_too, monkeypatch, tmp_path):
    weights = tmp_path / "bundles" / TINY[1].name / "models/model.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    f32, bf16, int8 = ({"kidney_and_tumor": dice, "tumor": dice - 0.1} for dice in (0.9, 0.8999, 0.9012))
    dice = {"f32": f32, "bf16": bf16, "int8": int8} if bf16_too else {"f32": f32, "int8": int8}
    monkeypatch.setattr(precision_dice, "measure_dice", lambda bundle, dataset_dir: dice)
    table = precision_dice.tabulate_dice(tmp_path, tmp_path / "bundles", TINY).splitlines()
    columns = [f"{kind}, {name}" for kind in ("kidney + tumour", "tumour") for name in ("f32", "bf16", "int8")]
    assert [cell.strip() for cell in table[0].split("|")[2:-1]] == columns
    assert table[2] == f"| {TINY[0].title} | - | - | - | - | - | - |"
    change = "-0.0001" if bf16_too else "-"
    assert table[3] == f"| tiny | 0.9000 | {change} | +0.0012 | 0.8000 | {change} | +0.0012 |"


def test_without_rounds_only_dice_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(precision_dice, "tabulate_dice", lambda dataset_dir: f"of {dataset_dir}")
    (tmp_path / "speed.md").write_text("<!-- dice -->\n<!-- /dice -->\n")
    words = ["--rounds", "0", "--dataset-dir", "kits", "--output", str(tmp_path)]
    assert load_script("benchmark").main(words) == 0
    assert (tmp_path / "speed.md").read_text() == "<!-- dice -->\nof kits\n<!-- /dice -->\n"
    assert [path.name for path in tmp_path.iterdir()] == ["speed.md"]


def test_dice_without_cases_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected case_"):
        precision_dice.measure_dice(tmp_path, tmp_path)


def test_the_spread_is_between_the_quartiles():
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx(52 - 1.5)
    assert math.isnan(spread([5.0])) and math.isnan(spread([]))
