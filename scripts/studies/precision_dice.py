"""What bf16 and int8 cost: Dice of the weights that ship, on labelled cases, in PyTorch and in OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from common.app.segmenter import Segmenter
from common.kits.cases import find_cases
from common.kits.metrics import pooled_dice
from common.runtimes.packages import has_bf16
from common.runtimes.quantize import INT8, export_int8
from zoo.held_out import CLASSES, read_label_in_ras, tally_voxels
from zoo.pages import format_markdown_table
from zoo.rendering import BUNDLES
from zoo.variants import VARIANTS, Variant

from .tables import NOT_MEASURED

F32, BF16 = "f32", "bf16"
TITLES = {"kidney_and_tumor": "kidney + tumour", "tumor": "tumour"}


def measure_dice(bundle: Path, dataset_dir: Path) -> dict[str, dict[str, float]]:
    """
    Dice of a bundle's weights, pooled over all voxels of all cases.

    Args:
        bundle: folder with weights.
        dataset_dir: KiTS folder; its images calibrate the int8 network, its labels score all.

    Returns:
        `{"f32": {"kidney_and_tumor": Dice, "tumor": Dice}, "bf16": ..., "int8": ...}`: of PyTorch, and of OpenVINO
        twice; no bf16 where the CPU has none.

    Raises:
        InputError: when the bundle has no weights, or a case no label; see `export_int8` also.
    """
    cases = find_cases(dataset_dir, labelled=True)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_int8(bundle, dataset_dir, folder)
        segmenters = {F32: Segmenter(bundle, "cpu", backend="torch")}
        if has_bf16():
            segmenters[BF16] = Segmenter(bundle, backend="openvino", precision="bf16")
        segmenters[INT8] = Segmenter(bundle, exported=exported, precision=F32)
        return {name: pool_dice(segmenter, cases) for name, segmenter in segmenters.items()}


def pool_dice(segmenter: Segmenter, cases: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Dice of cases that are segmented now, all voxels taken together."""
    counts = [tally_voxels(segmenter.segment(case).prediction, read_label_in_ras(case)[0]) for case in cases]
    return dict(zip(CLASSES, pooled_dice(torch.cat(counts)).tolist()))


def tabulate_dice(dataset_dir: Path, bundles: Path = BUNDLES, variants: Sequence[Variant] = VARIANTS) -> str:
    """A row a bundle: Dice in float32, and its change in the others; - without weights, and without bf16."""
    rows = []
    for variant in variants:
        bundle, row = bundles / variant.name, {"network": variant.title}
        dice = measure_dice(bundle, dataset_dir) if (bundle / "models/model.pt").is_file() else {}
        for key, title in TITLES.items():
            row[f"{title}, {F32}"] = f"{dice[F32][key]:.4f}" if dice else NOT_MEASURED
            for name in (BF16, INT8):
                change = f"{dice[name][key] - dice[F32][key]:+.4f}" if name in dice else NOT_MEASURED
                row[f"{title}, {name}"] = change
        rows.append(row)
    return format_markdown_table(rows)
