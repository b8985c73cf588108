"""A bundle folder, read outside of `monai.bundle run`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.config import PathLike
from torch import nn

from .errors import InputError


def open_bundle(bundle: PathLike, config: str = "inference") -> ConfigParser:
    """
    Parse `inference.json`, or another config, of a bundle folder, whose own package becomes importable.

    Raises:
        InputError: when the folder is no bundle, or its path is none that MONAI can take.
    """
    folder = Path(bundle).resolve()
    config_file = folder / f"configs/{config}.json"
    if not config_file.is_file():
        raise InputError(f"{bundle}: expected a bundle folder, found no configs/{config}.json in it.")
    if str(folder) not in sys.path:
        sys.path.insert(1, str(folder))  # where the `_target_`s of its configs are
    if "#" in str(folder) or "::" in str(folder):
        raise InputError(f"{folder}: expected a path without # or ::, which MONAI's configs read as a way into them.")
    parser = ConfigParser()
    parser.read_config(config_file)
    parser["bundle_root"] = str(folder)
    return parser


def build_on_meta(bundle: PathLike) -> nn.Module:
    """
    The network of a bundle as its inference sets it up, on the meta device: shapes and strides, no memory, no weights.

    Raises:
        InputError: when the folder is no bundle.
    """
    parser = open_bundle(bundle)
    parser["weights"] = None
    parser["device"] = "meta"
    with torch.device("meta"):
        return parser.get_parsed_content("network").eval()
