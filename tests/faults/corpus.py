"""
Inputs that people and programs really make of one small CT, each with what is to become of it.

An input either has the mask of the clean CT, voxel by voxel in the patient, or is one line that names it and the cause.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from header_forms import FORMS, shear, write_forms
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from common.kits.phantom import make_phantom

ANY_AXES = ("RAS", "LPS", "IPL", "ASR", "PIR", "LSA", "SRP", "RPI")
SPACING_MM = (5.0, 6.0, 10.0)


def make_ct() -> tuple[np.ndarray, np.ndarray]:
    """A phantom (X, Y, Z) in RAS, int16 HU, of three different lengths, and its affine."""
    image = make_phantom(5, (8, 40, 48), (14.0, 9.0, 8.0))[0][1:7]
    volume = np.flip(image.transpose(2, 1, 0)).astype(np.int16)
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -118.5, -97.25, -300.5
    return np.ascontiguousarray(volume), affine


CT, AFFINE = make_ct()


@dataclass(frozen=True)
class Hostile:
    """
    One input.

    Args:
        family: of the table.
        make: writes it into an empty folder, and gives the path to segment.
        words: of the one line; None where the mask is right.
        warning: words of a warning beside a right mask.
        placed: where its header puts the patient (4, 4), moved from where the clean CT lies; None, where it is unknown.
        differs: the mask may differ from the clean one, since the values do.
        bad: check_data calls it bad although it can be segmented.
    """

    name: str
    family: str
    make: Callable[[Path], Path]
    words: str | None = None
    warning: str | None = None
    placed: np.ndarray | None = field(default_factory=lambda: np.eye(4))
    differs: bool = False
    bad: bool = False


def store(axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The CT as a file along some axes holds it, and that file's affine."""
    way = ornt_transform(io_orientation(AFFINE), axcodes2ornt(axes))
    return apply_orientation(CT, way), AFFINE @ inv_ornt_aff(way, CT.shape)


def nifti(
    change: Callable[[nib.Nifti1Image], nib.Nifti1Image] = lambda i: i, name: str = "scan.nii.gz", axes: str = "LPS"
):
    def make(folder: Path) -> Path:
        nib.save(change(nib.Nifti1Image(*store(axes))), folder / name)
        return folder / name

    return make


def values(change: Callable[[np.ndarray], np.ndarray]):
    """The CT with other voxels."""
    return nifti(lambda image: nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine))


def header(**fields: object):
    """A file whose header says something else; bytes are put where the field stands."""

    def make(folder: Path) -> Path:
        path = nifti(name="scan.nii")(folder)
        content = bytearray(path.read_bytes())
        raw = np.frombuffer(bytes(content[:348]), nib.Nifti1Header.template_dtype).copy()
        for key, value in fields.items():
            raw[key] = value
        content[:348] = raw.tobytes()
        path.write_bytes(content)
        return path

    return make


