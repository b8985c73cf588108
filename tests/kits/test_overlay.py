"""Pictures: the right slice, the contours where the masks are, seen from the feet."""

from __future__ import annotations

import functools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from common.kits.overlay import COLORS, choose_slice, draw_overlay

SHAPE = (40, 30, 4)


def make_label_map(shape=SHAPE, kidney=None, tumour=None) -> np.ndarray:
    """Zeros with boxes of 1 and 2, given as slices."""
    label_map = np.zeros(shape, np.uint8)
    for value, box in ((1, kidney), (2, tumour)):
        if box is not None:
            label_map[box] = value
    return label_map


def draw(path, image, prediction, label=None, spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    draw_overlay(path, "case_00000", image, prediction, label, spacing_mm)
    return matplotlib.image.imread(path)[..., :3]


def find_color(picture: np.ndarray, name: str) -> np.ndarray:
    return (abs(picture - to_rgb(COLORS[name])) < 0.02).all(axis=2)


@pytest.fixture(scope="module")
def contours(tmp_path_factory):
    """Draw over a black image; find each colour in it, {name: (rows, columns) from 0 to 1}, and its aspect."""
    folder = tmp_path_factory.mktemp("contours")

    @functools.cache
    def find_image(shape, spacing_mm, labelled) -> tuple[slice, slice]:
        """Where the picture of a black image is not that of a white one."""
        nothing = np.zeros(shape, np.uint8)
        rest = (nothing, nothing if labelled else None, spacing_mm)
        black, white = (draw(folder / "plain.png", np.full(shape, gray, np.uint8), *rest) for gray in (0, 255))
        rows, columns = np.nonzero((white - black).min(axis=2) > 0.9)
        return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)

    def draw_and_find(prediction, label=None, spacing_mm=(1.0, 1.0, 1.0)):
        picture = draw(folder / "case.png", np.zeros_like(prediction), prediction, label, spacing_mm)
        inside = picture[find_image(prediction.shape, spacing_mm, label is not None)]
        height, width = inside.shape[:2]
        found = {name: (np.argwhere(find_color(inside, name)) + 0.5) / (height, width) for name in COLORS}
        return found, height / width

    return draw_and_find


def expected_box(box, shape) -> tuple[float, float, float, float]:
    """Top, bottom, left, right of a box (X, Y) in RAS: anterior up, the patient's right on the left."""
    (x0, x1), (y0, y1) = ((s.start, s.stop) for s in box[:2])
    return 1 - y1 / shape[1], 1 - y0 / shape[1], 1 - x1 / shape[0], 1 - x0 / shape[0]


@pytest.mark.parametrize(
    "kidney, tumour, expected",
    [
        ([1, 2, 9, 0], [0, 3, 1, 3], 1),  # most tumour, the first of equals
        ([1, 2, 9, 0], [0, 0, 0, 1], 3),
        ([1, 2, 9, 0], [0, 0, 0, 0], 2),  # no tumour: most kidney
        ([0, 0, 0, 0], [0, 0, 0, 0], 2),  # neither: the middle
        ([0], [0], 0),
    ],
)
def test_the_slice_with_most_tumour_is_chosen_else_most_kidney_else_the_middle(kidney, tumour, expected):
    label_map = np.zeros((6, 5, len(kidney)), np.uint8)
    for z, (kidneys, tumours) in enumerate(zip(kidney, tumour)):
        label_map[..., z].flat[:kidneys] = 1
        label_map[..., z].flat[20 : 20 + tumours] = 2
    index = choose_slice(label_map)
    assert (type(index), index) == (int, expected)


KIDNEY = (slice(25, 35), slice(18, 26), slice(1, 3))  # on the patient's right, in front
TUMOUR = (slice(5, 12), slice(4, 10), slice(1, 3))  # on the left, behind


def test_contours_lie_around_the_masks_as_seen_from_the_feet(contours):
    found, aspect = contours(make_label_map(kidney=KIDNEY, tumour=TUMOUR))
    assert aspect == pytest.approx(SHAPE[1] / SHAPE[0], rel=0.02)
    tumour = found["tumor"]
    bounds = (*tumour.min(axis=0), *tumour.max(axis=0))
    assert bounds == pytest.approx(np.array(expected_box(TUMOUR, SHAPE))[[0, 2, 1, 3]], abs=0.03)
    # the kidney's contour also goes around the tumour, where the tumour's covers it
    kidney = found["kidney"][found["kidney"][:, 0] < 0.5]
    bounds = (*kidney.min(axis=0), *kidney.max(axis=0))
    assert bounds == pytest.approx(np.array(expected_box(KIDNEY, SHAPE))[[0, 2, 1, 3]], abs=0.03)
    # the check: a box elsewhere would be found elsewhere
    assert bounds != pytest.approx(np.array(expected_box(TUMOUR, SHAPE))[[0, 2, 1, 3]], abs=0.1)


