"""
Inputs that people and programs really make of one small CT, each with what is to become of it.

An input either has the mask of the clean CT, voxel by voxel in the patient, or is one line that names it and the cause.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from dicom_files import write_enhanced, write_slice, write_stack
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


def stack() -> tuple[np.ndarray, np.ndarray, dict]:
    """HU (slices, rows, columns), positions and tags of the CT as DICOM has it: rows to posterior, columns to left."""
    hu = CT[::-1, ::-1].transpose(2, 1, 0)
    corner = AFFINE @ [CT.shape[0] - 1, CT.shape[1] - 1, 0, 1]
    positions = np.array([-corner[0], -corner[1], corner[2]]) + np.outer(np.arange(len(hu)), [0, 0, SPACING_MM[2]])
    return hu, positions, {"PixelSpacing": [SPACING_MM[1], SPACING_MM[0]], "SliceThickness": SPACING_MM[2]}


def dicom(spoil: Callable[[Path], object] = lambda folder: None, names: list[int] | None = None, **tags: object):
    """A series, spoilt once it is written."""

    def make(folder: Path) -> Path:
        hu, positions, own = stack()
        write_stack(folder / "series", hu, positions, names, **own | tags)
        spoil(folder / "series")
        return folder / "series"

    return make


def slice_two(**changed: object) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        hu, positions, own = stack()
        return write_slice(folder / "002.dcm", hu[2], positions[2], 3, **own | changed)

    return spoil


def enhanced(order: list[int], **tags: object):
    def make(folder: Path) -> Path:
        hu, positions, own = stack()
        return write_enhanced(folder / "all.dcm", hu[order], positions[order], own["PixelSpacing"], **tags)

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
    yield from list_bad_nifti()
    yield from list_odd_values()
    yield from list_dicom()


def named(name: str):
    def make(folder: Path) -> Path:
        if name.endswith(".hdr"):
            voxels, affine = store("LPS")
            nib.save(nib.Nifti1Pair(voxels, affine), folder / name)
            return folder / name
        source = nifti(name="plain.nii" if name.lower().endswith(".nii") else "plain.nii.gz")(folder)
        return source.rename(folder / name)

    return make


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


def list_dicom() -> Iterator[Hostile]:
    for name, options in {
        "in order": {}, "named from the end": {"names": [5, 4, 3, 2, 1, 0]}, "named anyhow": {"names": [3, 0, 5, 1, 4, 2]},
        "with a step": {"SpacingBetweenSlices": 10}, "with a negative step": {"SpacingBetweenSlices": -10}, "with a wrong step": {"SpacingBetweenSlices": 3},
        "without a frame of reference": {"FrameOfReferenceUID": None}, "beside .DS_Store": {"spoil": lambda f: (f / ".DS_Store").write_bytes(b"Bud1")},
        "beside notes": {"spoil": lambda f: (f / "notes.txt").write_text("DICM")}, "beside a damaged file": {"spoil": lambda f: (f / "x.dcm").write_bytes(bytes(128) + b"DICM\xff\xff")},
    }.items():  # fmt: skip
        yield Hostile(f"a series {name}", "DICOM", dicom(**options))
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4]):
        yield Hostile(f"enhanced {order}", "DICOM", enhanced(order))
    tilt = {"ImageOrientationPatient": [1, 0, 0, 0, 0.965926, -0.258819]}
    for name, make, words in (
        ("a tilted gantry", dicom(**tilt), "tilted gantry"), ("no positions", dicom(ImagePositionPatient=None), "no ImagePositionPatient"),
        ("no orientations", dicom(ImageOrientationPatient=None), "no ImageOrientationPatient"), ("no spacing", dicom(PixelSpacing=None), "no PixelSpacing"),
        ("MONOCHROME1", dicom(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"), ("a gap", dicom(lambda f: (f / "003.dcm").unlink()), "apart"),
        ("a copy", dicom(lambda f: shutil.copy(f / "001.dcm", f / "copy.dcm")), "several slices at one position"),
        ("two phases", dicom(lambda f: [shutil.copy(file, f / f"1{file.name}") for file in sorted(f.iterdir())]), "several slices at one position"),
        ("a localizer", dicom(slice_two(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])), "localizer"),
        ("two orientations", dicom(slice_two(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "one orientation"),
        ("two frames of reference", dicom(slice_two(FrameOfReferenceUID="1.2.10")), "FrameOfReferenceUID"),
        ("two spacings", dicom(slice_two(PixelSpacing=[1, 1])), "one PixelSpacing"), ("a displaced slice", dicom(slice_two(ImagePositionPatient=[0, 0, 0])), "apart|position"),
        ("two series", dicom(slice_two(SeriesInstanceUID="1.2.30")), "choose with --series"), ("no pixels", dicom(slice_two(PixelData=None)), "ITK can decode"),
        ("a gap in an enhanced object", enhanced([0, 1, 3, 4, 5]), "apart"), ("frames at one place", enhanced([0, 1, 1, 2, 3, 4]), "several slices"),
    ):  # fmt: skip
        yield Hostile(f"DICOM: {name}", "DICOM", make, words)


CORPUS = list(list_corpus())
