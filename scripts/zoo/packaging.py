"""Release files: a zip a bundle, checksums, MONAI's model_info.json and a catalog."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from common.files import hash_file
from common.networks.weights import read_weights

WEIGHTS, METADATA = "models/model.pt", "configs/metadata.json"
NETWORK = "models/model.onnx"  # not every bundle ships it
REQUIRED = ("LICENSE", METADATA, "configs/inference.json", "docs/README.md", WEIGHTS)
CATALOG, MODEL_INFO, SUMS = "catalog.json", "model_info.json", "SHA256SUMS"
MADE_BY = "kits-lite package.py"
# MONAI ends the name of a bundle at the first dot and at `_v`
NAME = r"(?:(?!_v)[A-Za-z0-9_])+"
VERSION = r"\d+\.\d+\.\d+"


class Content(NamedTuple):
    """What ships of a bundle: the folder's name, its metadata, and its files by their path inside."""

    name: str
    metadata: dict[str, Any]
    files: dict[str, Path]


def package_bundles(bundles: Sequence[Path], output: Path, base_url: str | None = None) -> list[dict[str, Any]]:
    """
    Write `<name>_v<version>.zip` a bundle, `model_info.json`, `catalog.json` and `SHA256SUMS`, all or nothing.

    Args:
        bundles: bundle folders with weights.
        output: new or empty folder, or one written by this function, which is replaced.
        base_url: of the folder that the zips will be downloaded from; the output folder itself by default.

    Returns:
        The cards in the catalog.

    Raises:
        InputError: when a bundle cannot ship, or the output folder holds anything else.
    """
    output = output.resolve()
    _refuse_foreign(output)
    contents = [read_content(bundle) for bundle in bundles]
    _refuse_other_code(contents)
    cards = [_make_card(content) for content in contents]
    if len({card["zip"] for card in cards}) < len(cards):
        raise InputError(f"bundles: expected every name and version once, found {[card['zip'] for card in cards]}.")
    base_url = (base_url or output.as_uri()).rstrip("/")
    with replace_folder(output) as folder:
        model_info = {}
        for content, card in zip(contents, cards):
            path = folder / card["zip"]
            _write_zip(path, content)
            card |= {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            model_info[path.stem] = {"checksum": hash_file(path, "sha1"), "source": f"{base_url}/{path.name}"}
        for name, value in ((MODEL_INFO, model_info), (CATALOG, {"made_by": MADE_BY, "bundles": cards})):
            (folder / name).write_text(json.dumps(value, indent=4) + "\n")
        sums = [f"{hash_file(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
        (folder / SUMS).write_text("".join(sums))
    return cards


def read_content(bundle: Path) -> Content:
    """
    Find what ships of a bundle folder: licence, configs, docs, weights and packages.

    What runs and people leave beside them stays: it may show patients.

    Raises:
        InputError: when the folder is no bundle, or its weights are missing, damaged or not those of its metadata.
    """
    bundle = bundle.resolve()
    if not re.fullmatch(NAME, bundle.name):
        raise InputError(f"{bundle}: expected a name of letters, digits and _, without _v, found {bundle.name!r}.")
    paths = [bundle / "LICENSE", bundle / "labels.csv", bundle / WEIGHTS, bundle / NETWORK]
    for folder in (bundle / "configs", bundle / "docs", *(path.parent for path in bundle.glob("*/__init__.py"))):
        paths += folder.rglob("*")
    files = {path.relative_to(bundle).as_posix(): path for path in sorted(paths) if path.is_file()}
    files = {name: path for name, path in files.items() if not re.search(r"(^|/)(\.|__pycache__/)", name)}
    require(files, f"{bundle}: expected a bundle with weights")
    metadata = read_metadata(files[METADATA].read_bytes(), files[METADATA])
    read_weights(files[WEIGHTS])
    compare_weights(metadata, files[WEIGHTS].stat().st_size, hash_file(files[WEIGHTS]), files[WEIGHTS])
    return Content(bundle.name, metadata, files)


def require(files: Mapping[str, object], expected: str) -> None:
    """Raise an `InputError` that begins with what was expected unless the files of a bundle are all there."""
    if missing := [file for file in REQUIRED if file not in files]:
        raise InputError(f"{expected}, found no {', '.join(missing)} in it.")


def read_metadata(content: bytes, file: object) -> dict[str, Any]:
    """The metadata in the bytes of a file; an `InputError` that names the file where it has no version."""
    try:
        metadata = json.loads(content)
        sound = re.fullmatch(VERSION, metadata["version"]) and isinstance(metadata.setdefault("weights", {}), dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise InputError(f"{file}: expected metadata in JSON with a version such as 0.1.0, found none.")
    return metadata


def compare_weights(metadata: Mapping[str, Any], size: int, sha256: str, file: object) -> None:
    """Raise an `InputError` unless a file of weights has the bytes and the sha256 of the metadata, if they are told."""
    for key, found in (("bytes", size), ("sha256", sha256)):
        expected = metadata["weights"].get(key, found)
        if expected != found:
            raise InputError(f"{file}: expected {key} {expected} as in {METADATA}, found {found}.")


def _refuse_other_code(contents: Sequence[Content]) -> None:
    """In one process the package that is imported first serves every bundle that names it."""
    seen = {}
    for content in contents:
        for package in {name.split("/")[0] for name in content.files if name.endswith("/__init__.py")}:
            files = {name: p.read_bytes() for name, p in content.files.items() if name.startswith(f"{package}/")}
            first, code = seen.setdefault(package, (content.name, files))
            if files != code:
                raise InputError(f"{content.name}: expected the {package} of {first}, found other code.")


def _make_card(content: Content) -> dict[str, Any]:
    metadata, file = content.metadata, content.files[METADATA]
    licence = ", ".join(line.strip() for line in content.files["LICENSE"].read_text().strip().splitlines()[:2])
    try:
        return {
            "name": content.name,
            "version": metadata["version"],
            "title": metadata["name"],
            "description": metadata["description"],
            "parameters": metadata["complexity"]["parameters"],
            "flops": metadata["complexity"]["flops"],
            "labels": metadata["network_data_format"]["outputs"]["pred"]["channel_def"],
            "license": {"code": licence, "weights": metadata["weights"].get("license")},
            "zip": f"{content.name}_v{metadata['version']}.zip",
            "scores": metadata.get("scores"),
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: expected what a catalog tells of a bundle, found no {error}.") from error


def _write_zip(path: Path, content: Content) -> None:
    # stored: the same bytes whatever zlib, and weights hardly shrink
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in content.files.items():
            entry = zipfile.ZipInfo(f"{content.name}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, source.read_bytes())


def _refuse_foreign(output: Path) -> None:
    try:
        catalog = json.loads((output / CATALOG).read_text())
        known = {CATALOG, MODEL_INFO, SUMS, *(card["zip"] for card in catalog["bundles"])}
        ours = catalog["made_by"] == MADE_BY and {path.name for path in output.iterdir()} <= known
    except (OSError, ValueError, KeyError, TypeError):
        ours = not output.exists() or output.is_dir() and not any(output.iterdir())
    if not ours:
        raise InputError(f"{output}: expected a new folder or what package.py wrote to it, found something else.")


@contextmanager
def replace_folder(output: Path) -> Iterator[Path]:
    """Give a new folder beside another to write to, and put it into the other's place once all is written."""
    part, old = (output.with_name(f".{os.getpid()}.{output.name}.{state}") for state in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        if output.exists():
            output.rename(old)
        part.rename(output)
    except OSError as error:
        raise InputError(f"{output}: expected to write it, found: {error.strerror or error}.") from error
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
