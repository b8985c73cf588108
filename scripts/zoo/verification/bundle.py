"""A bundle folder, anyone's, as its verification reads it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.bundle import ConfigParser
from monai.config import PathLike
from torch import nn

from common.bundle_folder import Alias, open_bundle
from common.errors import InputError
from common.kits.cases import find_cases
from common.networks import load_weights

from ..rendering import VERSION_KEYS

README, METADATA, WEIGHTS = "docs/README.md", "configs/metadata.json", "models/model.pt"
INFERENCE, DATA_LICENSE = "configs/inference.json", "docs/data_license.txt"
FILES = ("LICENSE", METADATA, INFERENCE, README, DATA_LICENSE, WEIGHTS)
NOT_RECOMPUTED, NOT_RECORDED = "not recomputed", "not recorded"


class NotChecked(Exception):
    """
    Nothing was checked, or not from the ground up: the status that this gives, and the reason.

    `NOT_RECORDED`: there is nothing to check.
    """

    def __init__(self, reason: str, status: str = NOT_RECOMPUTED) -> None:
        super().__init__(status, reason)


class Bundle:
    """
    A bundle folder, each part read when it is asked for.

    A part that is missing or broken raises `NotChecked`: the check of that part tells why, the others need not.

    Args:
        dataset_dir: KiTS folder, or a list of them, for the scores.
    """

    def __init__(self, folder: PathLike, dataset_dir: PathLike | Sequence[PathLike] | None = None) -> None:
        self.folder, self.dataset_dir = Path(folder).resolve(), dataset_dir
        self.repository = self.folder.parent.parent

    @cached_property
    def metadata(self) -> dict[str, Any]:
        try:
            metadata = json.loads((self.folder / METADATA).read_text())
        except (OSError, ValueError):
            metadata = None
        if not isinstance(metadata, dict):
            raise NotChecked(f"no readable {METADATA}")
        return metadata

    @cached_property
    def readme(self) -> str:
        try:
            return (self.folder / README).read_text()
        except (OSError, ValueError) as error:
            raise NotChecked(f"no readable {README}") from error

    def read_pins(self) -> dict[str, str]:
        """The version of every package that the metadata pins."""
        pins = {package: self.metadata[key] for key, package in VERSION_KEYS.items() if key in self.metadata}
        return pins | self.metadata.get("required_packages_version", {})

    def find_recorded(self, *keys: str) -> Any:
        """A block of the metadata that a bundle may do without."""
        block = self.metadata
        for key in keys:
            block = block.get(key) or {}
        if not block:
            raise NotChecked(f"no {'.'.join(keys)} in {METADATA}", NOT_RECORDED)
        return block

    def describe_io(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the metadata says of the input "image" and the output "pred", or of the only ones under other names."""
        data_format = self.find_recorded("network_data_format")
        described = []
        for side, name in (("inputs", "image"), ("outputs", "pred")):
            tensors = data_format.get(side) or {}
            if name not in tensors and len(tensors) != 1:
                raise NotChecked(f"no {name} in network_data_format.{side} of {METADATA}")
            described.append(tensors.get(name) or next(iter(tensors.values())))
        return described[0], described[1]

    def open_config(self) -> ConfigParser:
        """`inference.json`, see `open_bundle`."""
        try:
            return open_bundle(self.folder)
        except ValueError as error:
            raise NotChecked(f"no readable {INFERENCE}") from error

    def list_configs(self) -> dict[str, dict[str, Any]]:
        """Content of every config but the metadata, by its path in the folder."""
        configs = {}
        for path in sorted(self.folder.glob("configs/*.json")):
            name = f"configs/{path.name}"
            try:
                configs |= {name: json.loads(path.read_text())} if name != METADATA else {}
            except ValueError as error:
                raise NotChecked(f"no readable {name}") from error
        return configs

    def build_network(self, **changes: Any) -> nn.Module:
        """`network_def` of `inference.json`, some of its arguments changed, untrained, on the CPU."""
        parser = self.open_config()
        parser["device"] = "cpu"
        for key, value in changes.items():
            parser[f"network_def#{key}"] = value
        return parser.get_parsed_content("network_def").eval()

    @cached_property
    def network(self) -> nn.Module:
        try:
            return self.build_network()
        except NotChecked:
            raise
        except Exception as error:
            raise NotChecked("network_def cannot be built") from error

    def find_weights(self) -> Path:
        path = self.folder / WEIGHTS
        if not path.is_file():
            raise NotChecked(f"no {WEIGHTS}")
        return path

    @cached_property
    def trained_network(self) -> nn.Module:
        try:
            return load_weights(self.network, self.find_weights())
        except InputError as error:
            raise NotChecked(f"{WEIGHTS} does not fit network_def") from error

    @cached_property
    def channels(self) -> dict[int, str]:
        """The name of every channel of the output, from `channel_def`."""
        channels = self.describe_io()[1].get("channel_def")
        if not channels:
            raise NotChecked(f"no channel_def in {METADATA}", NOT_RECORDED)
        return {int(channel): normalize(name) for channel, name in channels.items()}

    @cached_property
    def cases(self) -> list[dict[str, str]]:
        if self.dataset_dir is None:
            raise NotChecked("no data")
        return find_cases(self.dataset_dir, labelled=True)

    @contextmanager
    def own_code(self) -> Iterator[None]:
        """Import the folder's own code, not a same-named package of another bundle, and forget it afterwards."""
        names = {path.stem for path in self.folder.iterdir()}

        def pop() -> dict[str, ModuleType]:
            return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}

        others, path, finders = pop(), list(sys.path), list(sys.meta_path)
        sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, Alias)]
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:], sys.meta_path[:] = path, finders
            pop()
            sys.modules.update(others)


def normalize(name: str) -> str:
    """A label's name as it is compared: lower case, American spelling."""
    return name.lower().replace("tumour", "tumor")


def list_strings(config: Any) -> Iterator[str]:
    """Every text value of a config."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list)):
        for part in config.values() if isinstance(config, dict) else config:
            yield from list_strings(part)


def compare(what: str, expected: object, found: object) -> Iterator[str]:
    """Yield the problem that what was found is not what is recorded, if so."""
    if expected != found:
        yield f"{what}: expected {expected}, found {found}"


def flatten(error: Exception) -> str:
    """An error on one line of some length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
