"""Lightweight kidney-tumour segmentation networks for CT: networks, complexity and the KiTS data around them."""

__version__ = "0.1.0"
