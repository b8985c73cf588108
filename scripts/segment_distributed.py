"""Segment kidneys and kidney tumours in CT by several processes; start it with torchrun."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from common.app.distributed import MODES, Plan, segment_apart
from common.errors import report_input_errors, report_warnings
from common.partitioning.algorithms import MEASURES, RULES
from common.partitioning.processes import join_processes

EXAMPLE = "example: torchrun --nproc_per_node=2 scripts/segment_distributed.py --bundle B --input scans --output out"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--bundle", required=True, help="bundle folder with weights")
    parser.add_argument("--input", required=True, help="image, folder of images, KiTS folder or DICOM series folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for <case>.nii.gz")
    parser.add_argument(
        "--mode", choices=MODES, default="pipeline", help="a sub-model, or a share of the cases, a rank"
    )
    parser.add_argument("--rule", choices=RULES, default="balanced", help="how the pipeline's network is cut")
    parser.add_argument("--measure", choices=MEASURES, help="cost of a layer, flops with balanced, else parameters")
    parser.add_argument("--max-partitions", type=int, help="sub-models, by default as many as processes")
    parser.add_argument("--micro-batches", type=int, default=4, help="batches in the pipeline at once")
    parser.add_argument("--batch-size", type=int, help="slices in the pipeline at once")
    parser.add_argument("--keep-largest", type=int, metavar="N", help="keep the N largest components of the foreground")
    parser.add_argument("--series", help="UID of the DICOM series, where the folder holds several")
    arguments = parser.parse_args(arguments)
    report_input_errors()
    report_warnings()

    plan = Plan(**{name: getattr(arguments, name) for name in Plan.__dataclass_fields__})
    options = {"keep_largest": arguments.keep_largest, "series": arguments.series}
    with join_processes(arguments.output) as (rank, _):
        progress = iter if rank else lambda cases: tqdm(cases, unit="case", disable=None)
        count, problems = segment_apart(arguments.bundle, arguments.input, arguments.output, plan, progress, **options)
    if rank == 0:
        print(f"{count - len(problems)} of {count} cases segmented to {arguments.output}")
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
    return 1 if problems and rank == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
