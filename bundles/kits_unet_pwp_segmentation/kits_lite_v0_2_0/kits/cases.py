"""Cases: find them, name them, check them, split them."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import PathLike, check_apart, check_writable, write_whole
from .dicom_series import list_series
from .geometry import HU_WINDOW
from .itk_images import DICOM_SUFFIXES
from .volumes import (
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    check_same_grid,
    describe_range_problem,
    open_volume,
    read_ct,
    read_label,
)

IMAGE_STEM = "imaging"
# KiTS21 has no label but three that were made of several annotators' by vote; its own is that of the majority
LABEL_STEMS = ("segmentation", "aggregated_maj_seg", "aggregated_and_seg", "aggregated_or_seg")
HASH_HINT = "; monai.bundle makes :: of a # in a path, and cannot take it"
# of images that are not read, and are named where they lie beside others
UNREAD_SUFFIXES = (".dcm", ".ima", ".img", ".img.gz", ".hdr.gz", ".nii.bz2", ".nii.xz", ".nii.zst")
UNREAD_SUFFIXES += (".mgh", ".mgz", ".mnc", ".nrrd.gz", ".mha.gz", ".nii.zip", ".gipl", ".gipl.gz", ".vtk", ".v")
UNREAD_SUFFIXES += (".npz", ".tif", ".tiff")
NAMED = 5  # of many cases in one line

logger = logging.getLogger(__name__)


def find_cases(folder: PathLike | Sequence[PathLike], labelled: bool = False) -> list[dict[str, str]]:
    """
    Find the cases of a folder, in the order of their names; or of several folders, one folder after the other.

    A case that several folders hold is one patient: whoever splits cases by their names has all of a patient's files on
    one side. That two folders hold the same image is refused.

    Known are the layout of KiTS19, KiTS21 and KiTS23, `case_*/imaging.nii.gz` with `segmentation.nii.gz` or
    `aggregated_MAJ_seg.nii.gz`, directly in the folder or in its `data/` or `dataset/`; one such case's folder; a plain
    folder of images, see `IMAGE_SUFFIXES`, in capitals too; the folder of a DICOM series; and a single image file.
    Warns of files that look like images and are not taken.

    Args:
        labelled: every case must come with its image and label.

    Returns:
        One dictionary a case: "case", its name; "image", a path, whether the file is there or not; "label", a path,
        where there is one.

    Raises:
        InputError: when the folder is missing or holds no case, two images share a name, or one is asked for that is
            missing; all missing files are named, one line each.

    Example:
        >>> find_cases("scan.nii.gz")
        [{'case': 'scan', 'image': 'scan.nii.gz'}]
        >>> len(find_cases("kits"))
        4
    """
    if isinstance(folder, (list, tuple)):
        return _find_in_folders(folder, labelled)
    folder = Path(str(folder))  # a folder named 2023 comes from the command line as a number
    if folder.is_file() and folder.name.lower().endswith((*IMAGE_SUFFIXES, ".img", *DICOM_SUFFIXES)):
        return [{"case": name_case(folder), "image": str(folder)}]
    if folder.is_file():
        raise InputError(f"{folder}: expected an image in {', '.join(IMAGE_SUFFIXES)} or .dcm, found another file.")
    if not folder.is_dir():
        hint = HASH_HINT if "::" in str(folder) else ""
        raise InputError(f"{folder}: expected a folder of cases, found none{hint}.")
    try:
        images = sorted(f for f in folder.iterdir() if f.name.lower().endswith(IMAGE_SUFFIXES) and f.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to read, found: {error.strerror or error}.") from error
    root, case_folders = find_case_folders(folder)
    if case_folders:
        cases, others = [read_case_folder(f) for f in case_folders], images
    elif "image" in (own := read_case_folder(folder.resolve())):
        root, cases = folder.resolve().parent, [own]
        others = [image for image in images if name_case(image.resolve()) != own["case"]]
    else:
        cases = sorted(({"case": name_case(f), "image": str(f)} for f in images), key=lambda case: case["case"])
        others = []
    if not cases and list_series(folder):
        return [{"case": folder.resolve().name, "image": str(folder)}]
    if not cases:
        raise InputError(f"{folder}: expected case_*/{IMAGE_STEM}.nii.gz, images or a DICOM series, found none.")
    twice = [name for name, times in Counter(c["case"] for c in cases).items() if times > 1]
    if twice:
        raise InputError(f"{folder}: expected one image a case, found several named {', '.join(twice)}.")
    wanted = ("image", "label") if labelled else ()
    problems = [
        f"{root / case['case']}: expected {key}, found none." for case in cases for key in wanted if key not in case
    ]
    if problems:
        raise InputError("\n".join(problems))
    _warn_of_others(folder, others)
    # what is not there is told when it is read, and holds up no other case
    return [{"image": str(root / case["case"] / f"{IMAGE_STEM}.nii.gz")} | case for case in cases]


def find_case_folders(folder: Path) -> tuple[Path, list[Path]]:
    """The folders `case_*` of a KiTS folder, and which folder they are in: itself, its `data/` or its `dataset/`."""
    for root in (folder, folder / "data", folder / "dataset"):
        # a link that leads nowhere is a case that is missing
        gone = {f for f in root.glob("case_*") if not f.exists() and not f.name.lower().endswith(IMAGE_SUFFIXES)}
        case_folders = sorted(f for f in root.glob("case_*") if f.is_dir() or f in gone)
        if case_folders:
            return root, case_folders
    return folder, []


def read_case_folder(folder: Path) -> dict[str, str]:
    """The case of a folder: its name and, where they are there, its image and its label."""
    case: dict[str, str] = {"case": folder.name}
    try:
        files = {file.name.lower(): file for file in folder.iterdir()}
    except OSError:  # told of its image, when that is read
        return case
    for key, stems in (("image", (IMAGE_STEM,)), ("label", LABEL_STEMS)):
        names = [f"{stem}{suffix}" for stem in stems for suffix in NIFTI_SUFFIXES]
        found = [str(files[name]) for name in names if name in files]
        if found:
            case[key] = found[0]
    return case


def _warn_of_others(folder: Path, others: Sequence[Path]) -> None:
    """Warn of images and series of a folder that are not taken, and of files in forms that are not read."""
    series = list_series(folder)
    for uid, files in series.items():
        warnings.warn(f"{folder}: DICOM series {uid} of {len(files)} files is passed over.", stacklevel=3)
    headers = {file.stem for file in folder.iterdir() if file.suffix.lower() == ".hdr"}
    unread = [
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(UNREAD_SUFFIXES)
        and not file.name.startswith(".")
        and not any(file in files for files in series.values())
        and not (file.suffix.lower() == ".img" and file.stem in headers)
    ]
    for file in sorted([*others, *unread]):
        warnings.warn(f"{file}: looks like an image, and is passed over.", stacklevel=3)


def _find_in_folders(folders: Sequence[PathLike], labelled: bool) -> list[dict[str, str]]:
    if not folders:
        raise InputError("dataset_dir: expected a folder or several, found an empty list.")
    cases = [case for folder in folders for case in find_cases(folder, labelled)]
    twice = [path for path, times in Counter(str(Path(c["image"]).resolve()) for c in cases).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]}: expected every image in one of the folders, found it in several.")
    shared = [name for name, times in Counter(case["case"] for case in cases).items() if times > 1]
    if shared:
        logger.info(
            f"{len(shared)} case numbers stand in several folders with different images, {shared[0]} for one;"
            " each counts as one patient."
        )
    return cases


def check_output(
    output_dir: PathLike, source: PathLike | Sequence[PathLike], cases: Sequence[Mapping[str, str]]
) -> None:
    """
    Refuse an output folder that the cases of a source lie in, or that takes no files, before anything is computed.

    Args:
        source: what `find_cases` found them in.

    Raises:
        InputError: naming the folder, see `check_apart` and `check_writable`.
    """
    if "::" in str(output_dir):
        raise InputError(f"{output_dir}: expected a path without ::, found one{HASH_HINT}.")
    files = [case[key] for case in cases for key in ("image", "label") if key in case]
    sources = source if isinstance(source, (list, tuple)) else [source]
    check_apart(Path(str(output_dir)), (Path(str(path)) for path in (*sources, *files)))
    check_writable(Path(str(output_dir)))


def name_case(image: PathLike) -> str:
    """The name of a case from the path of its image: the folder's in a KiTS layout, else the file's without suffix."""
    image = Path(image).absolute()
    suffixes = (*IMAGE_SUFFIXES, ".img", *DICOM_SUFFIXES)
    suffix = next((suffix for suffix in suffixes if image.name.lower().endswith(suffix)), "")
    stem = image.name[: len(image.name) - len(suffix)]
    return image.parent.name if stem.lower() in (IMAGE_STEM, *LABEL_STEMS) else stem


def read_case(
    case: Mapping[str, str], hu_window: Sequence[float] = HU_WINDOW
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read image and label of one case in full, checking both.

    Returns:
        image uint8 (windowed, see `read_ct`), label uint8, both in file order, and the affine (4, 4).

    Raises:
        InputError: one line with the first thing that is wrong: a file missing, damaged or not 3-D, different shapes or
            affines, unknown labels, or values that do not look like Hounsfield units.
    """
    if not case.get("label"):
        raise InputError(f"{case['image']}: expected a label beside the image, found none.")
    image, label = open_volume(case["image"]), open_volume(case["label"])
    check_same_grid(image, label, "image")
    return read_image(case, hu_window), read_label(label), image.affine


