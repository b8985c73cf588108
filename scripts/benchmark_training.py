"""Time training steps and the views that are drawn and augmented for them; on a GPU also with configs/gpu.json."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from common.bundle_folder import open_bundle
from common.errors import report_input_errors
from studies.protocol import BATCH_SIZE, HOLD_OUT, find_split, find_variant, write_untrained
from zoo.variants import ROWS

EXAMPLE = "example: python scripts/benchmark_training.py --network kits_pocket_unet_segmentation --dataset-dir D1 D2 D3"
WARM_UP = 3


def main(arguments: Sequence[str] | None = None) -> int:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--network", required=True, nargs="+", choices=names, metavar="NETWORK")
    parser.add_argument("--dataset-dir", type=Path, nargs="+", required=True, help="KiTS folders")
    parser.add_argument("--cache-dir", type=Path, help="of prepared slices; by default one that is removed again")
    parser.add_argument("--batches", type=int, default=20, help="that are timed")
    parser.add_argument("--bfloat16", action="store_true", help="autocast on a CPU")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    device = ["gpu"] if torch.cuda.is_available() else ["bfloat16"] if arguments.bfloat16 else []
    for name in arguments.network:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / name
            write_untrained(find_variant(name), bundle)
            for overlays in ([], device) if device else ([],):
                config = open_bundle(bundle, "train")
                config["dataset_dir"] = [str(path.resolve()) for path in arguments.dataset_dir]
                config["split_file"], config["output_dir"] = str(find_split(HOLD_OUT)), str(bundle / "eval")
                config["cache_dir"] = str(arguments.cache_dir or bundle / "cache")
                config["batch_size"] = BATCH_SIZE
                for overlay in overlays:
                    for key, value in json.loads((bundle / f"configs/{overlay}.json").read_text()).items():
                        config[key] = value
                row = time_batches(config, arguments.batches)
                print(f"{' + '.join([name, *overlays])}: {json.dumps(row)}", flush=True)
    return 0


def time_batches(config: ConfigParser, count: int) -> dict[str, float]:
    """
    Time what a training does with a batch.

    Args:
        config: a bundle's `train.json`, with overlays.
        count: batches.

    Returns:
        ms a view of "draw", of "augment" and of the "network" (forward, loss, backward, optimizer), the network's share
        of their sum, and views a second.
    """
    trainer, views, augment = (
        config.get_parsed_content(f"train#{key}") for key in ("trainer", "dataset", "augmentation")
    )
    device = config.get_parsed_content("device")

    def measure(part: Callable[[dict], object], batches: Sequence[dict]) -> float:
        start = time.perf_counter()
        for batch in batches:
            part(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1000 / sum(len(batch["image"]) for batch in batches)

    def train(batch: dict) -> object:
        return trainer._process_function(trainer, batch)

    start = time.perf_counter()
    batches = [views[number % len(views)] for number in range(count)]
    draw = (time.perf_counter() - start) * 1000 / sum(len(batch["image"]) for batch in batches)
    # one batch of every size of window is enough to warm up, and to record a step
    warm = list({batch["image"].shape: batch for batch in batches}.values())
    measure(train, warm * WARM_UP)
    augment_ms = measure(lambda batch: augment(batch, device), batches)
    network = measure(train, batches) - augment_ms
    whole = draw + augment_ms + network
    row = {"draw": draw, "augment": augment_ms, "network": network, "network_share": network / whole}
    return {key: round(value, 4) for key, value in (row | {"views_per_s": 1000 / whole}).items()}


if __name__ == "__main__":
    sys.exit(main())