def test_the_contour_of_the_kidney_goes_around_its_tumour(contours):
    kidney = (slice(20, 30), slice(5, 25), slice(0, 4))
    tumour = (slice(10, 20), slice(5, 25), slice(0, 4))
    found, _ = contours(make_label_map(kidney=kidney, tumour=tumour))  # dashed: what lies below shows in the gaps

    def count_along(name, x):  # pixels on the line between two columns of voxels, clear of its ends
        rows, columns = found[name].T
        return np.count_nonzero((abs(columns - (1 - x / SHAPE[0])) < 0.02) & (abs(rows - 0.5) < 0.25))

    assert count_along("tumor", 10) > 0
    assert count_along("tumor", 20) > 0
    assert count_along("kidney", 30) > 0
    assert count_along("kidney", 20) == 0  # where they touch


@pytest.mark.parametrize("source", ["prediction", "label"])
@pytest.mark.parametrize("kidney, tumour", [(KIDNEY, None), (KIDNEY, TUMOUR), (None, None)])
def test_colours_appear_only_for_what_is_there(contours, source, kidney, tumour):
    drawn, empty = make_label_map(kidney=kidney, tumour=tumour), make_label_map()
    found, _ = contours(drawn) if source == "prediction" else contours(empty, drawn)
    for name, box in (("kidney", kidney), ("tumor", tumour)):
        count = len(found[name])
        assert count == 0 if box is None else count > 100


def test_the_label_is_solid_and_the_prediction_dashed_and_both_are_drawn(contours):
    empty, kidney = make_label_map(), make_label_map(kidney=KIDNEY)
    elsewhere = make_label_map(kidney=(slice(5, 15), slice(4, 12), slice(1, 3)))
    dashed = len(contours(kidney, empty)[0]["kidney"])
    solid = len(contours(empty, kidney)[0]["kidney"])
    both = len(contours(elsewhere, kidney)[0]["kidney"])
    assert 0.4 * solid < dashed < 0.9 * solid
    assert both > 1.3 * solid


def test_the_slice_of_the_label_is_shown_where_there_is_one(contours):
    above = make_label_map(tumour=(*TUMOUR[:2], slice(3, 4)))
    below = make_label_map(tumour=(*KIDNEY[:2], slice(0, 1)))
    found, _ = contours(prediction=above, label=below)
    assert found["tumor"][:, 0].max() < 0.5  # the label's box alone, in the upper half
    found, _ = contours(prediction=above)
    assert found["tumor"][:, 0].min() > 0.5


@pytest.mark.parametrize(
    "shape, spacing_mm", [((40, 30, 2), (0.8, 1.6, 5)), ((30, 40, 2), (2, 1, 1)), ((64, 16, 3), (1, 1, 3))]
)
def test_slices_are_as_wide_and_high_as_in_the_patient(contours, shape, spacing_mm):
    box = (slice(2, 9), slice(4, 12), slice(0, 2))
    found, aspect = contours(make_label_map(shape, kidney=box), spacing_mm=spacing_mm)
    assert aspect == pytest.approx(shape[1] * spacing_mm[1] / (shape[0] * spacing_mm[0]), rel=0.02)
    bounds = (*found["kidney"].min(axis=0), *found["kidney"].max(axis=0))
    assert bounds == pytest.approx(np.array(expected_box(box, shape))[[0, 2, 1, 3]], abs=0.04)


def test_the_image_is_shown_upright_within_the_window(tmp_path):
    image = np.zeros((20, 20, 1), np.uint8)
    image[15:, 15:] = 255  # the patient's right, in front
    image[:5, :5] = 128  # left, behind
    picture = draw(tmp_path / "case.png", image, np.zeros_like(image))
    gray = np.ptp(picture, axis=2) < 0.01
    black, half = ((abs(picture[..., 0] - value) < 0.01) & gray for value in (0, 128 / 255))
    top, bottom = np.flatnonzero(black.sum(axis=1) > 100)[[0, -1]]
    left, right = np.flatnonzero(black.sum(axis=0) > 100)[[0, -1]]
    assert picture[top + 20, left + 20].tolist() == [1, 1, 1]
    assert half[bottom - 20, right - 20]
    assert black[top + 20, right - 20] and black[bottom - 20, left + 20]


def test_a_mask_over_the_whole_slice_has_no_contour_and_still_a_picture(contours):
    found, _ = contours(np.ones(SHAPE, np.uint8))
    assert len(found["kidney"]) == len(found["tumor"]) == 0


def test_a_png_is_written_alone_and_an_old_one_kept_when_drawing_fails(tmp_path, monkeypatch):
    path = tmp_path / "new" / "case.png"
    image, empty = np.zeros(SHAPE, np.uint8), make_label_map()
    draw_overlay(path, "case", image, empty)
    assert [file.name for file in path.parent.iterdir()] == ["case.png"]
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def fail(self, filename, **kwargs):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_overlay(path, "case", image, empty)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"case.png": before}


def test_the_maps_are_left_as_they_were(tmp_path):
    prediction, label = make_label_map(kidney=KIDNEY), make_label_map(tumour=TUMOUR)
    image = np.full(SHAPE, 77, np.uint8)
    copies = [array.copy() for array in (image, prediction, label)]
    draw_overlay(tmp_path / "case.png", "case", image, prediction, label)
    for array, copy in zip((image, prediction, label), copies):
        np.testing.assert_array_equal(array, copy)
