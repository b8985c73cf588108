"""Release files: a zip a bundle, checksums, MONAI's model_info.json and a catalog; and the check of such a zip."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import hash_file
from ..networks.weights import read_weights

WEIGHTS, METADATA = "models/model.pt", "configs/metadata.json"
REQUIRED = ("LICENSE", METADATA, "configs/inference.json", "docs/README.md", WEIGHTS)
CATALOG, MODEL_INFO, SUMS = "catalog.json", "model_info.json", "SHA256SUMS"
MADE_BY = "kits-lite package.py"
# MONAI ends the name of a bundle at the first dot and at `_v`
NAME = r"(?:(?!_v)[A-Za-z0-9_])+"
VERSION = r"\d+\.\d+\.\d+"
MAX_BYTES, MAX_FILES = 2**30, 1000  # that a zip may unpack to; 8 times the largest bundle here
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, UnicodeDecodeError, NotImplementedError)


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
    with _replace_folder(output) as folder:
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
    paths = [bundle / "LICENSE", bundle / WEIGHTS]
    for folder in (bundle / "configs", bundle / "docs", *(path.parent for path in bundle.glob("*/__init__.py"))):
        paths += folder.rglob("*")
    files = {path.relative_to(bundle).as_posix(): path for path in sorted(paths) if path.is_file()}
    files = {name: path for name, path in files.items() if not re.search(r"(^|/)(\.|__pycache__/)", name)}
    _require(files, f"{bundle}: expected a bundle with weights")
    metadata = _read_metadata(files[METADATA].read_bytes(), files[METADATA])
    read_weights(files[WEIGHTS])
    _compare_weights(metadata, files[WEIGHTS].stat().st_size, hash_file(files[WEIGHTS]), files[WEIGHTS])
    return Content(bundle.name, metadata, files)


def check_zip(path: Path) -> str:
    """
    Check the zip of a bundle where it lies: paths, sizes, CRCs, weights as recorded, and `SHA256SUMS` beside it.

    Returns:
        What it was compared with, in words.

    Raises:
        InputError: at the first thing that is wrong.
    """
    named = re.fullmatch(rf"({NAME})(?:_v({VERSION}))?\.zip", path.name)
    if not named:
        raise InputError(f"{path}: expected a name <bundle>_v<version>.zip, found {path.name}.")
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found none.")
    name, version = named.groups()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_unsafe(path, name, entries)
            files = {e.filename.removeprefix(f"{name}/"): e for e in entries if not e.is_dir()}
            _require(files, f"{path}: expected a bundle with weights")
            # reading to the end compares the CRC
            sha256 = {file: hashlib.file_digest(archive.open(e), "sha256").hexdigest() for file, e in files.items()}
            metadata = _read_metadata(archive.read(files[METADATA]), f"{path}: {METADATA}")
    except DAMAGE as error:
        raise InputError(f"{path}: expected a whole zip, found a truncated or damaged one: {error}") from error
    if version not in (None, metadata["version"]):
        raise InputError(f"{path}: expected version {version} in {METADATA}, found {metadata['version']}.")
    _compare_weights(metadata, files[WEIGHTS].file_size, sha256[WEIGHTS], f"{path}: {WEIGHTS}")
    if not path.with_name(SUMS).is_file():
        return f"whole; no {SUMS} beside it"
    # sha256sum puts a star before the name of a file that it reads as binary
    lines = re.findall(rf"^(\S+) [ *]{re.escape(path.name)}$", path.with_name(SUMS).read_text(errors="replace"), re.M)
    if lines != [found := hash_file(path)]:
        raise InputError(f"{path}: expected sha256 {' or '.join(lines) or 'none'} as in {SUMS}, found {found}.")
    return f"whole, as in {SUMS}"


def _refuse_unsafe(path: Path, name: str, entries: Sequence[zipfile.ZipInfo]) -> None:
    for entry in entries:
        file = entry.orig_filename  # `filename` ends at a zero byte
        if not file.startswith(f"{name}/") or re.search(r"[\\:\0]|//|/\.\.?(/|$)", file):
            raise InputError(f"{path}: expected only paths inside one folder {name}, found {file!r}.")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{path}: expected plain files, found a link or device: {file!r}.")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: expected stored or deflated files, found another method: {file!r}.")
    size, count = sum(entry.file_size for entry in entries), len(entries)
    if size > MAX_BYTES or count > MAX_FILES:
        raise InputError(f"{path}: expected {MAX_BYTES} bytes in {MAX_FILES} files at most, found {size} in {count}.")
    names = {entry.filename.casefold() for entry in entries}
    if len(names) < count:
        raise InputError(f"{path}: expected every file once, found two of one name.")
    for name in names:
        if not names.isdisjoint(str(parent) for parent in PurePosixPath(name).parents):
            raise InputError(f"{path}: expected a folder above {name!r}, found a file.")


def _require(files: Mapping[str, object], expected: str) -> None:
    if missing := [file for file in REQUIRED if file not in files]:
        raise InputError(f"{expected}, found no {', '.join(missing)} in it.")


def _read_metadata(content: bytes, file: object) -> dict[str, Any]:
    try:
        metadata = json.loads(content)
        sound = re.fullmatch(VERSION, metadata["version"]) and isinstance(metadata.setdefault("weights", {}), dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise InputError(f"{file}: expected metadata in JSON with a version such as 0.1.0, found none.")
    return metadata


def _compare_weights(metadata: Mapping[str, Any], size: int, sha256: str, file: object) -> None:
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
def _replace_folder(output: Path) -> Iterator[Path]:
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
