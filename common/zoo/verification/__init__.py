"""
Whether what a bundle folder says of itself is true: each check recounts, reloads or reruns it.

A check takes a `Bundle` and yields its problems, "<what>: expected ..., found ...": expected is what is recorded, found
what was counted. It raises `NotChecked` where nothing is recorded, or where what it takes is missing. No check knows a
variant: the folder may be anyone's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from monai.config import PathLike

from ...errors import InputError, find_input_error
from ...kits.phantom import write_phantom_dataset
from .bundle import METADATA, NOT_RECORDED, README, WEIGHTS, Bundle, NotChecked, compare, flatten
from .documented_commands import find_command_problems
from .label_order import find_listings, format_labels, read_codes
from .network import (
    check_complexity,
    check_devices,
    check_network,
    check_sparsity,
    check_state_dict,
    check_weights_file,
)
from .scores import check_fold_scores, check_shipped_scores

FILES = ("LICENSE", METADATA, "configs/inference.json", README, "docs/data_license.txt", WEIGHTS)
VERSION_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
TEXT_SUFFIXES = (".json", ".yaml", ".yml", ".conf", ".cfg", ".toml", ".md", ".txt", ".py", ".j2", ".sh", "")
ABSOLUTE_PATH = re.compile(
    r"""(?:^|["'`\s=(:,\[])((?:/(?:home|root|Users|Volumes|mnt|media|data|scratch|tmp|work|workspace|opt|srv|var)/"""
    r"""|[A-Z]:\\)[^\s"'`]*)""",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Outcome:
    """
    What came of a check; one that found several problems has as many outcomes.

    Args:
        status: "ok", "problem", "not recomputed" or "not recorded".
        detail: the problem, or why nothing was checked.
    """

    name: str
    status: str
    detail: str = ""


def verify_bundle(
    folder: PathLike, dataset_dir: PathLike | None = None, names: Iterable[str] | None = None
) -> list[Outcome]:
    """
    Run the checks of a bundle folder.

    Args:
        dataset_dir: KiTS folder with the labels that the scores are of; without one they are not recomputed.
        names: of `CHECKS`; all by default.

    Raises:
        InputError: when there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: expected a bundle folder, found none.")
    bundle = Bundle(folder, dataset_dir)
    with bundle.own_code():
        return [outcome for name in names or CHECKS for outcome in _run_check(name, bundle)]


def _run_check(name: str, bundle: Bundle) -> list[Outcome]:
    problems = []
    try:
        problems.extend(CHECKS[name](bundle))
    except NotChecked as reason:
        if not problems:
            return [Outcome(name, *reason.args)]
    except Exception as error:  # a stranger's code and files fail in any way they like
        known = find_input_error(error)
        problems += str(known).splitlines() if known else [f"{name}: expected no error, found {flatten(error)}"]
    own = f"{bundle.folder}{os.sep}"
    return [Outcome(name, "problem", problem.replace(own, "")) for problem in problems] or [Outcome(name, "ok")]


def check_files(bundle: Bundle) -> Iterator[str]:
    """The files that every bundle has are there, and its configs are JSON."""
    for name in FILES:
        if not (bundle.folder / name).is_file():
            yield f"{name}: expected a file, found none"
    for path in sorted(bundle.folder.glob("configs/*.json")):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            yield f"configs/{path.name}: expected JSON, found {error}"


def check_schema(bundle: Bundle) -> Iterator[str]:
    """Against the copy beside this file of the schema that the metadata names."""
    name = str(bundle.metadata.get("schema")).rpartition("/")[2]
    copy = Path(__file__).parent / name
    if not (name.startswith("meta_schema_") and copy.is_file()):
        raise NotChecked(f"no copy of the schema {name}")
    schema = json.loads(copy.read_text())
    errors = [best_match([error]) for error in validator_for(schema)(schema).iter_errors(bundle.metadata)]
    # one wrong value breaks every rule around it
    for path, message in dict.fromkeys((error.json_path, error.message) for error in errors):
        yield f"{METADATA} {path}: expected what {name} demands, found {message}"


def check_versions(bundle: Bundle) -> Iterator[str]:
    """The packages that the metadata pins are installed in that version."""
    pins = {package: bundle.metadata[key] for key, package in VERSION_KEYS.items() if key in bundle.metadata}
    for package, pin in (pins | bundle.metadata.get("required_packages_version", {})).items():
        try:
            yield from compare(package, pin, version(package).split("+")[0])
        except PackageNotFoundError:
            yield f"{package}: expected {pin}, found none installed"


def check_changelog(bundle: Bundle) -> Iterator[str]:
    """The changelog tells of this version."""
    if bundle.metadata["version"] not in bundle.metadata["changelog"]:
        yield f"changelog: expected {bundle.metadata['version']}, found {', '.join(bundle.metadata['changelog'])}"


def check_label_text(bundle: Bundle, source: str) -> Iterator[str]:
    """A listing such as "0 background, 1 kidney" names every channel as `channel_def` does."""
    text = bundle.readme if source == README else str(bundle.metadata.get(source))
    listings = find_listings(text, bundle.channels.values())
    if not listings:
        raise NotChecked(f"no numbered labels in {source}", NOT_RECORDED)
    for found in listings:
        # the background may go without saying
        expected = {channel: name for channel, name in bundle.channels.items() if channel or 0 in found}
        yield from compare(source, format_labels(expected), format_labels(found))


def check_label_codes(bundle: Bundle) -> Iterator[str]:
    """The bundle's own package gives every channel its number as code, and the name of `channel_def`."""
    codes = list(read_codes(bundle.folder, bundle.open_config(), bundle.channels))
    if not codes:
        raise NotChecked("no package with kits/volumes.py", NOT_RECORDED)
    for source, found in codes:
        yield from compare(source, format_labels(bundle.channels), format_labels(found))


def check_paths(bundle: Bundle) -> Iterator[str]:
    """No text of the bundle names a path of somebody's machine; what runs left in eval/ is no text of the bundle."""
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder)
        if path.is_file() and path.suffix in TEXT_SUFFIXES and name.parts[0] not in ("eval", "models"):
            for found in ABSOLUTE_PATH.findall(path.read_text(errors="replace")):
                yield f"{name}: expected no absolute path, found {found}"


def check_run_elsewhere(bundle: Bundle) -> Iterator[str]:
    """`inference.json` segments a synthetic case from a foreign working directory, where it leaves nothing."""
    bundle.find_weights()
    config = bundle.open_config()
    if "dataset_dir" not in config or "output_dir" not in config:
        raise NotChecked("no dataset_dir and output_dir in configs/inference.json", NOT_RECORDED)
    with tempfile.TemporaryDirectory() as folder:
        data, output, elsewhere = (Path(folder).resolve() / name for name in ("data", "output", "elsewhere"))
        elsewhere.mkdir()
        write_phantom_dataset(data, 1, shape=(8, 32, 32), spacing_mm=(15.0, 12.0, 12.0))
        options = {
            "config_file": bundle.folder / "configs/inference.json",
            "bundle_root": bundle.folder,
            "dataset_dir": data,
            "output_dir": output,
        }
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *words]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            yield f"run in another folder: expected exit code 0, found {done.returncode}: {last}"
            return
        yield from compare("label maps of a run in another folder", 1, len(list(output.rglob("*.nii*"))))
        yield from compare("files left in another folder", [], [path.name for path in elsewhere.iterdir()])


