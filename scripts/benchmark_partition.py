"""Time, memory and traffic of a network run apart: measured on this machine, modelled, foretold for more machines."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.bundle_folder import build_on_meta, open_bundle, read_slice_size
from common.errors import report_input_errors
from common.partitioning.layers import measure_layers
from studies.partition import LARGE, SMALL, Setting, run_processes
from studies.partition_model import Link, calibrate
from studies.partition_report import (
    KINDS,
    compare,
    foretell,
    format_forecast,
    format_measured,
    write_report,
)

EXAMPLE = "example: python scripts/benchmark_partition.py --bundle bundles/kits_unet_segmentation --output docs/studies"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", default="bundles/kits_unet_segmentation", help="whose network, with any weights")
    parser.add_argument("--output", type=Path, help="folder whose partitioning.md, .csv and .png are written anew")
    parser.add_argument("--processes", type=int, nargs="+", default=(2, 4), help="besides one")
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--micro-batches", type=int, default=4, help="batches in the pipeline at once")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    report_input_errors()

    setting = Setting(arguments.bundle, arguments.slices, arguments.micro_batches, arguments.repeats)
    network, config = build_on_meta(setting.bundle), open_bundle(setting.bundle)
    layers = measure_layers(network, (1, network.arguments["in_channels"], *read_slice_size(setting.bundle)))
    points = [("cases", 1)] + [(kind, processes) for kind in KINDS for processes in arguments.processes]
    with tempfile.TemporaryDirectory() as name:
        layer_seconds = run_processes("layers", 1, setting, Path(name))["seconds"]
        small, large = run_processes("link", 2, setting, Path(name))["seconds"]
        measured = {point: run_processes(*point, setting, Path(name)) for point in points}
    link = Link(bytes_per_s=4 * (LARGE - SMALL) / (large - small), latency_s=small)
    work = calibrate(layers, layer_seconds, config["batch_size"], setting.slices, measured["cases", 1]["seconds"])
    rows, forecast = compare(work, link, os.cpu_count(), setting.micro_batches, measured), foretell(work)
    print(f"{format_measured(rows, work, link, asdict(setting))}\n\n{format_forecast(forecast)}")
    if arguments.output:
        write_report(arguments.output, rows, forecast, work, link, asdict(setting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
