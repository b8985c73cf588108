"""The check of a release zip where it lies: nothing is unpacked."""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common.errors import InputError
from common.files import hash_file

from .packaging import METADATA, NAME, SUMS, VERSION, WEIGHTS, compare_weights, read_metadata, require

MAX_BYTES, MAX_FILES = 2**30, 1000  # that a zip may unpack to; 8 times the largest bundle here
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, UnicodeDecodeError, NotImplementedError)


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
            require(files, f"{path}: expected a bundle with weights")
            # reading to the end compares the CRC
            sha256 = {file: hashlib.file_digest(archive.open(e), "sha256").hexdigest() for file, e in files.items()}
            metadata = read_metadata(archive.read(files[METADATA]), f"{path}: {METADATA}")
    except DAMAGE as error:
        raise InputError(f"{path}: expected a whole zip, found a truncated or damaged one: {error}") from error
    if version not in (None, metadata["version"]):
        raise InputError(f"{path}: expected version {version} in {METADATA}, found {metadata['version']}.")
    compare_weights(metadata, files[WEIGHTS].file_size, sha256[WEIGHTS], f"{path}: {WEIGHTS}")
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