def check_commands(bundle: Bundle) -> Iterator[str]:
    """The commands of the README and, inside the repository, those in the metadata's scores."""
    yield from find_command_problems(README, bundle.readme, bundle.folder, bundle.repository)
    scores = bundle.metadata.get("scores") or {}
    if (bundle.repository / "scripts").is_dir():
        for key in ("cross_validation", "shipped_weights"):
            command = (scores.get(key) or {}).get("command", "")
            yield from find_command_problems(f"scores.{key}.command", command, bundle.folder, bundle.repository)


CHECKS = {
    "files": check_files,
    "metadata schema": check_schema,
    "versions": check_versions,
    "changelog": check_changelog,
    "label_classes": partial(check_label_text, source="label_classes"),
    "pred_classes": partial(check_label_text, source="pred_classes"),
    "labels in the README": partial(check_label_text, source=README),
    "labels in the code": check_label_codes,
    "network": check_network,
    "state dict": check_state_dict,
    "weights on the CPU": check_devices,
    "weights file": check_weights_file,
    "complexity": check_complexity,
    "sparsity": check_sparsity,
    "absolute paths": check_paths,
    "documented commands": check_commands,
    "run elsewhere": check_run_elsewhere,
    "Dice of the cross-validation": check_fold_scores,
    "Dice of the shipped weights": check_shipped_scores,
}
