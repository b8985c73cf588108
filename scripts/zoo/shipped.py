"""`models/model.onnx`: the network of a bundle's weights as the file that segments without PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common.bundle_path import find_bundle
from common.files import write_whole
from common.runtimes.export import export_bundle
from common.runtimes.plain import SHIPPED
from common.runtimes.scans import WEIGHTS

from .variants import VARIANTS

SMALL = tuple(row.name for row in VARIANTS[1:])  # the dense U-Net, 124 MB as ONNX, is exported where it is used


def write_shipped(bundle: str | Path) -> Path:
    """
    Write `models/model.onnx` of a bundle, made from its `models/model.pt`, in one piece.

    Raises:
        InputError: see `export_bundle`.
    """
    shipped = (find_bundle(bundle) / WEIGHTS).with_name(SHIPPED)
    with tempfile.TemporaryDirectory() as folder:
        content = export_bundle(bundle, "onnx", folder).read_bytes()
    with write_whole(shipped) as temporary:
        temporary.write_bytes(content)
    return shipped
