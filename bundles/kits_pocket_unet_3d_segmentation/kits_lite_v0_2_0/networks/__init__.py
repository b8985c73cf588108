"""One network class, `LiteUNet`; five rows of arguments make the five bundles."""

from .initialization import initialize_as
from .layers import StdConv2d, fold_weight_standardization, standardize_weight
from .lite_unet import LiteUNet, check_size
from .norm_folding import fold_batch_norm, insert_batch_norm
from .weights import load_weights

__all__ = [
    "LiteUNet",
    "StdConv2d",
    "check_size",
    "fold_batch_norm",
    "fold_weight_standardization",
    "initialize_as",
    "insert_batch_norm",
    "load_weights",
    "standardize_weight",
]
