"""Augmentation of batches: image and label together, by torch's seed alone."""

from __future__ import annotations

import pytest
import torch
from kornia.augmentation import RandomAffine, RandomGaussianNoise, RandomVerticalFlip

from common.kits.augmentation import AugmentBatch


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Labels that are the image in steps: what moves one must move the other."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (6, 1, 4, 4), generator=generator).float()
    label = label.repeat_interleave(12, dim=2).repeat_interleave(12, dim=3)
    return {"image": label / 2, "label": label}


def test_labels_move_with_their_images_and_stay_labels(batch):
    augment = AugmentBatch([RandomVerticalFlip(p=0.5), RandomAffine(p=1.0, degrees=30, scale=(0.7, 1.4))])
    torch.manual_seed(0)
    image, label = augment(batch)
    assert set(label.unique().tolist()) <= {0, 1, 2}
    assert not torch.equal(label, batch["label"])
    assert ((image * 2 - label).abs() < 0.05).float().mean() > 0.8  # all but what lies between two labels


def test_a_flip_along_the_first_axis_swaps_right_and_left(batch):
    image, label = AugmentBatch([RandomVerticalFlip(p=1.0)])(batch)
    assert torch.equal(image, batch["image"].flip(2)) and torch.equal(label, batch["label"].flip(2))


def test_a_seed_gives_the_same_batch_and_another_another(batch):
    augment = AugmentBatch([RandomAffine(p=1.0, degrees=30), RandomGaussianNoise(p=0.5, std=0.1)], saturation=0.5)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(augment(batch)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_saturation_cuts_its_share_of_the_images_and_nothing_else(share):
    ramp = torch.linspace(0, 1, 101).expand(400, 1, 1, 101).clone()
    torch.manual_seed(0)
    image, _ = AugmentBatch([RandomVerticalFlip(p=0.0)], share, 0.4, 0.9)({"image": ramp, "label": ramp})
    low, high = image.amin(dim=(1, 2, 3)), image.amax(dim=(1, 2, 3))
    cut = (low > 0) | (high < 1)
    assert abs(cut.float().mean() - share) < 0.1
    assert low.max() <= 0.4 and high.min() >= 0.9
    assert torch.equal(image, ramp.maximum(low[:, None, None, None]).minimum(high[:, None, None, None]))


def test_images_stay_between_0_and_1_and_inputs_as_they_were(batch):
    before = {key: value.clone() for key, value in batch.items()}
    image, _ = AugmentBatch([RandomGaussianNoise(p=1.0, std=0.5)], saturation=1.0)(batch)
    assert image.min() == 0 and image.max() == 1
    assert all(torch.equal(batch[key], before[key]) for key in batch)
