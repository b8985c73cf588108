"""
What hubs take: a folder per bundle for Hugging Face, with a model card, and for MONAI's model zoo, without large files.

Nothing is uploaded. Sources: https://huggingface.co/docs/hub/model-cards and the `large_files.yml` that
`python -m monai.bundle download_large_files` reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import hash_file

from .held_out import CLASSES
from .packaging import Content, read_content, replace_folder

TARGETS = ("huggingface", "model-zoo")
LARGE_BYTES = 25 * 10**6  # from which on the model zoo keeps a file elsewhere
LARGE_FILES = "large_files"
NAMES = {"kidney_and_tumor": "kidney and tumor", "tumor": "tumor"}


def write_for_hub(
    target: str,
    bundles: Sequence[Path],
    output: Path,
    base_url: str | None = None,
    repository: str | None = None,
    large_bytes: int = LARGE_BYTES,
) -> list[Path]:
    """
    Write a folder per bundle, all or nothing.

    Args:
        target: "huggingface": the bundle's own layout, and a `README.md` with front matter. "model-zoo":
            `models/<name>`, with the large files under `large_files/<name>` in their stead.
        bundles: bundle folders with weights.
        output: new or empty folder.
        base_url: where the folder `large_files` will be; needed where there are such files.
        repository: address that a card names.
        large_bytes: what larger means.

    Returns:
        the folders.

    Raises:
        InputError: when a bundle cannot ship, the output folder holds anything, or the address is missing.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: expected a new or empty folder, found something in it.")
    contents = [read_content(bundle) for bundle in bundles]
    with replace_folder(output.resolve()) as folder:
        for content in contents:
            if target == "huggingface":
                place = folder / content.name
                _copy(content.files, place)
                (place / "README.md").write_text(make_card(content, repository), encoding="utf-8")
            else:
                _write_zoo_entry(content, folder, base_url, large_bytes)
    return [output / ("" if target == "huggingface" else "models") / content.name for content in contents]


def make_card(content: Content, repository: str | None = None) -> str:
    """A bundle's README on Hugging Face: front matter, what it does on a whole scan, and the bundle's own README."""
    metadata = content.metadata
    front = {
        "license": "cc-by-nc-sa-4.0",  # of the weights; the code is Apache-2.0
        "library_name": "monai",
        "pipeline_tag": "image-segmentation",
        "tags": ["monai", "medical", "ct", "kidney", "kidney-tumor", "kits19", "segmentation"],
        "model-index": [{"name": metadata["name"], "results": list_results(metadata)}],
    }
    # JSON is YAML, and needs no other package
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value), "---", ""]
    lines += ["**Research only, not a medical device.** Weights: CC BY-NC-SA 4.0, as are the data that they learned."]
    scan = metadata.get("scores", {}).get("scan")
    if scan:
        lines += [
            f"On one whole CT scan of {scan['slices']} slices, which is what a user has, Dice is"
            f" {scan['kidney_and_tumor']:.3f} for kidney and tumor together and {scan['tumor']:.3f} for the tumor;"
            f" {scan['invented_ml']:.0f} ml are found above and below the kidneys, where nothing is."
        ]
    if repository:
        lines += [f"Code, protocol and commands: {repository}."]
    return "\n".join([*lines, "", content.files["docs/README.md"].read_text(encoding="utf-8")])


def list_results(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of a bundle as a model index has them; none where none were measured."""
    scores = metadata.get("scores")
    if not scores:
        return []
    measured = {
        "KiTS19: slices of 32 patients that no training saw, pooled": scores["patients"]["pooled"],
        "KiTS19: one whole scan that no training saw": scores["scan"],
    }
    return [
        {
            "task": {"type": "image-segmentation", "name": metadata["task"]},
            "dataset": {"type": "kits19", "name": name},
            "metrics": [
                {"type": "dice", "name": f"Dice, {NAMES[key]}", "value": values[key]}
                for key in CLASSES
                if key in values
            ],
        }
        for name, values in measured.items()
    ]


def _write_zoo_entry(content: Content, folder: Path, base_url: str | None, large_bytes: int) -> None:
    large = {name: path for name, path in content.files.items() if path.stat().st_size > large_bytes}
    place = folder / "models" / content.name
    _copy({name: path for name, path in content.files.items() if name not in large}, place)
    if not large:
        return
    if not base_url:
        raise InputError(f"base-url: expected where {', '.join(large)} of {content.name} will be, found none.")
    _copy(large, folder / LARGE_FILES / content.name)
    entries = [
        {
            "path": name,
            "url": f"{base_url.rstrip('/')}/{LARGE_FILES}/{content.name}/{name}",
            "hash_val": hash_file(path),
            "hash_type": "sha256",
        }
        for name, path in large.items()
    ]
    (place / f"{LARGE_FILES}.yml").write_text(json.dumps({"large_files": entries}, indent=1) + "\n")


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
