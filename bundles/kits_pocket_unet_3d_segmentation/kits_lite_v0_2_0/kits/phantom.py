"""Synthetic abdominal CT in the KiTS19 layout, for demos and tests where no patient data is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

DEFAULT_SHAPE = (48, 256, 256)
DEFAULT_SPACING_MM = (3.0, 1.5, 1.5)
# All anatomy is in millimetres of a patient who fills this field of view; a smaller one shrinks the patient.
REFERENCE_THICKNESS_MM = 165.0
REFERENCE_WIDTH_MM = 400.0


def make_phantom(
    seed: int, shape: tuple[int, int, int] = DEFAULT_SHAPE, spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw one synthetic patient with two contrast-enhanced kidneys and one or two kidney tumours.

    Args:
        seed: chooses the patient; the same seed, shape and spacing give identical arrays.
        shape: slices, rows, columns; at least 8 x 32 x 32.
        spacing_mm: slice thickness, row height and column width in mm.

    Returns:
        Image in HU (int16) and label (uint8: 0 background, 1 kidney, 2 tumour), both (slices, rows, columns): slices
        run to the patient's feet, rows to the back, columns to the left (axcodes IPL).
    """
    _check_grid(seed, shape, spacing_mm)
    rng = np.random.default_rng(seed)
    # Reference mm per voxel. Both in-plane axes shrink alike: a wide field of view must not hold a flat patient.
    extent_mm = np.multiply(shape, spacing_mm)
    in_plane = REFERENCE_WIDTH_MM / extent_mm[1:].min()
    step = np.multiply(spacing_mm, (max(in_plane, REFERENCE_THICKNESS_MM / extent_mm[0]), in_plane, in_plane))
    centred = [((np.arange(n) - (n - 1) / 2) * mm).astype(np.float32) for n, mm in zip(shape, step, strict=True)]
    z, y, x = np.ix_(*centred)

    def ellipsoid(centre: tuple, semi_axes: tuple, power: int = 2) -> np.ndarray:
        """Field below one inside the shape; centre and semi-axes (z, y, x) are numbers or functions of z."""
        terms = (abs((c - m) / a) ** power for c, m, a in zip((z, y, x), centre, semi_axes, strict=True))
        return sum(term.astype(np.float32) for term in terms)

    wobble = _texture(rng, shape, step, grain=25.0)
    mottle = _texture(rng, shape, step, grain=9.0)

    # Body: subcutaneous fat, muscle wall, and a cavity of bowel-like soft tissue in fat.
    width, fat, waist = rng.uniform(160, 188), rng.uniform(8, 26), 1 - 0.0004 * z
    depth = width * rng.uniform(0.68, 0.78)
    body, muscle, cavity = (
        ellipsoid((0, 0, 0), (np.inf, (depth - layer) * waist, (width - layer) * waist), 3) < 1
        for layer in (0, fat, fat + 11)
    )
    image = np.where(body, np.float32(-100), np.float32(-1000))
    image[muscle] = 58
    image[cavity] = np.where(mottle + 0.5 * wobble > rng.uniform(-0.3, 0.3), 35, -95)[cavity]
    for _ in range(rng.integers(5, 10)):  # bowel loops hold gas, fluid, food or oral contrast
        centre = (rng.uniform(-60, 80), rng.uniform(-0.65, 0.05) * depth, rng.uniform(-0.6, 0.6) * width)
        loop = ellipsoid(centre, rng.uniform((15, 9, 12), (45, 18, 28))) + 0.3 * mottle
        image[(loop < 1) & cavity] = 45
        image[(loop < 0.6) & cavity] = rng.choice([-850, 20, 60, 260], p=[0.25, 0.3, 0.3, 0.15])

    # Liver on the right, a smaller spleen on the left, both thinning out downwards.
    organ_hu = rng.uniform(98, 120)
    liver = ellipsoid((-65, -0.12 * depth, -0.53 * width), (105 * rng.uniform(0.9, 1.1), 0.72 * depth, 0.5 * width))
    spleen = ellipsoid((-60, 0.3 * depth, 0.64 * width), (55 * rng.uniform(0.7, 1.2), 0.33 * depth, 0.16 * width))
    image[(liver + 0.2 * wobble < 1) & cavity] = organ_hu
    image[(spleen + 0.2 * wobble < 1) & cavity] = organ_hu + rng.uniform(0, 15)

    # The right kidney lies lower, under the liver; both lie in fat and lean with the upper pole towards the spine.
    spine = depth - fat - rng.uniform(50, 56)
    kidneys = []
    for side in (-1, 1):
        centre_x = side * (rng.uniform(0.38, 0.43) * width + 0.16 * z)
        centre = (-side * rng.uniform(0, 8), spine + rng.uniform(-10, 2) - 0.1 * z, centre_x)
        semi_axes = rng.uniform((46, 23, 26), (56, 28, 32))
        image[(ellipsoid(centre, semi_axes * rng.uniform(1.15, 1.4)) + 0.3 * wobble < 1) & cavity] = -98
        kidneys.append((side, centre, semi_axes))

    # Along the whole volume: muscles beside the spine, vessels in front of it, bone with discs of soft tissue.
    vessel_hu, bone_hu = rng.uniform(140, 260), rng.uniform(300, 380)
    disc = np.broadcast_to((z + rng.uniform(0, 38)) % 38 < 8, shape)
    psoas_x, psoas_depth, psoas_width = 31 + 0.08 * z, (17 + 0.1 * z).clip(4, 26), (12 + 0.1 * z).clip(4, 20)
    room = cavity.copy()  # for kidneys and tumours, which push against these structures instead of entering them
    for row, column, semi_row, semi_column, hu, disc_hu in (
        *((spine + 2, side * psoas_x, psoas_depth, psoas_width, 62, 62) for side in (-1, 1)),
        *((spine + 30, side * 33, 19, 31, 62, 62) for side in (-1, 1)),  # back muscles
        (spine - 32, 7, 9, 9, vessel_hu, vessel_hu),  # aorta, left of the midline
        (spine - 29, -17, 8, 12, 0.6 * vessel_hu, 0.6 * vessel_hu),  # vena cava, right
        (spine + 35, 0, 15, 4, bone_hu + 120, 50),  # spinous process
        (spine + 23, 0, 5, 34, bone_hu + 120, 50),  # transverse processes
        (spine, 0, 16, 22, bone_hu + 280, 95),  # vertebral body: dense shell, spongy inside
        (spine, 0, 14, 20, bone_hu, 95),
        (spine + 24, 0, 8, 9, 35, 35),  # spinal canal
    ):
        inside = (ellipsoid((0, row, column), (np.inf, semi_row, semi_column)) < 1) & muscle
        image[inside] = np.where(disc, disc_hu, hu)[inside]
        room &= ~inside

    # Kidneys: beans, open to the midline where sinus fat enters.
    label, kidney_hu = np.zeros(shape, dtype=np.uint8), rng.uniform(155, 195)
    for side, centre, semi_axes in kidneys:
        kidney = (ellipsoid(centre, semi_axes) + 0.12 * wobble < 1) & room
        hilum = (*centre[:2], centre[2] - side * 0.6 * semi_axes[2])
        sinus = (ellipsoid(hilum, semi_axes * (0.5, 0.4, 0.65)) + 0.3 * mottle < 1) & kidney
        image[kidney] = kidney_hu + 9 * mottle[kidney]
        image[sinus] = rng.uniform(-60, -10)
        label[kidney & ~sinus] = 1

    # Tumours grow outwards from a kidney voxel: so each one touches its kidney on any grid.
    for index in rng.permutation(2)[: 1 if rng.random() < 0.7 else 2]:
        side, centre, _ = kidneys[index]
        radius = rng.uniform(3, 30)
        # Keep clear of the first and last slice and of the side that faces the spine.
        reach = max(step[0] * (shape[0] / 2 - 1) - 1.7 * radius, 0.6 * step[0])
        lateral = (side * x > 0) & (side * (x - centre[2]) > -5)
        at = rng.choice(np.argwhere((label == 1) & (abs(z) <= reach) & lateral))
        root = np.array([axis[i] for axis, i in zip(centred, at, strict=True)])
        outwards = root - [np.ravel(c)[at[0] if np.ndim(c) else 0] for c in centre]
        tumour_centre = root + outwards / max(np.linalg.norm(outwards), 1e-6) * radius * rng.uniform(0, 0.55)
        distance = ellipsoid(tumour_centre, radius * rng.uniform(0.88, 1.12, 3))
        tumour = (distance + 0.12 * mottle.clip(-2, 2) < 1) & room
        necrosis = np.clip(1.2 - 2 * distance, 0, 1) * rng.uniform(0, 35) * (radius > 10)
        image[tumour] = (rng.uniform(65, 105) + 20 * mottle - necrosis)[tumour]
        label[tumour] = 2

    image = ndimage.gaussian_filter(image, (0, *np.minimum(0.9 / step[1:], 1.0)))  # partial volume, about 0.9 mm
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0, 0.5, 0.5))  # CT's is not white
    image += 5 * wobble * body + noise * (rng.uniform(12, 20) / noise.std())
    return image.round().clip(-1024, 3071).astype(np.int16), label


