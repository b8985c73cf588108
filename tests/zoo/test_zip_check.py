"""The check of a release's zip: a good one passes, and every way in which one is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_runs import POCKET, STEM

from common import __version__
from common.errors import InputError
from common.files import hash_file
from zoo import zip_check
from zoo.zip_check import check_zip


def test_a_release_checks_alone_beside_its_sums_and_under_the_name_that_monai_saves_it_by(release, tmp_path):
    path = release / f"{STEM}.zip"
    assert check_zip(path) == "whole, as in SHA256SUMS"
    (tmp_path / "downloaded").mkdir()
    alone = shutil.copy(path, tmp_path / "downloaded" / f"{POCKET}.zip")
    assert check_zip(alone) == "whole; no SHA256SUMS beside it"


def test_a_zip_of_files_deflated_by_another_program_checks_too(weighted_bundle, tmp_path):
    made = Path(shutil.make_archive(str(tmp_path / POCKET), "zip", tmp_path, POCKET))
    assert check_zip(made) == "whole; no SHA256SUMS beside it"


def rewrite(path: Path, change: Callable[[zipfile.ZipInfo, bytes], list[tuple[zipfile.ZipInfo, bytes]]]) -> None:
    """Write a zip anew, with what a function makes of every entry."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in (changed for old in entries for changed in change(*old)):
            archive.writestr(entry, content)


def add(name: str, mode: int = stat.S_IFREG, method: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """What adds an entry to a zip."""

    def spoil(path: Path) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, method
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, "added " * 100)

    return spoil


def move(top: str) -> Callable[[Path], None]:
    """What gives the top folder of a zip another name."""

    def rename(entry: zipfile.ZipInfo, content: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
        entry.filename = entry.filename.replace(f"{POCKET}/", top, 1)
        return [(entry, content)]

    return lambda path: rewrite(path, rename)


def drop(name: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda e, c: [] if e.filename.endswith(name) else [(e, c)])


def replace(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda e, c: [(e, change(c) if e.filename.endswith(name) else c)])


def flip_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"models/model.pt") + 5000] ^= 1
    path.write_bytes(content)


def record(**weights) -> Callable[[Path], None]:
    return replace("metadata.json", lambda c: json.dumps(json.loads(c) | {"weights": weights}).encode())


BAD_ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "expected a file, found none"),
    "no zip": (lambda p: p.write_text("<html>404</html>"), "truncated or damaged"),
    "empty": (lambda p: p.write_bytes(b""), "truncated or damaged"),
    "truncated": (lambda p: os.truncate(p, p.stat().st_size // 2), "truncated or damaged"),
    "truncated by a byte": (lambda p: os.truncate(p, p.stat().st_size - 1), "truncated or damaged"),
    "a changed weight": (flip_a_weight, "truncated or damaged one: Bad CRC-32 for file"),
    "a path upwards": (add(f"{POCKET}/../evil.py"), "expected only paths inside one folder"),
    "a path upwards from the top": (add("../evil.py"), "expected only paths inside one folder"),
    "a path upwards at the end": (add(f"{POCKET}/.."), "expected only paths inside one folder"),
    "an absolute path": (add("/etc/cron.d/evil"), "found '/etc/cron.d/evil'"),
    "a drive": (add("C:/evil.py"), "found 'C:/evil.py'"),
    "a backslash": (add(f"{POCKET}/..\\evil.py"), "expected only paths inside one folder"),
    "a second top folder": (add("other/evil.py"), "found 'other/evil.py'"),
    "a file beside the folder": (add("sitecustomize.py"), "found 'sitecustomize.py'"),
    "no top folder": (move(""), "expected only paths inside one folder"),
    "another top folder": (move("kits_unet_segmentation/"), "expected only paths inside one folder"),
    "a link": (add(f"{POCKET}/data", stat.S_IFLNK), "expected plain files, found a link or device"),
    "another method": (add(f"{POCKET}/x", method=zipfile.ZIP_BZIP2), "expected stored or deflated files"),
    "one name twice": (add(f"{POCKET}/license"), "expected every file once"),
    "a file as folder": (
        add(f"{POCKET}/license/x"),
        "expected a folder above 'kits_pocket_unet_segmentation/license/x'",
    ),
    "no weights": (drop("model.pt"), "found no models/model.pt in it"),
    "no metadata": (drop("metadata.json"), "found no configs/metadata.json in it"),
    "broken metadata": (replace("metadata.json", lambda c: c[:-9]), "metadata.json: expected metadata in JSON"),
    "deep metadata": (replace("metadata.json", lambda c: b"[" * 100_000), "metadata.json: expected metadata in JSON"),
    "odd weights block": (
        replace("metadata.json", lambda c: b'{"version": "0.1.0", "weights": 1}'),
        "expected metadata",
    ),
    "another version": (replace("metadata.json", lambda c: c.replace(__version__.encode(), b"99.0.0")), "found 99.0.0"),
    "other weights": (record(sha256="0" * 64), "models/model.pt: expected sha256 000"),
    "longer weights": (record(bytes=5), "models/model.pt: expected bytes 5 as in configs/metadata.json"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("spoil, words", BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_a_bad_zip_is_one_line_and_nothing_is_unpacked(release, tmp_path, spoil, words):
    (release / "SHA256SUMS").unlink()
    path = release / f"{STEM}.zip"
    spoil(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        check_zip(path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)
    assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_FILES"])
def test_a_zip_bomb_is_refused_before_anything_is_inflated(release, monkeypatch, limit):
    monkeypatch.setattr(zip_check, limit, 10)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match="expected [0-9]+ bytes in [0-9]+ files at most, found"):
        check_zip(release / f"{STEM}.zip")


def test_an_encrypted_zip_is_refused(release):
    path = release / f"{STEM}.zip"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected stored or deflated files, found another method"):
        check_zip(path)


def test_a_zip_that_its_sums_do_not_name_is_refused(release):
    sums, path = release / "SHA256SUMS", release / f"{STEM}.zip"
    listed = sums.read_text()
    sums.write_text(listed.replace("  ", " *"))  # as sha256sum --binary writes them
    assert check_zip(path) == "whole, as in SHA256SUMS"
    sums.write_text(listed.replace(found := hash_file(path), "0" * 64))
    with pytest.raises(InputError, match=f"expected sha256 {'0' * 64} as in SHA256SUMS, found {found}"):
        check_zip(path)
    sums.write_text("")
    with pytest.raises(InputError, match=f"expected sha256 none as in SHA256SUMS, found {found}"):
        check_zip(path)


def test_a_file_of_another_name_is_told_so(release):
    with pytest.raises(InputError, match=r"expected a name <bundle>_v<version>.zip, found catalog.json"):
        check_zip(release / "catalog.json")
