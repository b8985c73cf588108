"""
Lightweight kidney-tumour segmentation networks for CT: `Segmenter`, `load` and `LiteUNet`.

Example:
    >>> from common import Segmenter
    >>> segmentation = Segmenter("bundles/kits_pocket_unet_segmentation")("scan.nii.gz")
    >>> segmentation.save("mask.nii.gz")
    >>> sorted(segmentation.volumes_ml)
    ['kidney', 'tumor']
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.2.0"
__all__ = ["LiteUNet", "Segmenter", "load"]

_HOMES = {"LiteUNet": ".networks.lite_unet", "Segmenter": ".app.segmenter", "load": ".app.segmenter"}


def __getattr__(name: str) -> object:
    # at first use: importing torch and MONAI takes seconds that `--help` need not wait
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
