"""The small CT as DICOM, as scanners, archives and PACS exports write it, each with what is to become of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import itk
import numpy as np
import pydicom
from corpus import AFFINE, CT, SPACING_MM, Hostile
from dicom_files import write_enhanced, write_slice, write_stack
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless


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


def rewrite(change: Callable[[Dataset], object]) -> Callable[[Path], None]:
    """Every file of a series, changed as pydicom holds it."""

    def spoil(folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            dataset = pydicom.dcmread(file)
            change(dataset)
            dataset.save_as(file)

    return spoil


def unsign(dataset: Dataset) -> None:
    """12 bits without a sign, upwards of the intercept, as most scanners store them."""
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11


def halve(dataset: Dataset) -> None:
    """Every second slice by another slope."""
    if dataset.InstanceNumber % 2:
        dataset.PixelData = (dataset.pixel_array * 2).astype("<i2").tobytes()
        dataset.RescaleSlope = 0.5


def encode(syntax: UID) -> Callable[[Path], None]:
    """A series in another transfer syntax."""

    def change(dataset: Dataset) -> None:
        if syntax == RLELossless:
            dataset.compress(syntax)
        elif syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax

    def spoil(folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            dataset = Dataset(pydicom.dcmread(file))  # anew, for one that was read keeps its encoding
            dataset.file_meta = pydicom.dcmread(file).file_meta
            change(dataset)
            dataset.save_as(file, enforce_file_format=True)

    return spoil


def compress(compressor: str) -> Callable[[Path], None]:
    """A series of which ITK has written the pixels as JPEG."""

    def spoil(folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            dataset, coded = pydicom.dcmread(file), folder / "coded.dcm"
            writer = itk.GDCMImageIO.New()
            writer.SetCompressor(compressor)
            itk.imwrite(itk.image_from_array(dataset.pixel_array), coded, compression=True, imageio=writer)
            other = pydicom.dcmread(coded)
            dataset.PixelData, dataset.file_meta.TransferSyntaxUID = other.PixelData, other.file_meta.TransferSyntaxUID
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            coded.unlink()
            dataset.save_as(file)

    return spoil


def strip(folder: Path) -> None:
    """Files as they were before DICOM had a file format: implicit, and without a preamble and its group."""
    for file in sorted(folder.iterdir()):
        dataset = Dataset(pydicom.dcmread(file))
        pydicom.dcmwrite(file, dataset, overwrite=True, implicit_vr=True, little_endian=True)


def bake(dataset: Dataset) -> None:
    """Hounsfield units themselves, and no tags for a rescale."""
    dataset.PixelData = (dataset.pixel_array + int(dataset.RescaleIntercept)).astype("<i2").tobytes()
    del dataset.RescaleIntercept, dataset.RescaleSlope


def colour(dataset: Dataset) -> None:
    dataset.PixelData = np.repeat(dataset.pixel_array[..., None] // 16 + 64, 3, axis=-1).astype("u1").tobytes()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0


def report(folder: Path) -> None:
    """A file of DICOM's without an image."""
    dataset = pydicom.dcmread(folder / "000.dcm")
    for keyword in ("PixelData", "Rows", "Columns", "SeriesInstanceUID"):
        delattr(dataset, keyword)
    dataset.save_as(folder / "DICOMDIR")


def enlarge(folder: Path) -> None:
    hu, positions, own = stack()
    write_slice(folder / "002.dcm", np.pad(hu[2], 4), positions[2], 3, **own)


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 1000])


def restore(kind: str) -> Callable[[Dataset], None]:
    """Hounsfield units without a rescale in the first slice, which has a type of its own."""

    def change(dataset: Dataset) -> None:
        intercept = -1024 if dataset.InstanceNumber > 1 else 0
        stored = dataset.pixel_array + int(dataset.RescaleIntercept) - intercept
        dataset.PixelData = stored.astype(kind if intercept else "<i2").tobytes()
        dataset.PixelRepresentation = int(kind == "<i2" or not intercept)
        dataset.RescaleIntercept = intercept

    return change


