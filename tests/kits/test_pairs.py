"""Image and label pairs, PNG and NIfTI: what is read, what is drawn, what is refused; and a training on them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from common.kits.pairs import PairSlices, PairViews, find_pairs, read_pair, split_pairs

NAMES = ["background", "organ"]


def write_pictures(folder: Path, number: int = 3, size: tuple[int, int] = (20, 40), values=(0, 255)) -> Path:
    """Pictures with a bright square, and its label."""
    generator = np.random.default_rng(0)
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for index in range(number):
        label = np.zeros(size, bool)
        label[4 + index : 12 + index, 10:22] = True
        image = generator.integers(0, 60, size) + 150 * label
        Image.fromarray(image.astype(np.uint8)).save(folder / f"image/{index:02}.png")
        Image.fromarray(np.array(values, np.uint8)[label.astype(int)]).save(folder / f"label/{index:02}.png")
    return folder


def write_volumes(folder: Path, channels: int = 1, number: int = 2) -> Path:
    """Volumes (20, 16, 4) with several channels, as the Medical Segmentation Decathlon stores them, axes turned."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    for index in range(number):
        label = np.zeros((20, 16, 4), np.uint8)
        label[2:9, 3:9, 1:3] = 2
        image = np.stack([100.0 * channel + label for channel in range(channels)], axis=-1)
        image = image if channels > 1 else image[..., 0]
        for name, volume in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(volume, affine), folder / f"{name}/a{index}.nii.gz")
    return folder


# ---- reading


def test_a_picture_is_one_slice_of_bytes_and_classes(tmp_path):
    pair = find_pairs(write_pictures(tmp_path))[1]
    slices = read_pair(pair, (0, 255), [0, 255])
    image, label = (np.asarray(Image.open(pair[key])).T for key in ("image", "label"))
    assert slices.shape == (1, 2, 40, 20) and slices.dtype == np.uint8
    assert np.array_equal(slices[0, 0], image) and np.array_equal(slices[0, 1], label > 0)
    assert np.array_equal(read_pair(pair, (0, 255), [255, 0])[0, 1], label == 0)


def test_a_volume_is_turned_to_ras_and_has_its_channels_in_axial_slices(tmp_path):
    pairs = find_pairs(write_volumes(tmp_path, channels=4))
    assert [pair["case"] for pair in pairs] == ["a0", "a1"]
    slices = read_pair(pairs[0], (0, 510), [0, 1, 2], in_channels=4)
    assert slices.shape == (4, 5, 20, 16)
    label = np.asarray(nib.load(pairs[0]["label"]).dataobj)[::-1]
    assert np.array_equal(slices[:, -1], label.transpose(2, 0, 1))
    assert [int(channel.min()) for channel in slices[0, :4]] == [0, 50, 100, 150]


def test_whole_slices_come_once_in_order_with_axes_that_a_network_takes(tmp_path):
    data = find_pairs(write_volumes(tmp_path / "data"))
    slices = PairSlices(data, tmp_path / "cache", ["a", "b", "c"], batch_size=3)
    assert [len(slices[index]["image"]) for index in range(len(slices))] == [3, 1, 3, 1]
    assert slices[0]["image"].shape == (3, 1, 32, 16) and slices[0]["label"].max() == 2
    again = PairSlices(data, tmp_path / "cache", ["a", "b", "c"], batch_size=3)
    assert torch.equal(again[2]["label"], slices[2]["label"]) and len(list((tmp_path / "cache").iterdir())) == 2


def test_windows_hold_foreground_and_depend_on_seed_epoch_and_index_alone(tmp_path):
    data = find_pairs(write_pictures(tmp_path / "data"))
    made = {"label_values": [0, 255], "side": 16, "batch_size": 5, "views_per_epoch": 20}

    def make(**more) -> PairViews:
        return PairViews(data, tmp_path / "cache", NAMES, **made | {"foreground_share": 1.0} | more)

    views, other = make(), make(seed=1)
    assert len(views) == 4 and views[0]["image"].shape == (5, 1, 16, 16)
    assert all((views[index]["label"].amax(dim=(1, 2, 3)) == 1).all() for index in range(4))
    assert torch.equal(make()[3]["image"], views[3]["image"]) and not torch.equal(other[3]["image"], views[3]["image"])
    first = views[0]["image"]
    views.set_epoch(1)
    assert not torch.equal(views[0]["image"], first)
    # larger than a picture: zeros
    assert make(side=48)[0]["image"].shape == (5, 1, 48, 48)


# ---- what is refused


@pytest.mark.parametrize(
    "spoil, words",
    [
        (
            lambda folder: (folder / "label/01.png").unlink(),
            "01.png: expected a label of this name in label, found none.",
        ),
        (lambda folder: (folder / "label").rename(folder / "masks"), "expected folders image and label, images and"),
        (lambda folder: [path.unlink() for path in (folder / "image").iterdir()], "expected images in .nii.gz"),
        (lambda folder: (folder / "image/00.jpg").write_bytes(b""), "expected one file a name, found 00.jpg too."),
    ],
)
def test_a_folder_without_its_pairs_is_told_in_one_line(tmp_path, spoil, words):
    spoil(write_pictures(tmp_path))
    with pytest.raises(InputError, match=words):
        find_pairs(tmp_path)


def spoil_size(folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "label/00.png")


def spoil_value(folder: Path) -> None:
    Image.fromarray(np.full((20, 40), 7, np.uint8)).save(folder / "label/00.png")


def spoil_file(folder: Path) -> None:
    (folder / "image/00.png").write_bytes(b"no picture")


def spoil_colours(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(folder / "image/00.png")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (spoil_size, "label/00.png: expected one channel of the image's size, 1 of 40 x 20 x 1, found 1 of 8 x 8 x 1."),
        (spoil_value, "label/00.png: expected labels 0, 255, found 7."),
        (spoil_file, "image/00.png: expected an image, found a file that cannot be read."),
        (spoil_colours, "image/00.png: expected in_channels=1 channels, found 3."),
    ],
)
def test_a_bad_pair_is_told_in_one_line(tmp_path, spoil, words):
    spoil(write_pictures(tmp_path / "data"))
    with pytest.raises(InputError) as raised:
        PairSlices(find_pairs(tmp_path / "data"), tmp_path / "cache", NAMES, label_values=[0, 255])
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"label_values": [0, 128, 255]}, "label_values: expected one value for each of background, organ, found 3."),
        ({"side": 50}, "side: expected a multiple of 16, found 50."),
        ({"foreground_share": 2}, "foreground_share: expected a number from 0 to 1, found 2."),
        ({"window": [5, 5]}, "hu_window: expected two Hounsfield units, the lower first"),
    ],
)
def test_wrong_settings_are_told_in_one_line(tmp_path, arguments, words):
    data = find_pairs(write_pictures(tmp_path / "data"))
    with pytest.raises(InputError, match=words):
        PairViews(data, tmp_path / "cache", NAMES, **{"label_values": [0, 255]} | arguments)


def test_a_split_is_recorded_and_read_again(tmp_path):
    folder = write_pictures(tmp_path / "data", number=5)
    split = split_pairs(folder, tmp_path / "split.json", validation_fraction=0.4, seed=3)
    assert [len(split[side]) for side in ("training", "validation")] == [3, 2]
    record = json.loads((tmp_path / "split.json").read_text())
    assert record["validation"] == [pair["case"] for pair in split["validation"]]
    assert split_pairs(folder, tmp_path / "again.json", tmp_path / "split.json") == split
