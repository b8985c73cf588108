"""scripts/pack.py: a training on the pack sees what a training on the folders sees."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from refusals import error_message

import pack
from common.kits.cases import find_cases
from common.kits.phantom import write_phantom_dataset
from common.kits.preprocessing import SliceGrid
from common.kits.slices import SliceCache

GRID = SliceGrid(pixel_mm=2.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    write_phantom_dataset(folder / "there", 2, shape=(8, 40, 48))
    pack.pack([folder / "there"], folder / "views.tar.xz", GRID)
    with tarfile.open(folder / "views.tar.xz") as archive:
        # Python 3.11 has it from 3.11.4 on
        archive.extractall(folder / "here", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / "there", folder / "here/there"


def test_the_slices_are_the_same(folders, tmp_path):
    there, here = (SliceCache(find_cases(folder), tmp_path, GRID, pack.HU_RANGE) for folder in folders)
    assert there.case_names == here.case_names and there.ends == here.ends
    for number in range(there.ends[-1]):
        (image, label), (packed, packed_label) = there.get_slice(number), here.get_slice(number)
        assert np.array_equal(label, packed_label)
        assert np.abs(image.astype(int) - packed).max() <= 1


def test_it_is_one_file_of_that_name_or_none(folders, tmp_path):
    message = error_message(lambda: pack.main(["--dataset-dir", str(folders[0]), "--output", str(tmp_path / "a.zip")]))
    assert "expected a name that ends in .tar.xz" in message and not list(tmp_path.iterdir())
