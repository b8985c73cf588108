"""
Bundle folders: rendered from the skeleton and a variant, written, compared.

The skeleton `scripts/zoo/skeleton/` is itself a bundle, of the default network, whose `_target_`s name `common`; what
differs in a bundle of a 3-D network stands in `scripts/zoo/skeleton_3d/`. A rendered bundle names the version-stamped
copy of the package that it carries: two bundles that shared an unversioned name would swap code in one process.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from common import __version__
from common.app.card import NO_WEIGHTS, count_complexity, count_zeros, describe_weights, render_weights
from common.bundle_folder import PACKAGE
from common.files import write_whole
from common.kits.terms import SCHEME, TERMS
from common.networks import LiteUNet, load_weights

from .records import ELSEWHERE, HOLD_OUT, read_record
from .variants import VARIANTS, VARIANTS_3D, Variant

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "common"
SKELETON = Path(__file__).parent / "skeleton"
SKELETON_3D = SKELETON.with_name("skeleton_3d")
VERSION_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
REQUIRED_PACKAGES = (
    "nibabel",
    "pytorch-ignite",
    "scipy",
    "itk",
    "pydicom",
    "matplotlib",
    "pillow",
    "kornia",
    "contourpy",
    "jinja2",
    "tensorboard",
    "filelock",
    "fire",
    "torch-pruning",
    "tqdm",
    "typer",
)
# of the overlays inference_onnx.json and inference_openvino.json
OPTIONAL_PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
REMEDY = "bundles differ from common/; remedy: python scripts/build_bundles.py"
BUNDLES = REPOSITORY / "bundles"
# in the README of a bundle whose network has lost channels
DENSE_FIRST = """
Its dense network comes first, trained here as below, or `models/model.pt` of the U-Net's bundle:

    python -m monai.bundle run --config_file configs/train.json --dataset_dir data --ckpt_dir models/dense \\
        --network_def#channels "{channels}"
"""
# what runs leave in a bundle folder, beside what is rendered
NOT_RENDERED = ("models", "eval")


def render(variant: Variant) -> dict[str, bytes]:
    """Every file of a bundle, by its path inside the folder."""
    files = read_skeleton(variant)
    for path in _list_files(SOURCE):
        files[f"{PACKAGE}/{path.relative_to(SOURCE)}"] = path.read_bytes()

    metadata = render_metadata(variant, files)
    differing = {
        "configs/train.json": variant.preprocessing | variant.training,
        "configs/inference.json": variant.preprocessing,
        "configs/prune.json": variant.pruning,
    }
    for name, content in files.items():
        if name.startswith("configs/") and name.endswith(".json"):
            config = metadata if name == "configs/metadata.json" else json.loads(content)
            if "network_def" in config:
                config["network_def"] |= variant.network
            config |= differing.get(name, {})
            files[name] = write_config(_stamp_targets(config)).encode()
    values = {
        "name": variant.name,
        "package": PACKAGE,
        "title": variant.title,
        "summary": variant.summary,
        "weights": describe_weights(metadata),
        "reference": variant.reference,
        "parameters": f"{metadata['complexity']['parameters']:,}",
        "flops": f"{metadata['complexity']['flops']:,}",
        **{package: f"{package}=={_installed(package)}" for package in OPTIONAL_PACKAGES},
        "epochs": json.loads(files["configs/train.json"])["epochs"],
        "dense_first": DENSE_FIRST.format(**variant.original) if variant.original else "",
    }
    files["labels.csv"] = render_labels().encode()
    if "scores" in metadata:
        # what the scores refer to, so that it is there wherever the bundle is
        title, page = (REPOSITORY / metadata["scores"]["protocol"]).read_text().split("\n", 1)
        where = f"Commands, pages and tables that are named here stand {ELSEWHERE.strip(' :')}."
        files["docs/protocol.md"] = f"{title}\n\n{where}\n{strip_links(page)}".encode()
        files[HOLD_OUT] = (REPOSITORY / HOLD_OUT).read_bytes()
    files["docs/requirements.txt"] = render_requirements(metadata).encode()
    files["docs/README.md"] = Template(files["docs/README.md"].decode()).substitute(values).encode()
    return files


def read_skeleton(variant: Variant) -> dict[str, bytes]:
    """
    The skeleton's files for a variant.

    For a 3-D network configs take the keys of `skeleton_3d`, which may lead into a config as in `train#dataset`, and
    lose those that are null there; its other files stand for the skeleton's. What is of slices alone is left out.
    """
    files = {}
    for path in _list_files(SKELETON):
        if not path.name.endswith("_paper.json") or path.name == variant.recipe:
            files[str(path.relative_to(SKELETON))] = path.read_bytes()
    if variant not in VARIANTS_3D:
        return files
    of_slices = "configs/data/", "configs/recipes/", "configs/gpu.json"
    files = {name: content for name, content in files.items() if not name.startswith(of_slices)}
    for path in _list_files(SKELETON_3D):
        name, content = str(path.relative_to(SKELETON_3D)), path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(_overlay(json.loads(files[name]), json.loads(content))).encode()
        files[name] = content
    return files


def _overlay(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values; new settings stand where its settings end, before the device."""
    new = [key for key in changes if "#" not in key and key not in config]
    head = list(config)[: list(config).index("device")] if new else []
    for key, value in changes.items():
        place, name = config, key
        if key not in config:
            *way, name = (int(part) if part.isdecimal() else part for part in key.split("#"))
            for part in way:
                place = place[part]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return {key: config[key] for key in [*head, *new, *config] if key in config}


