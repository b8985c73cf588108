"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

PathLike = str | os.PathLike
# of text files with names of files in them, which need not be UTF-8
NAMES = {"encoding": "utf-8", "errors": "surrogateescape"}


@contextmanager
def write_whole(path: str | os.PathLike) -> Iterator[Path]:
    """
    Give a temporary name beside a path to write to, and rename it to the path once all is written.

    Where writing fails, the old file stays as it was and nothing half-written is left. The name keeps its suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # of a long name its end, for a file system takes 255 bytes
    temporary = path.with_name(f".{os.getpid()}.{path.name[-60:]}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """
    Try whether a folder, there already or not, can be written to; several processes may try at once.

    Raises:
        InputError: when it cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write to, found: {error.strerror or error}.") from error


def check_apart(output_dir: Path, inputs: Iterable[Path]) -> None:
    """
    Refuse an output folder that inputs lie in, by whatever name or link: what is written there could replace them.

    Args:
        inputs: files, or folders that are read; a folder inside of one may be written to.

    Raises:
        InputError: naming the folder.
    """
    if not output_dir.is_dir():
        return
    places = {place for path in inputs for place in (path.absolute(), path.resolve())}
    for folder in {place if place.is_dir() else place.parent for place in places}:
        # by device and inode: names differ by links, mounts, and on some disks by case alone
        if folder.is_dir() and folder.samefile(output_dir):
            raise InputError(
                f"{output_dir}: expected another folder than that of the inputs, found {folder}; one inside it will do."
            )


def check_output_file(path: Path, inputs: Iterable[Path]) -> None:
    """
    Try whether a file can be written, and would replace no input.

    Args:
        inputs: see `check_apart`.

    Raises:
        InputError: when it cannot, or would.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder.")
    check_apart(path.parent, inputs)
    check_writable(path.parent)


def user_cache() -> Path:
    """The folder where this user keeps what can be made anew, by the XDG convention; there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kits-lite"


def hash_file(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """
    The sha256, or another digest that `hashlib` has, of a file, in hexadecimal.

    Raises:
        InputError: when the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: expected a file to read, found: {error.strerror or error}.") from error