def content(change: Callable[[bytes], bytes], name: str = "scan.nii.gz"):
    """A file of other bytes."""

    def make(folder: Path) -> Path:
        path = nifti(name=name)(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def forms(name: str, axes: str):
    def make(folder: Path) -> Path:
        voxels, affine = store(axes)
        return write_forms(folder / "scan.nii.gz", voxels, FORMS[name](affine))

    return make


def typed(
    dtype: object, slope: float | None = None, inter: float = 0.0, kind: type = nib.Nifti1Image, endianness: str = "<"
):
    """The CT stored as another type, perhaps by slope and intercept."""

    def make(folder: Path) -> Path:
        voxels, affine = store("LPS")
        stored = (voxels - inter) / (slope or 1.0)
        head = kind.header_class(endianness=endianness)
        head.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
        image = kind(stored.astype(dtype), affine, head)
        if slope is not None:
            image.header.set_slope_inter(slope, inter)
        nib.save(image, folder / "scan.nii.gz")
        return folder / "scan.nii.gz"

    return make


def itk_file(suffix: str, axes: str):
    def make(folder: Path) -> Path:
        source = nifti(axes=axes)(folder)
        itk.imwrite(itk.imread(str(source)), str(folder / f"other{suffix}"))
        source.unlink()
        return folder / f"other{suffix}"

    return make


def members(packed: bytes) -> bytes:
    """The same bytes as a file of many gzip members, as bgzip and pigz write them."""
    plain = gzip.decompress(packed)
    return b"".join(gzip.compress(plain[start : start + 5000]) for start in range(0, len(plain), 5000))


def flip(place: float) -> Callable[[bytes], bytes]:
    def change(packed: bytes) -> bytes:
        stored = bytearray(gzip.compress(gzip.decompress(packed), 0))
        stored[int(place * len(stored))] ^= 0x10
        return bytes(stored)

    return change


def list_corpus() -> Iterator[Hostile]:
    """All of it."""
    for axes in ANY_AXES:
        yield Hostile(f"axes {axes}", "orientation", nifti(axes=axes))
    for name in FORMS:
        for axes in ("LPS", "IPL"):
            affine = store(axes)[1]
            sform, sform_code, qform, _ = FORMS[name](affine)
            placed = (sform if sform_code else qform) @ np.linalg.inv(affine)
            warning = None
            if name == "neither":
                placed, warning = None, "expected an sform or a qform"
            yield Hostile(f"{name}, {axes}", "header forms", forms(name, axes), warning=warning, placed=placed)
    for dtype, slope, inter in (
        (np.int16, None, 0), (np.int32, None, 0), (np.int64, None, 0), (np.float32, None, 0), (np.float64, None, 0), (np.uint16, 1, -1024),
        (np.int16, 0.5, 0), (np.uint16, 0.25, -1024), (np.int16, 2.0**-3, -0.0), (np.uint32, 1, -2048), (np.float32, 2, -1024),
    ):  # fmt: skip
        for endianness in "<>":
            yield Hostile(
                f"{np.dtype(dtype)} by {slope} {endianness}",
                "voxel types",
                typed(dtype, slope, inter, endianness=endianness),
            )
    yield Hostile("NIfTI-2", "voxel types", typed(np.int16, kind=nib.Nifti2Image))
    for name in (
        "SCAN.NII.GZ",
        "SCAN.NII",
        "imaging.nii",
        'it\'s a "scan".nii.gz',
        "two\nlines.nii.gz",
        "tab\tand  spaces .nii.gz",
        "100%s {x} $(y) `z` \\.nii.gz",
        "扫描.nii.gz",
        os.fsdecode(b"latin-\xe4.nii.gz"),
        "-b.nii.gz",
        "x" * 240 + ".nii.gz",
        "scan.hdr",
        "a scan, of [1] ä.nii.gz",
        "#1.nii.gz",
        "scan.1.2.nii.gz",
        "<script>.nii.gz",
    ):
        yield Hostile(f"called {name}", "files and names", named(name))
    for suffix in (".nrrd", ".mha", ".mhd"):
        for axes in ("LPS", "IPL", "ASR"):
            yield Hostile(f"{suffix} {axes}", "ITK's forms", itk_file(suffix, axes))
    for name, (head, suffix) in SPACELESS.items():
        guess = "left and right are a guess"
        yield Hostile(name, "ITK's forms", spaceless(head, suffix), warning=guess, placed=None)
    for name, change in {
        "members": members, "stored": lambda b: gzip.compress(gzip.decompress(b), 0), "named": lambda b: gzip.compress(gzip.decompress(b), 9),
    }.items():  # fmt: skip
        yield Hostile(f"gzip {name}", "files and names", content(change))
    for shape in ((1,), (1, 1)):
        yield Hostile(
            f"trailing axes {shape}",
            "shapes",
            nifti(lambda i, s=shape: nib.Nifti1Image(np.asarray(i.dataobj).reshape(i.shape + s), i.affine)),
        )
    yield from list_itk_headers()
    yield from list_good_nifti()
    yield from list_bad_nifti()
    yield from list_odd_values()


def spaceless(header: str, suffix: str):
    """Voxels under a header that says nothing of the patient."""

    def make(folder: Path) -> Path:
        path = folder / f"scan{suffix}"
        path.write_bytes(header.encode() + store("LPS")[0].tobytes("F"))
        return path

    return make


def compressed(change: Callable[[bytes], bytes] = lambda b: b, **fields: object):
    """A compressed MetaImage of other bytes or another header."""

    def make(folder: Path) -> Path:
        voxels = change(zlib.compress(store("LPS")[0].tobytes("F"), 1))
        head = {"TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-116.5 -136.75 -300.5", "ElementSpacing": "5 6 10"}
        head |= {"CompressedData": "True", "CompressedDataSize": len(voxels), "ElementType": "MET_SHORT"} | fields
        lines = "".join(f"{key} = {value}\n" for key, value in head.items() if value is not None)
        path = folder / "scan.mha"
        path.write_bytes(f"{META}{lines}ElementDataFile = LOCAL\n".encode() + voxels)
        return path

    return make


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 48 40 6\nendian: little\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 48 40 6\n"
SPACELESS = {
    "NRRD in no space": (NRRD + "spacings: 5 6 10\n\n", ".nrrd"),
    "NRRD in a space of the scanner": (
        NRRD + "space: scanner-xyz\nspace directions: (5,0,0) (0,6,0) (0,0,10)\nspace origin: (0,0,0)\n\n",
        ".nrrd",
    ),
    "MetaImage in no space": (
        META + "ElementSpacing = 5 6 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
        ".mha",
    ),
}


PLACED = "space: LPS\nspace directions: (5,0,0) (0,6,0) (0,0,10)\nspace origin: (0,0,0)\n"


def list_itk_headers() -> Iterator[Hostile]:
    """What ITK takes in silence."""
    yield Hostile("MetaImage, compressed", "ITK's forms", compressed())
    yield Hostile("MetaImage in capitals", "ITK's forms", lambda f: compressed()(f).rename(f / "SCAN.MHA"))
    for name, make, words in (
        ("cut short", compressed(lambda b: b[:-800]), "cut short"), ("a byte damaged", compressed(lambda b: b[:900] + bytes([b[900] ^ 8]) + b[901:]), "whole compressed voxels"),
        ("of no size", compressed(CompressedDataSize=None), "CompressedDataSize"), ("in micrometres", compressed(DistanceUnits="um"), "millimetres"),
        ("of voxels of no size", compressed(ElementSpacing=None), "size of a voxel"),
    ):  # fmt: skip
        yield Hostile(f"MetaImage, compressed, {name}", "ITK's forms", make, words)
    for name, header, words in (
        ("metres", NRRD + PLACED + 'space units: "m" "m" "m"\n\n', "millimetres"), ("no size of a voxel", NRRD + "\n", "size of a voxel"),
        ("vectors", NRRD.replace("dimension: 3\nsizes: 48", "dimension: 4\nsizes: 2 24") + PLACED.replace("(5", "none (5", 1) + "kinds: vector space space space\n\n", "2 a voxel"),
    ):  # fmt: skip
        yield Hostile(f"NRRD of {name}", "ITK's forms", spaceless(header, ".nrrd"), words)


def named(name: str):
    def make(folder: Path) -> Path:
        if name.endswith(".hdr"):
            voxels, affine = store("LPS")
            nib.save(nib.Nifti1Pair(voxels, affine), folder / name)
            return folder / name
        source = nifti(name="plain.nii" if name.lower().endswith(".nii") else "plain.nii.gz")(folder)
        return source.rename(folder / name)

    return make


def list_good_nifti() -> Iterator[Hostile]:
    """Headers and files that look odd, and say clearly enough what is meant."""
    for name, fields in {
        "a slope of 0": {"scl_slope": 0, "scl_inter": 7}, "a slope of NaN": {"scl_slope": np.nan, "scl_inter": np.nan}, "an infinite slope": {"scl_slope": np.inf},
        "no units": {"xyzt_units": 0}, "units of time alone": {"xyzt_units": 8}, "no spacings": {"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, "spacings of NaN": {"pixdim": [1] + [np.nan] * 7},
        "a quaternion of NaN": {"quatern_b": np.nan, "qform_code": 1}, "negative spacings": {"pixdim": [-1, -5, -6, -10, 0, 0, 0, 0]}, "a negative code beside an sform": {"qform_code": -3}, "an intent": {"intent_code": 1002},
        "a slice order": {"slice_code": 3, "dim_info": 57, "slice_duration": 2}, "a display range": {"cal_min": 50, "cal_max": 60}, "text": {"descrip": b"\xff" * 80, "aux_file": b"<b>"},
    }.items():  # fmt: skip
        yield Hostile(f"header with {name}", "headers", header(**fields))
    guess = "left and right are a guess"  # nibabel takes a code that it does not know for 0
    yield Hostile("header with a code of 99", "headers", header(sform_code=99), warning=guess, placed=None)
    yield Hostile("an extension", "headers", nifti(extend))
    yield Hostile(
        "sheared by 3e-4",
        "headers",
        nifti(lambda i: nib.Nifti1Image(np.asarray(i.dataobj), shear(i.affine, 3e-4))),
        placed=shear(store("LPS")[1], 3e-4) @ np.linalg.inv(store("LPS")[1]),
    )
    for name, change in {
        "zeros": lambda b: b + bytes(512),
        "another member": lambda b: b + gzip.compress(b"more"),
    }.items():
        yield Hostile(f"{name} behind the end", "files and names", content(change))
    yield Hostile("bytes behind the end", "files and names", content(lambda b: b + b"more", "scan.nii"))
    yield Hostile("a link to the image", "files and names", linked)


def extend(image: nib.Nifti1Image) -> nib.Nifti1Image:
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"by somebody" * 20))
    return image


