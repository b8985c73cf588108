"""Cut the network of a bundle into sub-models by UNet-PWP's Algorithm I, and print what each costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.bundle_folder import build_on_meta, read_slice_size
from common.compression.complexity import count_nonzero_parameters
from common.errors import InputError, report_input_errors
from common.networks import LiteUNet, load_weights
from common.partitioning.algorithms import MEASURES, RULES, describe_balance, format_table, partition, tabulate
from common.partitioning.layers import measure_layers
from common.partitioning.sub_models import prune_stages, split_network

EXAMPLE = (
    "example: python scripts/partition.py --bundle bundles/kits_unet_segmentation --rule balanced --max-partitions 4"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    parser.add_argument("--rule", choices=RULES, default="balanced")
    parser.add_argument("--max-partitions", type=int, default=4)
    parser.add_argument("--measure", choices=MEASURES, help="cost of a layer, flops with balanced, else parameters")
    parser.add_argument("--max-complexity", type=int, help="the most a sub-model may cost, with balanced")
    parser.add_argument("--prune", type=float, metavar="RATIO", help="Algorithm II: prune every sub-model's weights")
    parser.add_argument("--signed", action="store_true", help="prune with the signed comparison that the paper prints")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    if arguments.signed and arguments.prune is None:
        raise InputError("signed: expected together with --prune, found no --prune.")

    network = build_on_meta(arguments.bundle)
    input_shape = (1, network.arguments["in_channels"], *read_slice_size(arguments.bundle))
    layers = measure_layers(network, input_shape)
    measure = arguments.measure or RULES[arguments.rule]
    starts = partition(layers, arguments.rule, arguments.max_partitions, measure, arguments.max_complexity)
    more = []
    if arguments.prune is not None:
        weights = arguments.bundle / "models/model.pt"
        stages = split_network(load_weights(LiteUNet(**network.arguments), weights), starts)
        pruned = prune_stages(stages, arguments.prune, arguments.signed)
        more = [{"nonzero_parameters": count_nonzero_parameters(stage)} for stage in pruned]
    parts, balance = tabulate(layers, starts), describe_balance(layers, starts, measure)
    if arguments.json:
        rows = [asdict(part) | extra for part, extra in zip(parts, more or [{}] * len(parts))]
        about = {"bundle": arguments.bundle.name, "input_shape": input_shape, "rule": arguments.rule}
        print(json.dumps(about | {"measure": measure, "sub_models": rows, "balance": balance}, indent=1))
    else:
        print(f"{format_table(parts, more)}\n{balance}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