def write_phantom_case(
    folder: str | os.PathLike,
    case: str,
    seed: int,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM,
    dtype: type = np.int16,
) -> Path:
    """
    Write imaging.nii.gz as `dtype` (np.float64 in KiTS19) and segmentation.nii.gz as uint8; return their folder.

    Example:
        >>> folder = write_phantom_case("phantoms", "case_00000_synthetic", 0, (10, 48, 48), (12.0, 8.0, 8.0))
        >>> sorted(path.name for path in folder.iterdir())
        ['imaging.nii.gz', 'segmentation.nii.gz']
    """
    if "synthetic" not in case or Path(case).name != case:
        raise ValueError(f'case must be one folder name that contains "synthetic", got case={case!r}.')
    if dtype not in (np.int16, np.float64):
        raise ValueError(f"dtype must be np.int16 or np.float64, got dtype={dtype!r}.")
    image, label = make_phantom(seed, shape, spacing_mm)
    case_folder = Path(folder, case)
    case_folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("imaging", image.astype(dtype)), ("segmentation", label)):
        _write_nifti(array, spacing_mm, case_folder / f"{name}.nii.gz")
    return case_folder


def write_phantom_dataset(
    folder: str | os.PathLike,
    count: int,
    seed: int = 0,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM,
    dtype: type = np.int16,
) -> list[Path]:
    """Write `count` phantoms, case_00000_synthetic onwards, and return their folders in that order."""
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"count must be a positive integer, got count={count!r}.")
    _check_grid(seed, shape, spacing_mm)
    # Not seed + i: sets of neighbouring seeds would share patients, and a validation set could repeat the training set.
    seeds = np.random.SeedSequence(seed).generate_state(count).tolist()
    names = [f"case_{index:05d}_synthetic" for index in range(count)]
    return [write_phantom_case(folder, *pair, shape, spacing_mm, dtype) for pair in zip(names, seeds, strict=True)]


