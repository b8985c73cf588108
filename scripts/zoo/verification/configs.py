"""Checks of a bundle's configs: what they name exists, they run the weights that ship, and run anywhere."""

from __future__ import annotations

import functools
import pydoc
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver

from common.kits.phantom import write_phantom_dataset

from ..records import ELSEWHERE
from .bundle import INFERENCE, NOT_RECORDED, README, WEIGHTS, Bundle, NotChecked, compare, flatten, list_strings
from .documented_commands import find_command_problems

# `monai.bundle` in a process that cannot import this repository's package: a bundle brings its own code
ALONE = """
import runpy, sys

class Alone:
    def find_spec(self, name, *_):
        if name == {!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Alone())
runpy.run_module("monai.bundle", run_name="__main__")
"""
OUR_PACKAGE = "common"


def check_configs(bundle: Bundle) -> Iterator[str]:
    """The configs agree on `network_def`; every `_target_` and every `@reference` in them is there."""
    configs = bundle.list_configs()
    _ = bundle.network  # one that cannot be built is the network check's problem
    network_def = configs[INFERENCE]["network_def"]
    keys, locator = set().union(*configs.values()), bundle.open_config().locator
    for name, config in configs.items():
        if "network_def" in config:
            yield from compare(f"{name} network_def", network_def, config["network_def"])
        for target in sorted(set(_find_targets(config))):
            yield from (f"{name}: {problem}" for problem in _find_target_problem(bundle, target, locator))
        used = {reference for text in list_strings(config) for reference in ReferenceResolver.match_refs_pattern(text)}
        for reference in sorted({reference.partition("::")[0] for reference in used if reference} - keys):
            yield f"{name}: expected a config with the key {reference}, found none"


def _find_targets(config: Any) -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, (dict, list)):
            yield from _find_targets(value)
        elif key == "_target_" and isinstance(value, str) and not value.startswith(("$", "@")):
            yield value


def _find_target_problem(bundle: Bundle, target: str, locator: ComponentLocator) -> Iterator[str]:
    try:
        name = ConfigComponent({"_target_": target}, locator=locator).resolve_module_name()
        found = pydoc.locate(name)
    except Exception as error:  # of the bundle's own code, or of MONAI's search
        yield f"{target}: expected a class or function, found {flatten(error)}"
        return
    if found is None:
        yield f"{target}: expected a class or function, found none"
        return
    top = name.partition(".")[0]
    own = any((bundle.folder / file).exists() for file in (top, f"{top}.py"))
    pinned = bundle.read_pins().keys() & {package.lower() for package in _list_distributions().get(top, ())}
    if not (own or pinned or top in sys.stdlib_module_names):
        yield f"{target}: expected code of the bundle or of a package that it pins, found that of {top}"


_list_distributions = functools.cache(packages_distributions)  # reads every package's files


def check_loaded_weights(bundle: Bundle) -> Iterator[str]:
    """What `inference.json` runs is `network_def` with the weights that ship, or a `CheckpointLoader` loads them."""
    expected, parser = bundle.trained_network.state_dict(), bundle.open_config()
    if "network" not in parser:
        raise NotChecked(f"no network in {INFERENCE}", NOT_RECORDED)
    parser["device"] = "cpu"
    found = parser.get_parsed_content("network").state_dict()
    if found.keys() != expected.keys():
        yield f"{INFERENCE} network: expected the parameters of network_def, found others"
    elif not all(torch.equal(value, found[key]) for key, value in expected.items()):
        loaded = {Path(path).resolve() for path in _find_checkpoints(parser)}
        if loaded != {bundle.folder / WEIGHTS}:
            yield f"{INFERENCE} network: expected the weights of {WEIGHTS}, found others"


def _find_checkpoints(parser: ConfigParser) -> Iterator[str]:
    """What the `CheckpointLoader`s of a config load."""
    parser.parse()
    for key in list(parser.ref_resolver.items):
        config = parser[key]
        if isinstance(config, dict) and str(config.get("_target_")).endswith("CheckpointLoader"):
            yield str(parser.get_parsed_content(f"{key}#load_path" if key else "load_path"))


def check_commands(bundle: Bundle) -> Iterator[str]:
    """The commands of the README, and those that the metadata gives for its scores."""
    bundle.list_configs()
    yield from find_command_problems(README, bundle.readme, bundle.folder, bundle.repository)
    scores = bundle.metadata.get("scores") or {}
    if scores.get("protocol") and not (bundle.folder / scores["protocol"]).is_file():
        yield f"scores.protocol: {scores['protocol']}: expected a file, found none"
    if scores and not (bundle.repository / "scripts").is_dir():
        raise NotChecked("no scripts beside the folder of bundles for the commands of the scores")
    if scores:
        what, command = "scores.command", str(scores.get("command"))
        if not command.startswith((f"{ELSEWHERE}python scripts/", "kits-lite ")):
            yield f"{what}: expected {ELSEWHERE}python scripts/*.py, or kits-lite, found {command}"
        yield from find_command_problems(what, command.removeprefix(ELSEWHERE), bundle.folder, bundle.repository)


def check_run_elsewhere(bundle: Bundle) -> Iterator[str]:
    """`inference.json` segments a synthetic case alone, from a foreign working directory, where it leaves nothing."""
    bundle.find_weights()
    config = bundle.open_config()
    if "dataset_dir" not in config or "output_dir" not in config:
        raise NotChecked(f"no dataset_dir and output_dir in {INFERENCE}", NOT_RECORDED)
    with tempfile.TemporaryDirectory() as folder:
        data, output, elsewhere = (Path(folder).resolve() / name for name in ("data", "output", "elsewhere"))
        elsewhere.mkdir()
        write_phantom_dataset(data, 1, shape=(8, 32, 32), spacing_mm=(15.0, 12.0, 12.0))
        options = {
            "config_file": bundle.folder / INFERENCE,
            "bundle_root": bundle.folder,
            "dataset_dir": data,
            "output_dir": output,
        }
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        start = ["-m", "monai.bundle"] if (bundle.folder / OUR_PACKAGE).exists() else ["-c", ALONE.format(OUR_PACKAGE)]
        command = [sys.executable, "-W", "ignore", *start, "run", *words]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            yield f"run in another folder: expected exit code 0, found {done.returncode}: {last}"
            return
        yield from compare("files left in another folder", [], [path.name for path in elsewhere.iterdir()])
        if not list(output.rglob("*.nii*")):
            raise NotChecked("a run wrote no label map of a KiTS case; it may read data laid out otherwise")
