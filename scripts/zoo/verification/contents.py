"""Checks of what stands in a bundle's files: its layout, metadata, pins, changelog, README and paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for

from common.app.card import NO_WEIGHTS
from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters

from ..held_out import CLASSES
from .bundle import DATA_LICENSE, FILES, METADATA, NOT_RECORDED, README, Bundle, NotChecked, compare, list_strings

REQUIREMENTS = "docs/requirements.txt"
TEXT_SUFFIXES = (".json", ".yaml", ".yml", ".conf", ".cfg", ".toml", ".md", ".txt", ".py", ".j2", ".sh", "")
ABSOLUTE_PATH = re.compile(
    r"""(?:^|["'`\s=(:,\[])((?:/(?:home|root|Users|Volumes|mnt|media|data|scratch|tmp|work|workspace|opt|srv|var)/"""
    r"""|[A-Z]:\\)[^\s"'`]*)""",
    re.MULTILINE,
)
# a count with its commas, and a Dice to three digits
NUMBER = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|[01]\.\d{3})(?![\d,])")
# what is recomputed, or says of what and how
KNOWN_KEYS = {
    ("complexity",): {"convention", "input_shape", "parameters", "flops", "nonzero_parameters", "sparsity"}
    | {"original", "pruning"},
    ("weights",): {"file", "bytes", "sha256", "license", "trained_on"},
    ("scores",): {"data", "metric", "protocol", "split_file", "command", "patients", "without_kidney", "scan"},
    ("scores", "patients"): {"patients", "pooled", "per_patient", "with_tumor", "tumor_found", "false_tumors"},
    ("scores", "without_kidney"): {"slices", "wrong_slices", "mean_ml"},
    ("scores", "scan"): {"case", "slices", *CLASSES, "invented_ml", "all_pieces"},
    ("scores", "scan", "all_pieces"): {*CLASSES, "invented_ml"},
}


def check_files(bundle: Bundle) -> Iterator[str]:
    """The files that every bundle has are there and not empty, and its configs are JSON objects."""
    readme = bundle.folder / README
    has_none = readme.is_file() and NO_WEIGHTS in readme.read_text(errors="replace")
    for name in FILES[: -1 if has_none else None]:  # the last are the weights
        path = bundle.folder / name
        if not path.is_file():
            yield f"{name}: expected a file, found none"
        elif not path.stat().st_size:
            yield f"{name}: expected content, found none"
    for path in sorted(bundle.folder.glob("configs/*.json")):
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            yield f"configs/{path.name}: expected JSON, found {error}"
        else:
            yield from compare(f"configs/{path.name}", "dict", type(content).__name__)


def check_schema(bundle: Bundle) -> Iterator[str]:
    """Against the copy beside this file of the schema that the metadata names."""
    name = str(bundle.metadata.get("schema")).rpartition("/")[2]
    copy = Path(__file__).parent / name
    if not (name.startswith("meta_schema_") and copy.is_file()):
        raise NotChecked(f"no copy of the schema {name}")
    schema = json.loads(copy.read_text())
    errors = [best_match([error]) for error in validator_for(schema)(schema).iter_errors(bundle.metadata)]
    # one wrong value breaks every rule around it
    for path, message in dict.fromkeys((error.json_path, error.message) for error in errors):
        yield f"{METADATA} {path}: expected what {name} demands, found {message}"


def check_keys(bundle: Bundle) -> Iterator[str]:
    """Whatever the metadata says of complexity, weights and scores is recomputed by a check."""
    recorded = [(keys, block) for keys in KNOWN_KEYS if (block := _find_block(bundle.metadata, keys))]
    if not recorded:
        raise NotChecked(f"no complexity, weights or scores in {METADATA}", NOT_RECORDED)
    for keys, block in recorded:
        for key in sorted(block.keys() - KNOWN_KEYS[keys]):
            yield f"{METADATA} {'.'.join(keys)}: expected no key that nobody recomputes, found {key}"