def _texture(rng: np.random.Generator, shape: tuple, step: np.ndarray, grain: float) -> np.ndarray:
    """Smooth random field of zero mean and unit deviation, with grains of `grain` reference mm."""
    # Smoothed on a coarse grid and enlarged: a wide filter at full resolution would take most of the time.
    coarse_shape = np.maximum(np.ceil(np.multiply(shape, step) / (0.6 * grain)).astype(int), 3)
    field = ndimage.gaussian_filter(rng.standard_normal(coarse_shape, dtype=np.float32), 0.8)
    field = ndimage.zoom(field, np.divide(shape, coarse_shape), order=1)
    return (field - field.mean()) / field.std()


def _write_nifti(array: np.ndarray, spacing_mm: tuple, path: Path) -> None:
    """Write (slices, rows, columns) with KiTS19's affine, axcodes IPL; the file appears whole or not at all."""
    nifti = nib.Nifti1Image(array, np.diag([*np.negative(spacing_mm), 1.0])[[2, 1, 0, 3]])  # z, y, x to world x, y, z
    nifti.header["descrip"] = b"synthetic phantom, not a patient"
    nifti.header.set_xyzt_units("mm")
    partial = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        nib.save(nifti, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _check_grid(seed: int, shape: tuple, spacing_mm: tuple) -> None:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got seed={seed!r}.")
    integers = len(shape) == 3 and all(isinstance(n, (int, np.integer)) for n in shape)
    if not integers or np.less(shape, (8, 32, 32)).any():
        raise ValueError(f"shape must be three integers, at least 8 slices of 32 x 32 pixels, got shape={shape!r}.")
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive numbers, got spacing_mm={spacing_mm!r}.")