def change_frames(**changed: object) -> Callable[[Path], Path]:
    """An enhanced object of which tags are changed once it is written."""

    def make(folder: Path) -> Path:
        path = enhanced([0, 1, 2, 3, 4, 5])(folder)
        dataset = pydicom.dcmread(path)
        for keyword, value in changed.items():
            dataset.add_new(keyword, "LO", value)
        dataset.save_as(path)
        return path

    return make


def append(**tags: object) -> Callable[[Path], None]:
    """More slices of the same UID above the last one."""

    def spoil(folder: Path) -> None:
        hu, positions, own = stack()
        for index, position in enumerate(positions + [0, 0, 60]):
            write_slice(folder / f"1{index}.dcm", hu[index], position, 10 + index, **own | tags)

    return spoil


def half_a_step(folder: Path) -> None:
    hu, positions, own = stack()
    for index, position in enumerate(positions + [0, 0, 0.4]):
        write_slice(folder / f"1{index}.dcm", hu[index], position, 10 + index, **own)


def place(change: Callable[[np.ndarray], np.ndarray], form: str = ".8g") -> Callable[[Path], None]:
    """A series with other positions (slices, 3), written in some form."""

    def spoil(folder: Path) -> None:
        positions = change(stack()[1])
        for file, position in zip(sorted(folder.iterdir()), positions):
            dataset = pydicom.dcmread(file)
            dataset.ImagePositionPatient = [format(mm, form) for mm in position]
            dataset.save_as(file)

    return spoil


