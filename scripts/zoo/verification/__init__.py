"""
Whether what a bundle folder says of itself is true: each check recounts, reloads or reruns it.

A check takes a `Bundle` and yields its problems, "<what>: expected ..., found ...": expected is what is recorded, found
what was counted. It raises `NotChecked` where nothing is recorded, or where what it takes is missing. No check knows a
variant: the folder may be anyone's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai.config import PathLike

from common.errors import InputError, find_input_error

from .bundle import Bundle, NotChecked, flatten
from .configs import check_commands, check_configs, check_loaded_weights, check_run_elsewhere
from .contents import check_card, check_changelog, check_files, check_keys, check_paths, check_schema, check_versions
from .label_order import check_inferer, check_labels
from .network import (
    check_complexity,
    check_devices,
    check_network,
    check_sparsity,
    check_state_dict,
    check_weights_file,
)
from .scores import check_scores
from .shipped import check_shipped


@dataclass(frozen=True)
class Outcome:
    """
    What came of a check; one that found several problems has as many outcomes.

    Args:
        status: "ok", "problem", "not recomputed" or "not recorded", see `NotChecked`.
        detail: the problem, or why nothing was checked.
    """

    name: str
    status: str
    detail: str = ""


def verify_bundle(
    folder: PathLike,
    dataset_dir: PathLike | Sequence[PathLike] | None = None,
    names: Iterable[str] | None = None,
) -> list[Outcome]:
    """
    Run the checks of a bundle folder.

    Args:
        dataset_dir: KiTS folder or folders with the labels that the scores are of; else they are not recomputed.
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


CHECKS = {
    "files": check_files,
    "metadata schema": check_schema,
    "metadata keys": check_keys,
    "versions": check_versions,
    "changelog": check_changelog,
    "labels": check_labels,
    "inferer": check_inferer,
    "network": check_network,
    "state dict": check_state_dict,
    "weights on the CPU": check_devices,
    "weights file": check_weights_file,
    "shipped network": check_shipped,
    "weights that run": check_loaded_weights,
    "complexity": check_complexity,
    "sparsity": check_sparsity,
    "card": check_card,
    "configs": check_configs,
    "absolute paths": check_paths,
    "documented commands": check_commands,
    "run elsewhere": check_run_elsewhere,
    "scores": check_scores,
}
