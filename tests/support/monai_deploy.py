"""
What the bundle operator of MONAI Deploy does, in as many words, for its SDK needs CUDA.

Source: `MonaiBundleInferenceOperator` of monai-deploy-app-sdk 4.0.0.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

DROPPED = ("LoadImage", "SaveImage")  # in the names of transforms


def read_configs(path: Path, names: Sequence[str], folder: Path) -> ConfigParser:
    """
    Configs of a bundle.

    Args:
        path: of the bundle's folder, or of a TorchScript file with them inside.
        names: of configs, without ending, the later over the former.
        folder: to unpack them to.
    """
    if path.is_dir():
        folder = path / "configs"
    else:
        with zipfile.ZipFile(path) as archive:
            for name in ("metadata", *names):
                (folder / f"{name}.json").write_bytes(archive.read(f"{path.stem}/extra/{name}.json"))
    parser = ConfigParser()
    parser.read_meta(json.loads((folder / "metadata.json").read_text()))
    parser.read_config([folder / f"{name}.json" for name in names])
    parser.parse()
    return parser


def load_network(path: Path, parser: ConfigParser) -> torch.nn.Module:
    """TorchScript, or what the configs call `network` with the weights of the folder."""
    if path.is_file():
        return torch.jit.load(str(path)).eval()
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(path / "models/model.pt", map_location="cpu"), strict=True)
    return network.eval()


def get_compose(parser: ConfigParser, name: str) -> Compose:
    """A chain of transforms without those that load and save."""
    compose = parser.get_parsed_content(name)
    kept = [t for t in compose.transforms if not any(word in type(t).__name__ for word in DROPPED)]
    compose.transforms = tuple(kept)
    return compose


def infer(path: Path, names: Sequence[str], folder: Path, volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """
    The label map that the operator gives of a volume.

    Args:
        volume: (slices, rows, columns), HU, as the SDK reads a DICOM series.
        affine: (4, 4) of columns, rows, slices to RAS mm.
    """
    parser = read_configs(path, names, folder)
    formats = parser["_meta_"]["network_data_format"]
    (first,), (last,) = formats["inputs"], formats["outputs"]
    inferer = parser.get_parsed_content("inferer")
    preprocessing, postprocessing = (get_compose(parser, f"{step}processing") for step in ("pre", "post"))
    meta = {"affine": affine, "original_affine": affine, "space": "RAS", "original_channel_dim": "no_channel"}
    image = MetaTensor.ensure_torch_and_prune_meta(np.swapaxes(volume, 0, 2), meta)
    with torch.no_grad():
        inputs = preprocessing({first: image})
        output = inferer(inputs=inputs[first][None], network=load_network(path, parser))
        pred = postprocessing({last: output[0], **inputs})[last]
    return np.swapaxes(np.squeeze(pred.numpy(), 0), 0, 2).astype(np.uint8)