def read_image(case: Mapping[str, str], hu_window: Sequence[float] = HU_WINDOW) -> np.ndarray:
    """
    Read the image of one case in full, checking it.

    Returns:
        uint8 (windowed, see `read_ct`), in file order.

    Raises:
        InputError: when the file is missing, damaged, not 3-D, or its values do not look like Hounsfield units.
    """
    windowed, values = read_ct(open_volume(case["image"]), hu_window)
    problem = describe_range_problem(*values)
    if problem:
        raise InputError(f"{case['image']}: {problem}.")
    return windowed


def split_cases(
    cases: Sequence[Mapping[str, str]], validation_fraction: float = 0.2, seed: int = 0
) -> dict[str, list[str]]:
    """
    Split case names at random, always the same way for the same names and seed.

    Returns:
        {"training": [names], "validation": [names]}, at least one name on either side.

    Raises:
        InputError: when there are fewer than two cases or the fraction is not between 0 and 1.
    """
    names = sorted({case["case"] for case in cases})
    if len(names) < 2:
        raise InputError(f"dataset_dir: expected two or more cases to split, found {len(names)}.")
    if not isinstance(validation_fraction, (int, float)) or not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction: expected a number between 0 and 1, found {validation_fraction}.")
    held_out = min(max(1, round(len(names) * validation_fraction)), len(names) - 1)
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(names)]
    return {"training": sorted(shuffled[held_out:]), "validation": sorted(shuffled[:held_out])}