def list_dicom() -> Iterator[Hostile]:
    for name, options in {
        "in order": {}, "named from the end": {"names": [5, 4, 3, 2, 1, 0]}, "named anyhow": {"names": [3, 0, 5, 1, 4, 2]},
        "with a step": {"SpacingBetweenSlices": 10}, "with a negative step": {"SpacingBetweenSlices": -10}, "with a wrong step": {"SpacingBetweenSlices": 3},
        "without a frame of reference": {"FrameOfReferenceUID": None}, "beside .DS_Store": {"spoil": lambda f: (f / ".DS_Store").write_bytes(b"Bud1")},
        "beside notes": {"spoil": lambda f: (f / "notes.txt").write_text("DICM")}, "beside a damaged file": {"spoil": lambda f: (f / "x.dcm").write_bytes(bytes(128) + b"DICM\xff\xff")},
    }.items():  # fmt: skip
        warning = "looks like a slice, and cannot be read" if "damaged" in name else None
        yield Hostile(f"a series {name}", "DICOM", dicom(**options), warning=warning)
    for name, spoil in {
        "implicit": encode(ImplicitVRLittleEndian), "big-endian": encode(ExplicitVRBigEndian), "deflated": encode(DeflatedExplicitVRLittleEndian),
        "RLE": encode(RLELossless), "JPEG 2000": compress("JPEG2000"), "JPEG": compress("JPEG"), "JPEG-LS": compress("JPEGLS"),
        "12 bits without a sign": rewrite(unsign), "two slopes": rewrite(halve), "without a preamble": strip, "without suffixes": lambda f: [p.rename(p.with_suffix("")) for p in f.iterdir()],
        "without a rescale": rewrite(bake), "positions a little uneven": place(lambda p: p + np.random.default_rng(0).uniform(-0.04, 0.04, p.shape) * [0, 0, 1]),
        "positions rounded and padded": place(lambda p: p + [[0, 0, 0.05 * (-1) ** i] for i in range(len(p))], ".6f"), "positions with exponents": place(lambda p: p, ".8e"),
        "a slice cosine of rounding": slice_two(ImageOrientationPatient=[1, 0, 0, 0, 1, 1e-4]), "beside a pipe": lambda f: os.mkfifo(f / "pipe"),
        "beside a folder": lambda f: (f / "000").mkdir(), "beside a DICOMDIR": report, "the first of another type": rewrite(restore("<u2")),
    }.items():  # fmt: skip
        yield Hostile(f"DICOM: {name}", "DICOM", dicom(spoil))
    for name, spoil in {
        "beside a link to nothing": lambda f: (f / "gone.dcm").symlink_to("nowhere"), "beside an empty file": lambda f: (f / "006.dcm").touch(),
        "beside a page of HTML": lambda f: (f / "006.dcm").write_text("<html>"),
    }.items():  # fmt: skip
        yield Hostile(f"DICOM: {name}", "DICOM", dicom(spoil), warning="looks like a slice, and cannot be read")
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
        ("one frame of reference missing", dicom(slice_two(FrameOfReferenceUID=None)), "FrameOfReferenceUID"),
        ("a localizer without a type", dicom(slice_two(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), "one orientation"),
        ("one slice larger", dicom(enlarge), "Rows"), ("colours", dicom(rewrite(colour)), "RGB"), ("two gaps", dicom(lambda f: [(f / f"00{i}.dcm").unlink() for i in (1, 4)]), "apart"),
        ("a position of NaN", dicom(slice_two(ImagePositionPatient=["NaN", 0, 0])), "ImagePositionPatient"), ("an empty position", dicom(slice_two(ImagePositionPatient="")), "ImagePositionPatient"),
        ("an empty spacing", dicom(PixelSpacing=""), "PixelSpacing"), ("a spacing of 0", dicom(PixelSpacing=[0, 0]), "positive PixelSpacing"),
        ("one slice inverted", dicom(slice_two(PhotometricInterpretation="MONOCHROME1")), "MONOCHROME1"), ("orientations of zeros", dicom(ImageOrientationPatient=[0] * 6), "orthogonal unit vectors"),
        ("a small tilt", dicom(ImageOrientationPatient=[1, 0, 0, 0, 0.999391, -0.034899]), "tilted gantry"), ("slices cut short", dicom(lambda f: cut(f / "003.dcm")), "003.dcm"),
        ("a series of copies under other names", dicom(lambda f: [shutil.copy(file, f / f"{file.stem}_copy") for file in sorted(f.iterdir())]), "several slices at one position"),
        ("two phases, one half a step further", dicom(half_a_step), "several slices|apart"), ("a UID that begins another", dicom(slice_two(SeriesInstanceUID="1.2.33")), "choose with --series"),
        ("two frames of reference", dicom(slice_two(FrameOfReferenceUID="1.2.10")), "FrameOfReferenceUID"),
        ("two spacings", dicom(slice_two(PixelSpacing=[1, 1])), "one PixelSpacing"), ("a displaced slice", dicom(slice_two(ImagePositionPatient=[0, 0, 0])), "apart|position"),
        ("two series", dicom(slice_two(SeriesInstanceUID="1.2.30")), "choose with --series"), ("no pixels", dicom(slice_two(PixelData=None)), "ITK can decode"),
        ("a slope of 0", dicom(RescaleSlope=0), "RescaleSlope other than 0"), ("a slope of NaN", dicom(RescaleSlope="NaN"), "RescaleSlope NaN"),
        ("a last slice without Rows", dicom(lambda f: rewrite(lambda d: d.__delitem__("Rows") if d.InstanceNumber == 6 else None)(f)), "005.dcm: expected Rows"),
        ("no Columns", dicom(Columns=None), "expected Columns"), ("two patients end to end", dicom(append(PatientID="B"), PatientID="A"), "PatientID"),
        ("two studies end to end", dicom(append(StudyInstanceUID="1.9")), "StudyInstanceUID"),
        ("frames fewer than their groups", change_frames(NumberOfFrames="5"), "as many frames"), ("frames in words", change_frames(NumberOfFrames="six"), "as many frames"),
        ("a gap in an enhanced object", enhanced([0, 1, 3, 4, 5]), "apart"), ("frames at one place", enhanced([0, 1, 1, 2, 3, 4]), "several slices"),
    ):  # fmt: skip
        yield Hostile(f"DICOM: {name}", "DICOM", make, words)
