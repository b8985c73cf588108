"""Prune and fine-tune a bundle by several amounts; Dice, size, FLOPs and latency go to a table and a plot."""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from common.bundles import open_bundle
from common.complexity import measure_complexity
from common.errors import report_input_errors
from common.files import replace_file
from common.zoo.pruned import Pruning, write_pruned_bundle

EXAMPLE = """example: python scripts/benchmark_pruning.py --bundle trained/kits_wp_unet_segmentation --method magnitude
  --amounts 0.5,0.8,0.9 --dataset_dir ../shared/kits19-slices --split_file docs/folds/fold_1.json --finetune-epochs 15
  --work pruned --output docs"""
ROUNDS = 15
INPUT_SHAPE = (1, 1, 256, 256)
DICE = ("kidney_dice", "tumor_dice")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", type=Path, required=True, help="trained bundle, the first point of the series")
    parser.add_argument("--method", required=True, help="as for prune.py")
    parser.add_argument("--amounts", required=True, help="such as 0.5,0.8,0.9")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="KiTS folder")
    parser.add_argument("--split_file", type=Path, required=True, help="cases to fine-tune on and to score")
    parser.add_argument("--finetune-epochs", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, help="of the fine-tuning; by default train.json's")
    parser.add_argument("--work", type=Path, required=True, help="folder of the pruned bundles; those there are kept")
    parser.add_argument("--output", type=Path, required=True, help="folder of pruning.csv and pruning.png")
    arguments = parser.parse_args(arguments)
    report_input_errors()

    series = f"{json.loads((arguments.bundle / 'configs/metadata.json').read_text())['name']}, {arguments.method}"
    bundles = {0.0: arguments.bundle}
    for amount in map(float, arguments.amounts.split(",")):
        bundles[amount] = arguments.work / f"{arguments.bundle.name}_{arguments.method}_{amount:g}"
        if not bundles[amount].exists():
            prune(arguments, amount, bundles[amount])
    latencies_ms = measure_latency({amount: open_network(bundle) for amount, bundle in bundles.items()})
    rows = []
    for amount, bundle in bundles.items():
        complexity = measure_complexity(open_network(bundle), INPUT_SHAPE)
        row = {
            "series": series,
            "amount": amount,
            "finetune_epochs": arguments.finetune_epochs if amount else 0,
            "parameters": complexity.parameters,
            "nonzero_parameters": complexity.nonzero_parameters,
            "flops": complexity.flops,
            "file_bytes": (bundle / "models/model.pt").stat().st_size,
            **measure_dice(bundle, arguments),
            "latency_ms": round(latencies_ms[amount], 2),
            "faster": round(latencies_ms[0.0] / latencies_ms[amount], 2),
        }
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    write_results(arguments.output, series, rows)
    return 0


def prune(arguments: argparse.Namespace, amount: float, output: Path) -> None:
    options = {"split_file": arguments.split_file.resolve(), "learning_rate": arguments.learning_rate}
    write_pruned_bundle(
        arguments.bundle,
        output,
        Pruning(arguments.method, amount),
        arguments.finetune_epochs,
        arguments.dataset_dir,
        {key: value for key, value in options.items() if value is not None},
    )


def open_network(bundle: Path) -> torch.nn.Module:
    return open_bundle(bundle).get_parsed_content("network").eval()


def measure_dice(bundle: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Dice pooled over the held-out slices on their own grid, by the bundle's own evaluation."""
    output = arguments.work.resolve() / "scores" / bundle.name
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", "['configs/train.json','configs/evaluate.json']", "--output_dir", str(output)]
    command += ["--dataset_dir", str(arguments.dataset_dir.resolve())]
    command += ["--split_file", str(arguments.split_file.resolve())]
    subprocess.run(command, cwd=bundle, check=True, stdout=subprocess.DEVNULL)
    pooled = json.loads((output / "summary.json").read_text())["pooled"]
    return {name: round(pooled[name], 4) for name in DICE}


def measure_latency(networks: dict[float, torch.nn.Module]) -> dict[float, float]:
    """Median milliseconds of one slice, eager and channels_last; the networks take turns: load hits all alike."""
    image = torch.rand(INPUT_SHAPE).to(memory_format=torch.channels_last)
    taken: dict[float, list[float]] = {amount: [] for amount in networks}
    with torch.inference_mode():
        for number in range(ROUNDS + 1):
            for amount, network in networks.items():
                start = time.perf_counter()
                network(image)
                if number:  # the first round warms up
                    taken[amount].append(1000 * (time.perf_counter() - start))
    return {amount: statistics.median(values) for amount, values in taken.items()}


def write_results(folder: Path, series: str, rows: list[dict]) -> None:
    """Put the rows of a series in the table in place of older ones, and draw the whole table."""
    path = folder / "pruning.csv"
    if path.is_file():
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row["series"] != series] + rows
    with replace_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    panels = {"flops": "GFLOP a slice", "file_bytes": "file of weights, MB", "latency_ms": "eager latency, ms"}
    scales = {"flops": 1e9, "file_bytes": 1e6, "latency_ms": 1}
    for ax, (key, label) in zip(axes, panels.items()):
        for name in dict.fromkeys(row["series"] for row in rows):
            points = sorted((float(r[key]) / scales[key], float(r["kidney_dice"])) for r in rows if r["series"] == name)
            ax.plot(*zip(*points), marker="o", label=name)
        ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("pooled Dice, kidney and tumour")
    axes[0].legend()
    with replace_file(folder / "pruning.png") as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
