"""Where a bundle folder lies, and its `inference.json` as it is written; without MONAI, which evaluates it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import PathLike

SOURCE = Path(__file__).parent


def find_bundle(bundle: PathLike) -> Path:
    """The folder of a bundle: the one that is named, or in a checkout that of this name in `bundles/`."""
    listed = SOURCE.parent / "bundles" / bundle
    return listed if not Path(bundle).exists() and listed.is_dir() else Path(bundle).resolve()


def read_config(bundle: PathLike, config: str = "inference") -> dict[str, Any]:
    """
    A config of a bundle, its expressions and references as they are written.

    Raises:
        InputError: when the folder is no bundle.
    """
    return json.loads(find_config(bundle, config).read_text())


def find_config(bundle: PathLike, config: str) -> Path:
    """
    Raises:
        InputError: when the folder is no bundle.
    """
    path = find_bundle(bundle) / f"configs/{config}.json"
    if not path.is_file():
        raise InputError(f"{bundle}: expected a bundle folder, found no configs/{config}.json in it.")
    return path


def check_weights(path: PathLike) -> None:
    """
    Raises:
        InputError: when there is no file of weights.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no weights here; train first, or download the bundle with its weights.")