def linked(folder: Path) -> Path:
    source = nifti(name="scan.nii.gz")(folder)
    source.rename(folder / "0a1b2c")
    source.symlink_to("0a1b2c")
    return source


def text(words: str, name: str = "scan.nii.gz"):
    def make(folder: Path) -> Path:
        (folder / name).write_text(words)
        return folder

    return make


def link(folder: Path) -> Path:
    (folder / "scan.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    return folder


def folder_named(folder: Path) -> Path:
    (folder / "scan.nii.gz").mkdir()
    return folder


def put(value: float, dtype: type = np.float32) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(dtype)
        voxels[3, 4, 2] = value
        return voxels

    return change


def list_bad_nifti() -> Iterator[Hostile]:
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        yield Hostile(f"cut at {share}", "damage", content(lambda b, s=share: b[: int(s * len(b))]), "scan.nii.gz")
        yield Hostile(
            f"plain, cut at {share}", "damage", content(lambda b, s=share: b[: int(s * len(b))], "scan.nii"), "scan.nii"
        )
    for place in (0.3, 0.5, 0.7, 0.99999):
        yield Hostile(f"a bit flipped at {place}", "damage", content(flip(place)), "damaged|cannot open")
    for name, words in {
        "HTML of a portal": "<!DOCTYPE html><title>Sign in</title>", "a pointer of Git LFS": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "empty": "",
    }.items():  # fmt: skip
        yield Hostile(name, "no image", text(words), "cannot open|expected")
    yield Hostile("a text called nrrd", "no image", text("NRRD", "scan.nrrd"), "ITK can read")
    yield Hostile("a text called mha", "no image", text("ObjectType = Image", "scan.mha"), "ITK can read")
    yield Hostile(
        "a link to itself", "no image", lambda f: (f / "scan.nii.gz").symlink_to("scan.nii.gz") or f, "found none"
    )
    yield Hostile("a pipe", "no image", lambda f: os.mkfifo(f / "scan.nii.gz") or f, "found none")
    yield Hostile(
        "a plain file called .nii.gz",
        "no image",
        lambda f: nifti(name="a.nii")(f).rename(f / "scan.nii.gz"),
        "cannot open|damaged",
    )
    yield Hostile(
        "gzip called .nii",
        "no image",
        lambda f: nifti(name="a.nii.gz")(f).rename(f / "scan.nii"),
        "cannot open|damaged",
    )
    yield Hostile("text behind the end", "damage", content(lambda b: b + b"more"), "damaged")
    yield Hostile("gzip twice", "damage", content(gzip.compress), "cannot open")
    yield Hostile("a header without its voxels", "no image", lambda f: pair(f, "img"), "scan.img")
    yield Hostile("voxels without their header", "no image", lambda f: pair(f, "hdr"), "scan.img")
    yield Hostile("an .mhd without its voxels", "no image", lonely, "ITK can read")
    yield Hostile("a vector", "no image", vector, "3-D image|ITK can read|real numbers")
    yield Hostile("an inter of NaN", "headers", header(scl_slope=2, scl_inter=np.nan), "scan.nii")
    yield Hostile("a link to nothing", "no image", link, "found none")
    yield Hostile("a folder called like a file", "no image", folder_named, "scan.nii.gz")
    yield Hostile("Analyze", "no image", analyze, "no orientation")
    for name, shape in {"2-D": (48, 40), "4-D": (48, 40, 3, 2), "5-D": (48, 40, 1, 3, 2)}.items():
        yield Hostile(
            name,
            "shapes",
            nifti(lambda i, s=shape: nib.Nifti1Image(np.zeros(s, np.int16), i.affine)),
            "expected a 3-D image",
        )
    for name, fields, words in (
        ("no dimensions", {"dim": [0] * 8}, "scan.nii"), ("negative dimensions", {"dim": [3, -4, 40, 6, 1, 1, 1, 1]}, "scan.nii"),
        ("a dimension of 0", {"dim": [3, 0, 40, 6, 1, 1, 1, 1]}, "scan.nii"), ("nine dimensions", {"dim": [9, 4, 4, 4, 1, 1, 1, 1]}, "scan.nii"),
        ("more voxels than there are", {"dim": [3, 48, 40, 30000, 1, 1, 1, 1]}, "scan.nii"), ("an unknown data type", {"datatype": 77}, "scan.nii"),
        ("bits alone", {"datatype": 1}, "scan.nii"), ("an offset of NaN", {"vox_offset": np.nan}, "scan.nii"),
        ("an offset behind the end", {"vox_offset": 1e9}, "scan.nii"), ("another magic", {"magic": b"abc"}, "scan.nii"),
        ("a size of the header that nibabel mends", {"sizeof_hdr": 77}, None), ("metres", {"xyzt_units": 1}, "found metres"),
        ("micrometres", {"xyzt_units": 3}, "found micrometres"), ("a row of zeros", {"srow_x": 0}, "invertible affine"),
        ("a row of NaN", {"srow_y": np.nan}, "invertible affine"), ("an infinite row", {"srow_z": np.inf}, "invertible affine"),
        ("voxels within the header", {"vox_offset": 0}, "behind the header"), ("spacings of 0 beside a qform", {"sform_code": 0, "qform_code": 1, "pixdim": [1] + [0] * 7}, "spacings in pixdim"),
        ("a quaternion that is none", {"sform_code": 0, "qform_code": 1, "quatern_b": 9.0}, "scan.nii"),
    ):  # fmt: skip
        yield Hostile(name, "headers", header(**fields), words)
    yield Hostile(
        "sheared",
        "headers",
        nifti(lambda i: nib.Nifti1Image(np.asarray(i.dataobj), shear(i.affine, 0.2))),
        "sheared affine",
    )
    for name, value in {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}.items():
        yield Hostile(name, "values", values(put(value)), "NaN or infinity")
    yield Hostile("colours", "values", colours, "real numbers")
    yield Hostile(
        "complex", "values", nifti(lambda i: nib.Nifti1Image(np.zeros(i.shape, np.complex64), i.affine)), "real numbers"
    )


def pair(folder: Path, missing: str) -> Path:
    path = named("scan.hdr")(folder)
    path.with_suffix(f".{missing}").unlink()
    return path if missing == "img" else path.with_suffix(".img")


def lonely(folder: Path) -> Path:
    path = itk_file(".mhd", "LPS")(folder)
    for file in folder.iterdir():
        if file != path:
            file.unlink()
    return path


def vector(folder: Path) -> Path:
    voxels = itk.image_from_array(np.zeros((6, 40, 48, 3), np.int16), is_vector=True)
    itk.imwrite(voxels, str(folder / "scan.nrrd"))
    return folder / "scan.nrrd"


def colours(folder: Path) -> Path:
    rgb = np.zeros(CT.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, AFFINE), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def analyze(folder: Path) -> Path:
    nib.save(nib.AnalyzeImage(CT, np.eye(4)), folder / "scan.img")
    return folder / "scan.hdr"


def list_odd_values() -> Iterator[Hostile]:
    for name, change, words in (
        ("standardized", lambda v: (v.clip(-79, 304) - 101) / 76.9, "standardized"), ("of 0 to 1", lambda v: v.clip(-200, 300) / 500 + 0.4, "normalized"),
        ("constant", lambda v: v * 0 + 40.0, "constant"), ("raw, without its intercept", lambda v: v.clip(-1024) + 1024.0, "rescale intercept"),
        ("of MR", lambda v: v.clip(0) * 3.0, "MR"), ("far out", lambda v: v * 1e5, "expected Hounsfield units"),
    ):  # fmt: skip
        yield Hostile(
            name, "values", values(lambda v, c=change: c(v).astype(np.float32)), warning=words, differs=True, bad=True
        )
