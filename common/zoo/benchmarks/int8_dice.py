"""What int8 costs: Dice of the weights that ship, on labelled cases, in PyTorch and in int8."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...kits.cases import find_cases
from ...quantization import INT8, export_int8
from ...segmentation import Segmenter
from ..bundling import BUNDLES
from ..pages import format_markdown_table
from ..records import count_segmentations, pool_dice
from ..tables import NOT_MEASURED
from ..variants import VARIANTS, Variant

F32, CHANGE = "PyTorch f32", "change"
CLASSES = {"kidney_and_tumor": "kidney + tumour", "tumor": "tumour"}


def measure_dice(bundle: Path, dataset_dir: Path) -> dict[str, dict[str, float]]:
    """
    Dice of a bundle's weights, pooled over all voxels of all cases, see `pool_dice`.

    Args:
        bundle: folder with weights.
        dataset_dir: KiTS folder; its images calibrate the int8 network, its labels score both.

    Returns:
        `{"PyTorch f32": {"kidney_and_tumor": Dice, "tumor": Dice}, "int8": ..., "change": int8 less f32}`.

    Raises:
        InputError: when the bundle has no weights, or a case no label; see `export_int8` also.
    """
    cases = find_cases(dataset_dir, labelled=True)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_int8(bundle, dataset_dir, folder)
        segmenters = {
            F32: Segmenter(bundle, "cpu"),
            INT8: Segmenter(bundle, backend="openvino", exported=exported),
        }
        dice = {name: pool_dice(count_segmentations(segmenter, cases)) for name, segmenter in segmenters.items()}
    return dice | {CHANGE: {key: dice[INT8][key] - dice[F32][key] for key in CLASSES}}


def tabulate_dice(dataset_dir: Path, bundles: Path = BUNDLES, variants: Sequence[Variant] = VARIANTS) -> str:
    """A row a bundle, `measure_dice` of those that have weights."""
    rows = []
    for variant in variants:
        bundle, row = bundles / variant.name, {"network": variant.title}
        dice = measure_dice(bundle, dataset_dir) if (bundle / "models/model.pt").is_file() else {}
        for key, title in CLASSES.items():
            for name, sign in {F32: "", INT8: "", CHANGE: "+"}.items():
                row[f"{title}, {name}"] = f"{dice[name][key]:{sign}.4f}" if dice else NOT_MEASURED
        rows.append(row)
    return format_markdown_table(rows)