def write_config(config: Mapping[str, Any]) -> str:
    """JSON whose short lists of scalars stand on one line."""

    def join(found: re.Match[str]) -> str:
        line = "[" + re.sub(r",\s*\n\s*", ", ", found[1]) + "]"
        return line if len(line) <= 80 else found[0]

    return re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", join, json.dumps(config, indent=4)) + "\n"


def render_labels() -> str:
    """The table of labels and their codes that SlicerMONAIAuto3DSeg reads, with the names of DICOM's attributes."""
    parts = ("SegmentedPropertyCategory", "SegmentedPropertyType", "SegmentedPropertyTypeModifier")
    parts += ("AnatomicRegion", "AnatomicRegionModifier")
    columns = [
        f"{part}{'Sequence' if part.startswith('Anatomic') else 'CodeSequence'}.{column}"
        for part in parts
        for column in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
    ]
    rows = [",".join(["LabelValue", "Name", *columns])]
    for term in TERMS:
        codes = [term.category, term.kind, None, term.region, None]
        cells = [cell for code in codes for cell in ((SCHEME, *code) if code else ("", "", ""))]
        rows.append(",".join([str(term.label), term.key, *cells]))
    return "\n".join(rows) + "\n"


def strip_links(page: str) -> str:
    """A page of markdown without pictures and without links, for a place where they would lead nowhere."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", page))


def render_metadata(variant: Variant, skeleton: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of `metadata.json`: what the variant says and what its network counts."""
    metadata = json.loads(skeleton["configs/metadata.json"])
    image = metadata["network_data_format"]["inputs"]["image"]
    input_shape = (1, image["num_channels"], *image["spatial_shape"])
    scans = "axial CT slices" if len(input_shape) == 4 else "CT by patches"
    metadata |= {key: _installed(package) for key, package in VERSION_KEYS.items()}
    metadata |= {
        "version": __version__,
        "name": variant.title,
        "required_packages_version": {package: _installed(package) for package in REQUIRED_PACKAGES},
        "optional_packages_version": {package: _installed(package) for package in OPTIONAL_PACKAGES},
        "description": f"{variant.title}: {variant.summary}. Segments kidney and kidney tumour in {scans}.",
        "references": [variant.reference, *metadata["references"]],
        "image_classes": describe_images(json.loads(skeleton["configs/inference.json"]) | variant.preprocessing),
    }
    network = LiteUNet(**variant.network)
    metadata["complexity"] |= {"input_shape": list(input_shape), **count_complexity(network, input_shape)}
    if record := read_record(variant.name):
        weights = BUNDLES / variant.name / "models/model.pt"
        metadata["complexity"] |= count_zeros(load_weights(network, weights))
        metadata |= {"weights": render_weights(weights, record), **render_scores(variant, record)}
    else:
        metadata["description"] += f" {NO_WEIGHTS}"
    if variant.original:
        original = LiteUNet(**variant.network | variant.original)
        metadata["complexity"]["original"] = {**variant.original, **count_complexity(original, input_shape)}
    return metadata