def read_split(path: PathLike) -> dict[str, list[str]]:
    """
    Read a split file: JSON with the case names under "training" and "validation".

    Raises:
        InputError: when the file is missing or not of that form, a side is empty, or a case stands on both sides.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a split file, found none; train first, or name one with --split_file.")
    try:
        split = json.loads(path.read_text())
        sides = {side: split[side] for side in ("training", "validation")}
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"none of {error}" if isinstance(error, KeyError) else error
        raise InputError(f'{path}: expected JSON with lists "training" and "validation", found {wrong}.') from error
    for side, names in sides.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f'{path}: expected JSON with a list of case names "{side}", found {names!r}.')
    both = sorted(set(sides["training"]) & set(sides["validation"]))
    if both:
        raise InputError(f"{path}: expected every case on one side, found on both: {', '.join(both)}.")
    if not sides["training"] or not sides["validation"]:
        raise InputError(f"{path}: expected cases on both sides, found an empty one.")
    return sides


def write_split(split: Mapping[str, Sequence[str]], path: PathLike) -> None:
    """Write a split file in one piece."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(split, indent=1) + "\n")


def make_split(
    dataset_dir: PathLike | Sequence[PathLike],
    record: PathLike,
    split_file: PathLike | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> dict[str, list[dict[str, str]]]:
    """
    The training and validation cases of folders, by a split file or at random, and a record of the split.

    Args:
        record: split file that is written, for the evaluation to read.
        split_file: split to take; None splits at random, see `split_cases`.
    """
    # a split file may leave out the cases without labels that KiTS19 holds
    cases = find_cases(dataset_dir, labelled=not split_file)
    split = read_split(split_file) if split_file else split_cases(cases, validation_fraction, seed)
    selected = {side: select_labelled(cases, names) for side, names in split.items()}
    write_split(split, record)
    return selected


def read_subset(
    dataset_dir: PathLike | Sequence[PathLike], split_file: PathLike, subset: str = "validation"
) -> list[dict[str, str]]:
    """The cases of a folder on one side of a split file, "training" or "validation", or "all" without looking at it."""
    if subset not in ("training", "validation", "all"):
        raise InputError(f"subset: expected training, validation or all, found {subset}.")
    cases = find_cases(dataset_dir, labelled=subset == "all")
    return cases if subset == "all" else select_labelled(cases, read_split(split_file)[subset])


def select_labelled(cases: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, str]]:
    """
    The cases of some names, in that order; of a name that several folders hold, all.

    Raises:
        InputError: naming every case that is not there, or has no label.
    """
    by_name: dict[str, list[dict[str, str]]] = {}
    for case in cases:
        by_name.setdefault(case["case"], []).append(dict(case))
    missing = [name for name in names if name not in by_name]
    if missing:
        others = f" and {len(missing) - NAMED} others" if len(missing) > NAMED else ""
        named = ", ".join(missing[:NAMED])
        raise InputError(f"dataset_dir: expected the cases of the split, found none named {named}{others}.")
    selected = [case for name in names for case in by_name[name]]
    problems = [f"{c['image']}: expected a label beside it, found none." for c in selected if "label" not in c]
    if problems:
        raise InputError("\n".join(problems))
    return selected