def check_versions(bundle: Bundle) -> Iterator[str]:
    """The packages that the metadata pins are installed in that version, and its requirements.txt pins the same."""
    pins, optional = bundle.read_pins(), bundle.metadata.get("optional_packages_version", {})
    for package, pin in (pins | optional).items():
        try:
            yield from compare(package, pin, version(package).split("+")[0])
        except PackageNotFoundError:
            if package in pins:
                yield f"{package}: expected {pin}, found none installed"
    requirements = bundle.folder / REQUIREMENTS
    if requirements.is_file():
        required = dict(line.split("==") for line in requirements.read_text().split() if "==" in line)
        for package in pins.keys() | required.keys():
            yield from compare(f"{REQUIREMENTS} {package}", pins.get(package), required.get(package))


def check_changelog(bundle: Bundle) -> Iterator[str]:
    """The changelog tells of this version."""
    if not {"version", "changelog"} <= bundle.metadata.keys():
        raise NotChecked(f"no version or changelog in {METADATA}")
    if bundle.metadata["version"] not in bundle.metadata["changelog"]:
        yield f"changelog: expected {bundle.metadata['version']}, found {', '.join(bundle.metadata['changelog'])}"


def check_card(bundle: Bundle) -> Iterator[str]:
    """The README has the numbers of the network and of its scores, and no others; licences are told alike."""
    complexity, weights = bundle.find_recorded("complexity"), bundle.metadata.get("weights") or {}
    network, readme = bundle.network, bundle.readme
    told = {f"{count_parameters(network):,}", f"{count_flops(network, complexity['input_shape']):,}"}
    if weights:
        told.add(f"{count_nonzero_parameters(bundle.trained_network):,}")
    places = ("patients", "pooled"), ("scan",), ("scan", "all_pieces")
    dice = [_find_block(bundle.metadata, ("scores", *keys)) for keys in places]
    told |= {f"{block[name]:.3f}" for block in dice for name in CLASSES & block.keys()}
    blocks = (complexity, complexity.get("original", {}))
    known = {f"{value:,}" for block in blocks for value in block.values() if isinstance(value, int)}
    known |= set(NUMBER.findall(str(weights.get("trained_on"))))
    found = set(NUMBER.findall(readme))
    missing, foreign = sorted(told - found), sorted(found - told - known)
    if missing or foreign:
        yield f"{README}: expected {', '.join(missing) or 'no other number'}, found {', '.join(foreign) or 'none'}"
    if not weights:
        return
    if str(weights.get("trained_on")) not in readme:
        yield f"{README}: expected that the weights are trained on {weights.get('trained_on')}, found it nowhere"
    license_file = bundle.folder / DATA_LICENSE
    texts = {README: readme, DATA_LICENSE: license_file.read_text() if license_file.is_file() else readme}
    silent = [name for name, text in texts.items() if str(weights.get("license")) not in text]
    if silent:
        yield f"weights.license: expected what {' and '.join(silent)} says, found {weights.get('license')}"


def check_paths(bundle: Bundle) -> Iterator[str]:
    """No text of the bundle names a path of somebody's machine; what runs left in eval/ is no text of the bundle."""
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder)
        if path.is_file() and path.suffix in TEXT_SUFFIXES and name.parts[0] not in ("eval", "models"):
            for found in ABSOLUTE_PATH.findall(path.read_text(errors="replace")):
                yield f"{name}: expected no absolute path, found {found}"
    for name, config in bundle.list_configs().items():
        for value in list_strings(config):
            absolute = len(value) > 1 and any(kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath))
            if (absolute or value.startswith(("~", "file:"))) and not ABSOLUTE_PATH.match(value):
                yield f"{name}: expected no absolute path, found {value}"


def _find_block(metadata: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        metadata = metadata.get(key) or {} if isinstance(metadata, dict) else {}
    return metadata if isinstance(metadata, dict) else {}