def describe_images(config: Mapping[str, Any]) -> str:
    """What `metadata.json` says of the images that the network sees, by its `inference.json`."""
    low, high = config["hu_window"]
    return (
        f"single-channel CT, Hounsfield units from {low} to {high} stretched over 0 to 1, axial slices with pixels of"
        f" {config['pixel_mm']} mm"
    )


def render_requirements(metadata: Mapping[str, Any]) -> str:
    """What pip installs for a bundle on its own; torch first, so that nothing pulls another."""
    pins = {package: metadata[key] for key, package in VERSION_KEYS.items()}
    pins = {"torch": pins.pop("torch"), **pins}
    return "".join(f"{name}=={pin}\n" for name, pin in (pins | metadata["required_packages_version"]).items())


def render_scores(variant: Variant, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `metadata.json` says of the scores, and how they are computed anew; empty where nothing was measured."""
    if "patients" not in record:
        return {}
    folders = "kits19-crops kits19-fullslices kits19-scan"
    return {
        "scores": {
            "data": "patients and without_kidney: crops and whole slices of 32 KiTS19 patients that no training saw;"
            " scan: every fourth slice of one whole KiTS19 scan that no training saw",
            "metric": "KiTS19's Dice on the slices' own grid; a slice counts as wrong from 81 false pixels on",
            "protocol": "docs/protocol.md",
            "split_file": HOLD_OUT,
            "command": f"{ELSEWHERE}python scripts/verify_bundles.py bundles/{variant.name} --dataset-dir {folders}",
            **{key: record[key] for key in ("patients", "without_kidney", "scan")},
        }
    }


def write_bundle(variant: Variant, bundles_dir: Path) -> Path:
    """Write a bundle's folder, leaving its weights and the output of runs, and remove what no longer belongs to it."""
    bundle_dir = bundles_dir / variant.name
    files = render(variant)
    for name, content in files.items():
        with write_whole(bundle_dir / name) as temporary:
            temporary.write_bytes(content)
    for name in _find_foreign(bundle_dir, files):
        (bundle_dir / name).unlink()
    for folder in bundle_dir.glob("kits_lite_v*"):
        if folder.name != PACKAGE:
            shutil.rmtree(folder)
    return bundle_dir


def find_drift(bundles_dir: Path) -> list[str]:
    """One line for every file in which the bundle folders differ from what would be rendered now."""
    problems = []
    for variant in (*VARIANTS, *VARIANTS_3D):
        bundle_dir = bundles_dir / variant.name
        files = render(variant)
        for name, content in files.items():
            path = bundle_dir / name
            if not path.is_file():
                problems.append(f"{variant.name}/{name}: missing")
            elif path.read_bytes() != content:
                problems.append(f"{variant.name}/{name}: differs")
        problems += [f"{variant.name}/{name}: not rendered" for name in _find_foreign(bundle_dir, files)]
    return problems


def _find_foreign(bundle_dir: Path, files: dict[str, bytes]) -> list[str]:
    names = [str(path.relative_to(bundle_dir)) for path in _list_files(bundle_dir)]
    return [name for name in names if name not in files and Path(name).parts[0] not in NOT_RENDERED]


def _list_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _stamp_targets(config: Any, key: str = "") -> Any:
    """A copy of a config in which every dotted name of `common` is the shipped copy's."""
    if isinstance(config, dict):
        return {k: _stamp_targets(v, k) for k, v in config.items()}
    if isinstance(config, list):
        return [_stamp_targets(v) for v in config]
    if key in ("_target_", "writer") and str(config).startswith(f"{SOURCE.name}."):
        return PACKAGE + config[len(SOURCE.name) :]
    return config


def _installed(package: str) -> str:
    return version(package).split("+")[0]
