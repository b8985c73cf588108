"""What MONAI Deploy's bundle operator reads of our bundles, and that it segments as they do by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from monai.bundle import ckpt_export
from monai_deploy import infer

from common.app.segmenter import Segmenter
from common.kits.phantom import make_phantom

CONFIGS = ("inference", "inference_deploy")
# columns run to the left, rows to the front, slices down, and the first two a little askew
AFFINE = np.array([[-7 * 0.96, -8 * 0.28, 0, 200], [-7 * 0.28, 8 * 0.96, 0, -150], [0, 0, -12, 60], [0, 0, 0, 1]])


@pytest.mark.parametrize("form", ["folder", "TorchScript"])
def test_the_operator_segments_as_the_bundle_does(pocket, form, tmp_path, monkeypatch):
    volume = make_phantom(0, (10, 48, 64), (12.0, 8.0, 7.0))[0].astype(np.int16)
    monkeypatch.syspath_prepend(str(pocket))  # as the operator does for a folder, and its user for a file
    expected = Segmenter(pocket, backend="torch")(volume.T, AFFINE).label_map
    assert min(np.count_nonzero(expected == label) for label in (1, 2)) > 100
    path = pocket
    if form == "TorchScript":
        monkeypatch.chdir(pocket)
        path = tmp_path / "model.ts"
        ckpt_export(
            "network_def",
            str(path),
            "models/model.pt",
            "configs/metadata.json",
            [f"configs/{name}.json" for name in CONFIGS],
        )
    monkeypatch.chdir(tmp_path)
    found = infer(path, CONFIGS, tmp_path, volume, AFFINE)
    # a voxel that lies between two classes may go to either: TorchScript rounds as it fuses, which CPUs do differently
    assert found.shape == expected.T.shape
    assert np.count_nonzero(found != expected.T) <= (0 if form == "folder" else found.size / 10_000)
