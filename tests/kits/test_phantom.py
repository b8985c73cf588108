"""The phantom: reproducible, anatomically lopsided, and never to be mistaken for a patient."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from common.kits.phantom import make_phantom, write_phantom_case, write_phantom_dataset

SMALL = {"shape": (12, 64, 64), "spacing_mm": (10.0, 6.0, 6.0)}
GRIDS = [  # shape, spacing_mm
    ((8, 32, 32), (20.0, 12.0, 12.0)),
    ((8, 32, 32), (3.0, 1.5, 1.5)),  # a field of view far smaller than a patient
    ((12, 64, 64), (5.0, 6.0, 6.0)),  # 60 mm through the plane
    ((40, 48, 64), (5.0, 8.0, 6.0)),  # unequal rows and columns
    ((80, 40, 64), (5.0, 10.0, 10.0)),  # 400 mm through the plane, wide as case_00160
]
SEEDS = range(20)
NEIGHBOURS = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def patients() -> list[tuple[np.ndarray, np.ndarray]]:
    return [make_phantom(seed, **SMALL) for seed in SEEDS]


def detached_tumours(label: np.ndarray) -> int:
    """How many tumours have no kidney voxel among their neighbours."""
    tumours, count = ndimage.label(label == 2, NEIGHBOURS)
    near_kidney = ndimage.binary_dilation(label == 1, NEIGHBOURS)
    return count - len(set(tumours[near_kidney]) - {0})


def test_the_same_seed_gives_identical_arrays():
    for first, second in zip(make_phantom(7, **SMALL), make_phantom(7, **SMALL), strict=True):
        np.testing.assert_array_equal(first, second)


def test_different_seeds_give_different_patients(patients):
    labels = {label.tobytes() for _, label in patients}
    body_volumes = [(image > -500).sum() for image, _ in patients]
    kidney_hu = [image[label == 1].mean() for image, label in patients]
    tumour_volumes = [(label == 2).sum() for _, label in patients]
    assert len(labels) == len(patients)
    assert max(body_volumes) > 1.15 * min(body_volumes)
    assert max(kidney_hu) - min(kidney_hu) > 20
    assert max(tumour_volumes) > 20 * min(tumour_volumes)


def test_numpy_global_random_state_is_neither_read_nor_moved():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    make_phantom(0, **SMALL)
    assert np.random.random() == expected


@pytest.mark.parametrize("shape, spacing_mm", GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_every_grid_holds_kidney_tumour_and_slices_of_neither(seed, shape, spacing_mm):
    image, label = make_phantom(seed, shape, spacing_mm)
    assert image.shape == label.shape == shape
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    assert set(np.unique(label)) == {0, 1, 2}
    assert not label[0].any() and not label[-1].any()
    assert detached_tumours(label) == 0


def test_every_patient_holds_kidney_tumour_and_slices_of_neither(patients):
    for _, label in patients:
        assert set(np.unique(label)) == {0, 1, 2}
        assert not label.any(axis=(1, 2)).all()


def test_every_tumour_touches_a_kidney(patients):
    assert [detached_tumours(label) for _, label in patients] == [0] * len(patients)


def test_the_tumour_check_finds_a_detached_tumour():
    label = np.zeros((3, 9, 9), dtype=np.uint8)
    label[1, 1, 1], label[1, 2, 2], label[1, 6, 6] = 1, 2, 2
    assert detached_tumours(label) == 1


def test_most_patients_have_one_tumour_and_some_have_two():
    labels = [make_phantom(seed, (8, 32, 32), (20.0, 12.0, 12.0))[1] for seed in range(60)]
    counts = [ndimage.label(label == 2, NEIGHBOURS)[1] for label in labels]
    assert set(counts) == {1, 2}
    assert counts.count(1) > counts.count(2)


def test_each_side_of_the_spine_has_a_kidney(patients):
    for _, label in patients:
        foreground = label > 0
        assert foreground[..., :32].any() and foreground[..., 32:].any()
        assert not foreground[..., 31:33].any()


def test_tissues_have_their_hounsfield_units(patients):
    for image, label in patients:
        kidney, tumour = image[label == 1].mean(), image[label == 2].mean()
        assert 140 < kidney < 205
        assert 30 < tumour < 130
        assert tumour < kidney - 20
        assert -1060 < image[:, 0].mean() < -940  # air
        assert (image > 300).any()  # bone


@pytest.mark.parametrize("seed", [0, 3])  # patients with a large tumour
def test_a_large_tumour_is_more_heterogeneous_than_the_kidneys(seed):
    image, label = make_phantom(seed, (24, 128, 128), (6.0, 3.0, 3.0))
    # Away from the surfaces, where neighbours bleed in.
    kidney, tumour = (image[ndimage.binary_erosion(label == index, NEIGHBOURS)] for index in (1, 2))
    assert tumour.size > 200
    assert tumour.std() > 1.15 * kidney.std()


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_patient_differs_strongly(patients, axis):
    for image, _ in patients:
        windowed = image.clip(-160, 240).astype(float)
        in_body = image > -500
        difference = abs(windowed - np.flip(windowed, axis))[in_body].mean()
        assert difference > 40  # noise alone gives about 2 / sqrt(pi) of its deviation, at most 23


def test_the_liver_lies_on_the_patients_right_and_at_the_top(patients):
    for image, _ in patients:
        # Smoothing leaves liver and spleen, the large organs, near 100 HU, and turns bowel in fat into less.
        solid = abs(ndimage.uniform_filter(image.astype(float), 3) - 108) < 20
        assert solid[..., :32].sum() > 1.5 * solid[..., 32:].sum()
        assert solid[:6].sum() > 1.5 * solid[6:].sum()


def test_the_spine_lies_at_the_back_in_the_middle(patients):
    for image, _ in patients:
        _, rows, columns = np.nonzero(image > 380)
        assert np.median(rows) > 32
        assert abs(np.median(columns) - 31.5) <= 2


@pytest.mark.parametrize("shape, spacing_mm", GRIDS)
def test_the_body_fills_the_smaller_side_of_the_field_of_view(shape, spacing_mm):
    image, _ = make_phantom(3, shape, spacing_mm)
    columns = np.flatnonzero((image > -500).any(axis=(0, 1)))
    width_mm = (columns[-1] - columns[0] + 1) * spacing_mm[2]
    assert 0.75 <= width_mm / min(shape[1] * spacing_mm[1], shape[2] * spacing_mm[2]) <= 1
    assert image[:, 0].max() < -500 and image[:, -1].max() < -500


def test_files_have_the_orientation_spacing_and_warning_of_their_header(tmp_path):
    spacing_mm = (5.0, 6.0, 7.0)
    folder = write_phantom_case(tmp_path, "case_00007_synthetic", 7, SMALL["shape"], spacing_mm)
    assert folder == tmp_path / "case_00007_synthetic"
    image, label = make_phantom(7, SMALL["shape"], spacing_mm)
    for name, array in (("imaging", image), ("segmentation", label)):
        nifti = nib.load(folder / f"{name}.nii.gz")
        assert nib.aff2axcodes(nifti.affine) == ("I", "P", "L")
        assert nifti.header.get_zooms() == spacing_mm
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert nifti.header["descrip"].item() == b"synthetic phantom, not a patient"
        assert nifti.get_data_dtype() == array.dtype
        np.testing.assert_array_equal(np.asanyarray(nifti.dataobj), array)


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_the_image_has_the_type_asked_for_and_the_label_is_uint8(tmp_path, dtype):
    folder = write_phantom_case(tmp_path, "synthetic", 0, **SMALL, dtype=dtype)
    assert nib.load(folder / "imaging.nii.gz").get_data_dtype() == dtype
    assert nib.load(folder / "segmentation.nii.gz").get_data_dtype() == np.uint8


def test_a_data_set_is_named_synthetic_and_leaves_nothing_else_behind(tmp_path):
    folders = write_phantom_dataset(tmp_path / "new" / "data", 3, **SMALL)
    assert [folder.name for folder in folders] == [f"case_0000{index}_synthetic" for index in range(3)]
    files = sorted(path.relative_to(tmp_path / "new" / "data") for path in tmp_path.rglob("*") if path.is_file())
    assert [str(path) for path in files] == [
        f"case_0000{index}_synthetic/{name}.nii.gz" for index in range(3) for name in ("imaging", "segmentation")
    ]


def test_data_sets_of_neighbouring_seeds_share_no_patient(tmp_path):
    folders = [folder for seed in (0, 1) for folder in write_phantom_dataset(tmp_path / str(seed), 3, seed, **SMALL)]
    labels = {np.asanyarray(nib.load(folder / "segmentation.nii.gz").dataobj).tobytes() for folder in folders}
    assert len(labels) == 6


def test_a_longer_data_set_begins_with_the_shorter_one(tmp_path):
    short, long = (write_phantom_dataset(tmp_path / str(count), count, **SMALL)[0] for count in (1, 2))
    first, second = (np.asanyarray(nib.load(folder / "imaging.nii.gz").dataobj) for folder in (short, long))
    np.testing.assert_array_equal(first, second)


def test_a_failed_write_leaves_the_old_file_and_no_half_written_one(tmp_path, monkeypatch):
    folder = write_phantom_case(tmp_path, "synthetic", 0, **SMALL)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fill_the_disk(nifti, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nib, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_phantom_case(tmp_path, "synthetic", 1, **SMALL)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "kwargs, found",
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"shape": (12, 64)}, r"shape=\(12, 64\)"),
        ({"shape": (7, 64, 64)}, r"shape=\(7, 64, 64\)"),
        ({"shape": (12, 64, 31)}, r"shape=\(12, 64, 31\)"),
        ({"shape": (12, 64, 64.0)}, r"shape=\(12, 64, 64.0\)"),
        ({"shape": (-12, 64, 64)}, r"shape=\(-12, 64, 64\)"),
        ({"spacing_mm": (3.0, 1.5)}, r"spacing_mm=\(3.0, 1.5\)"),
        ({"spacing_mm": (3.0, 0.0, 1.5)}, r"spacing_mm=\(3.0, 0.0, 1.5\)"),
        ({"spacing_mm": (3.0, 1.5, float("nan"))}, r"spacing_mm=\(3.0, 1.5, nan\)"),
        ({"count": 0}, "count=0"),
        ({"count": 1.5}, "count=1.5"),
        ({"dtype": np.uint8}, "dtype=<class 'numpy.uint8'>"),
    ],
)
def test_wrong_arguments_are_named_with_their_value_and_write_nothing(tmp_path, kwargs, found):
    with pytest.raises(ValueError, match=found):
        write_phantom_dataset(tmp_path / "data", **{"count": 1, **SMALL, **kwargs})
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("case", ["case_00000", "", "../synthetic", "synthetic/case_00000"])
def test_a_case_that_could_pass_for_a_patient_is_refused(tmp_path, case):
    with pytest.raises(ValueError, match=f"case='{case}'"):
        write_phantom_case(tmp_path, case, 0, **SMALL)
    assert not list(tmp_path.iterdir())
