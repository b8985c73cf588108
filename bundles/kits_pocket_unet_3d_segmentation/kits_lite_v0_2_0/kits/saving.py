"""MONAI's transform that writes masks by `masks.py`."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ..files import PathLike, hash_file
from .cases import name_case
from .masks import FILE, make_fingerprint, write_mask

logger = logging.getLogger(__name__)


class SaveMaskd(SaveImaged):
    """
    MONAI transform that writes every mask to `<output_dir>/<case>.nii.gz` by `write_mask`.

    It is a `SaveImaged` by name alone: MONAI Label, which has a writer of its own, leaves those out.

    Args:
        keys: of the masks, `MetaTensor` (1, X, Y, Z) on their images' own grids.
        weights: file that the network was loaded from; its hash is part of the fingerprint.
        backend, chosen: see `make_fingerprint`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        weights: PathLike,
        backend: Sequence[str] = (),
        **chosen: Any,
    ) -> None:
        super().__init__(keys, output_dir=output_dir)
        self.chosen = chosen
        self.output_dir, self.weights, self.backend = Path(str(output_dir)), weights, tuple(backend)
        self.weights_sha256 = ""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.weights_sha256 = self.weights_sha256 or hash_file(self.weights)
        for key in self.key_iterator(data):
            image = data[key].meta[FILE]
            path = self.output_dir / f"{name_case(image)}.nii.gz"
            fingerprint = make_fingerprint(image, self.weights_sha256, backend=self.backend, **self.chosen)
            write_mask(path, data[key].cpu().numpy()[0], data[key].meta, fingerprint)
            logger.info(f"mask: {path}")
        return dict(data)
