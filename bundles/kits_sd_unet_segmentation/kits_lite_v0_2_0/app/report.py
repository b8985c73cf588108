"""
A segmented case as one HTML page that opens anywhere, without a network, and an index of such pages.

Slices are pictures inside the page; contours are SVG paths over them, so that a reader can switch them off.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from scipy import ndimage

from ..files import NAMES, write_whole
from ..kits.metrics import measure_case
from ..kits.overlay import COLORS, LINE_STYLES, turn_axial
from ..kits.preprocessing import HU_WINDOW
from ..kits.scan_warnings import ScanWarning
from ..kits.volumes import LABELS

KEY_SLICES = 6
# bytes of pictures and contours; 8 MB in all leave the rest for text
BROWSER_BYTES, KEY_SLICES_BYTES, VIEW_BYTES = 7_200_000, 450_000, 80_000
# longer edge in pixels at most, WebP quality
QUALITIES = ((512, 80), (512, 65), (512, 50), (512, 35), (512, 20), (384, 30), (320, 30), (256, 30), (192, 10))
WORDS = {"tumor": "tumour", "dice": "Dice", "ml": "(ml)", "mm": "(mm)"}


def write_report(
    path: str | os.PathLike,
    case: str,
    image: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, ...],
    provenance: Mapping[str, str],
    label: np.ndarray | None = None,
    scores: Mapping[str, float] | None = None,
    hu_window: Sequence[float] = HU_WINDOW,
    findings: Mapping[str, object] | None = None,
    found: Sequence[ScanWarning] = (),
    doubt: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """
    Write one HTML page: key slices, a browser of all slices with foreground, volumes, scores and provenance.

    The whole scan is shown too, projected from the front and from the side, where findings far from the kidneys are
    seen at once, and the coronal and sagittal plane through the largest lesion, or through the findings.

    The page stays below 8 MB: every slice may take an equal share of what is left of the budget, and where its picture
    takes more, this slice and all after it go one step down `QUALITIES`, from 512 pixels at WebP quality 80 to 192
    at 10. A 512 x 512 CT with 350 such slices ends around quality 50. Contours are exact unless they are so ragged that
    they take a third of the share; then they follow every second voxel, or fewer. Slices are drawn one by one.

    Args:
        case: name of the case; one that contains "synthetic" gets a banner.
        image: uint8 HU window (X, Y, Z) in RAS, see `read_ct`.
        prediction: label map on the image's grid: 0 background, 1 kidney, 2 tumour.
        spacing_mm: voxel size along X, Y, Z.
        provenance: what made the prediction, from what and when, printed in this order.
        label: official label map on the same grid.
        scores: scores of the prediction, see `score_case`.
        hu_window: what 0 and 255 of the image stand for.
        findings, found, doubt: of the prediction, see `describe_findings`, `find_scan_warnings` and `judge`.

    Raises:
        ValueError: when the image is not uint8 and 3-D, or a label map is of another shape or holds other labels.
    """
    if image.ndim != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"image must be 3-D and uint8, got image.shape={image.shape} of {image.dtype}.")
    label_maps = {"prediction": prediction} | ({} if label is None else {"label": label})
    for name, label_map in label_maps.items():
        if label_map.shape != image.shape:
            raise ValueError(f"{name} must have the image's shape {image.shape}, got {name}.shape={label_map.shape}.")
        if label_map.min() < 0 or label_map.max() > max(LABELS.values()):
            raise ValueError(f"{name} must hold labels 0, 1 and 2, got {label_map.min()} to {label_map.max()}.")
    slices = [[m[..., z] for m in label_maps.values()] for z in range(image.shape[2])]
    kidney, tumor = (np.array([np.count_nonzero(np.equal(s, LABELS[name])) for s in slices]) for name in COLORS)
    notes, foreground = _choose_key_slices(kidney, tumor), np.flatnonzero(kidney + tumor).tolist()
    shown = foreground or [*notes]
    context = {
        "case": case,
        "shape": image.shape,
        "spacing_mm": spacing_mm,
        "window_hu": [f"{value:g}" for value in hu_window],
        "sources": [name for name in LINE_STYLES if name in label_maps],  # the last is drawn on top
        "foreground": foreground,
        "shown": shown,
        "notes": notes,
        "key_slices": {s["index"]: s for s in _draw_slices(image, label_maps, sorted(notes), KEY_SLICES_BYTES)},
        "slices": _draw_slices(image, label_maps, shown, BROWSER_BYTES),
        "views": [*_draw_views(image, label_maps, spacing_mm)],
        "findings": findings,
        "found": found,
        "doubt": doubt or {},
        "measures": {name: measure_case(label_map, spacing_mm) for name, label_map in label_maps.items()},
        "scores": scores or {},
        "provenance": provenance,
    }
    _render(path, "report", context)


def write_index(path: str | os.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """
    Write an HTML page with one line a case.

    Args:
        rows: "case", its name, "report", the path of its page relative to the index, and any further columns, whose
            names end in their unit where they have one, like "tumor_ml"; all rows have the same columns.

    Raises:
        ValueError: when there are no rows, or their columns differ or lack "case" or "report".
    """
    if not rows or any(row.keys() != rows[0].keys() or not row.keys() >= {"case", "report"} for row in rows):
        raise ValueError(f"rows must all have the same columns, case and report too, got {[*map(list, rows)]}.")
    _render(path, "index", {"rows": rows})


def _render(path: str | os.PathLike, page: str, context: Mapping[str, object]) -> None:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"pretty": _prettify, "number": _format_number}
    template = environment.get_template("report.html.j2")
    with write_whole(path) as temporary:
        stream = template.stream(page=page, colors=COLORS, line_styles=LINE_STYLES, **context)
        stream.dump(str(temporary), **NAMES)


def _prettify(name: str) -> str:
    """A key as words: "tumor_ml" as "Tumour (ml)"."""
    text = " ".join(WORDS.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def _format_number(value: object, name: str) -> str:
    """A measure with one decimal, another fraction, like Dice, with three; all else as it is."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{value:.1f}" if name.endswith(("_ml", "_mm")) else f"{value:.3f}"
    return str(value)


