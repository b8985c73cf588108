"""A bundle folder, read outside of `monai.bundle run`."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import torch
from monai.bundle import ConfigParser
from torch import nn

from . import __version__
from .bundle_path import SOURCE, find_bundle, find_config
from .errors import InputError
from .files import PathLike

# the name that the copy of this package has in a bundle: bundles of two versions must not share one
PACKAGE = f"kits_lite_v{__version__.replace('.', '_')}"


def open_bundle(bundle: PathLike, config: str = "inference") -> ConfigParser:
    """
    Parse `inference.json`, or another config, of a bundle folder, whose own package becomes importable.

    Where its copy of the package is this package, byte for byte, the copy's name stands for this package: there is one
    `LiteUNet` and one `InputError`. In a checkout that holds for `bundles/` even while the copies wait to be rendered,
    so an edit acts at once.

    Raises:
        InputError: when the folder is no bundle, or its path is none that MONAI can take.

    Example:
        >>> open_bundle("bundles/kits_unet_pwp_segmentation")["network_def"]["channels"]
        [16, 32, 64, 128, 256]
    """
    folder = find_bundle(bundle)
    config_file = find_config(bundle, config)
    if str(folder) not in sys.path:
        sys.path.insert(1, str(folder))  # where the `_target_`s of its configs are
    if __package__ != PACKAGE and PACKAGE not in sys.modules and _holds_this_package(folder):
        sys.meta_path.insert(0, Alias())
    if "#" in str(folder) or "::" in str(folder):
        raise InputError(f"{folder}: expected a path without # or ::, which MONAI's configs read as a way into them.")
    parser = ConfigParser()
    try:
        parser.read_config(config_file)
        parser["bundle_root"] = str(folder)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OSError) as error:
        found = " ".join(str(error).split())
        raise InputError(f"{config_file}: expected a config in JSON, found none ({found}).") from error
    return parser


def _holds_this_package(folder: Path) -> bool:
    if folder.parent == SOURCE.parent / "bundles":
        return True
    files, copied = (_list_files(place) for place in (SOURCE, folder / PACKAGE))
    same = ((SOURCE / name).read_bytes() == (folder / PACKAGE / name).read_bytes() for name in files)
    return files == copied and all(same)


def _list_files(folder: Path) -> set[Path]:
    """The files of a package, as paths in its folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder) for path in paths}


class Alias(MetaPathFinder, Loader):
    """Finds the modules of this package under the name that it has in a bundle."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        first, dot, rest = fullname.partition(".")
        is_there = first == PACKAGE and find_spec(__package__ + dot + rest)
        return spec_from_loader(fullname, self) if is_there else None

    def exec_module(self, module: ModuleType) -> None:
        # what stands here afterwards is what the import gives
        sys.modules[module.__name__] = importlib.import_module(__package__ + module.__name__[len(PACKAGE) :])


def read_slice_size(bundle: PathLike) -> tuple[int, ...]:
    """
    Height and width of a typical slice as the network of a bundle sees it, what costs are counted for; of a 3-D network
    height, width and slices of a patch.

    Raises:
        InputError: when the folder is no bundle.
    """
    config = open_bundle(bundle)
    size = config.get("patch_size") or config.get("spatial_size")
    if size is None:
        metadata = json.loads((find_bundle(bundle) / "configs/metadata.json").read_text())
        size = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return tuple(size)


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