def _choose_key_slices(kidney: np.ndarray, tumor: np.ndarray) -> dict[int, str]:
    """Indices and notes of `KEY_SLICES` slices or fewer, the most telling first, from the voxels in every slice."""
    foreground, with_tumor = np.flatnonzero(kidney + tumor), np.flatnonzero(tumor)
    wanted = []
    if with_tumor.size:
        low, high = with_tumor[[0, -1]]
        wanted += [(tumor.argmax(), "most tumour"), (low, "lowest tumour"), (high, "highest tumour")]
    if kidney.any():
        wanted += [(kidney.argmax(), "most kidney")]
    for chunk in [*np.array_split(with_tumor, 2), *np.array_split(foreground, KEY_SLICES)]:
        wanted += [(index, "") for index in chunk[chunk.size // 2 :][:1]]  # none of an empty chunk
    notes = {}
    for index, note in wanted or [(kidney.size // 2, "")]:
        notes.setdefault(int(index), note)
    return dict([*notes.items()][:KEY_SLICES])


def _draw_slices(
    image: np.ndarray, label_maps: Mapping[str, np.ndarray], indices: Sequence[int], budget_bytes: float
) -> Iterator[dict[str, object]]:
    """Yield picture (base64) and contours of slices, within a budget unless the last of `QUALITIES` exceeds it."""
    quality = 0  # never goes up again, so that a slice is rarely encoded twice
    for left, index in zip(range(len(indices), 0, -1), indices):
        share, coarseness = budget_bytes / left, 1
        axials = {source: turn_axial(label_map[..., index]) for source, label_map in label_maps.items()}
        while len(str(contours := _trace_all(axials, coarseness))) > share / 3 and coarseness < 16:
            coarseness *= 2
        share -= len(str(contours))
        pixels = turn_axial(image[..., index])
        while len(picture := _encode(pixels, *QUALITIES[quality])) > share and quality + 1 < len(QUALITIES):
            quality += 1
        budget_bytes -= len(picture) + len(str(contours))
        yield {"index": index, "image": picture, "contours": contours}


def _draw_views(
    image: np.ndarray, label_maps: Mapping[str, np.ndarray], spacing_mm: Sequence[float]
) -> Iterator[dict[str, object]]:
    """Yield coronal and sagittal pictures, each with its contours, size in pixels and ratio of width to height."""
    planes = [("Whole scan from the front", 1, None), ("Whole scan from the left", 0, None)]
    place, what = _find_place(label_maps["prediction"])
    if place is not None:
        planes += [(f"Coronal through {what}", 1, place[1]), (f"Sagittal through {what}", 0, place[0])]
    for title, axis, index in planes:
        # (X or Y, Z) turned like an axial slice: head up, the patient's right or front on the left
        pixels = image.mean(axis=axis).astype(np.uint8) if index is None else image.take(index, axis=axis)
        masks = {
            source: turn_axial(label_map.max(axis=axis) if index is None else label_map.take(index, axis=axis))
            for source, label_map in label_maps.items()
        }
        coarseness = 1
        while len(str(contours := _trace_all(masks, coarseness))) > VIEW_BYTES / 2 and coarseness < 16:
            coarseness *= 2
        height, width = next(iter(masks.values())).shape
        yield {
            "title": title,
            "image": _encode(turn_axial(pixels), *QUALITIES[2]),
            "contours": contours,
            "width": width,
            "height": height,
            "aspect": width * spacing_mm[1 - axis] / (height * spacing_mm[2]),
            "ends": ("R", "L") if axis == 1 else ("A", "P"),
        }


def _find_place(label_map: np.ndarray) -> tuple[tuple[int, ...] | None, str]:
    """Centre of the largest lesion, else of all kidney tissue, in voxels, and what it is; None where neither is."""
    for name, what in (("tumor", "the largest lesion"), ("kidney", "the kidneys")):
        where = (ndimage.find_objects((label_map == LABELS[name]).view(np.uint8)) or [None])[0]
        if where is None:
            continue
        mask = label_map[where] == LABELS[name]
        if name == "tumor":
            pieces, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
            mask = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
        middle = np.argwhere(mask).mean(axis=0).round().astype(int)
        return tuple(int(at + axis.start) for at, axis in zip(middle, where)), what
    return None, ""


def _encode(pixels: np.ndarray, longer_edge: int, quality: int) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((longer_edge, longer_edge), Image.Resampling.LANCZOS)  # never enlarges
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=2)  # method 4, the default, saves 4 % in twice the time
    return base64.b64encode(buffer.getvalue()).decode()


def _trace_all(axials: Mapping[str, np.ndarray], coarseness: int) -> dict[str, dict[str, str]]:
    """Contours by source and by name; the kidney's goes around its tumour, as the official kidney class does."""
    return {
        source: {name: _trace(axial[::coarseness, ::coarseness] >= LABELS[name], coarseness) for name in COLORS}
        for source, axial in axials.items()
    }


def _trace(mask: np.ndarray, voxels: int) -> str:
    """SVG path around a mask whose pixels lie `voxels` apart, in half voxels from the picture's upper left corner."""
    if not mask.any():
        return ""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    path = ""
    for line in contour_generator(z=np.pad(box, 1).astype(np.float32)).lines(0.5):  # padding closes contours
        pixels = line[:-1] - 1 + (columns[0], rows[0])
        points = (2 * voxels * pixels + 1).astype(int)  # the first pixel's centre lies at (1, 1)
        moves = np.diff(points, axis=0, append=points[:1])
        corners = points[(moves != np.roll(moves, 1, axis=0)).any(axis=1)]
        path += "M{} {}l".format(*corners[0]) + " ".join(map(str, np.diff(corners, axis=0).ravel())) + "z"
    return path.replace(" -", "-")
