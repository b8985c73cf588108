"""One copy of the code at work: the name of a bundle's copy stands for this package where the two are the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, POCKET

from common.bundle_folder import PACKAGE

OPEN = """
import sys
from common.bundle_folder import open_bundle
from common.errors import InputError
from common.networks import LiteUNet
network = open_bundle({folder!r}).get_parsed_content("network_def")
import {package}.errors
print(type(network) is LiteUNet, {package}.errors.InputError is InputError, type(network).__module__)
"""


def open_in_a_process(folder: Path, package: str = PACKAGE) -> list[str]:
    """Whether the network's class, and the error, are this package's; the module of the class."""
    code = OPEN.format(folder=str(folder), package=package)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("copied", [False, True])
def test_an_equal_copy_is_this_package(copied, copy_bundle):
    folder = copy_bundle() if copied else BUNDLES / POCKET
    assert open_in_a_process(folder) == ["True", "True", "common.networks.lite_unet"]


def test_a_copy_that_differs_is_itself(copy_bundle):
    folder = copy_bundle()
    with (folder / PACKAGE / "networks/layers.py").open("a") as file:
        file.write("# changed\n")
    assert open_in_a_process(folder) == ["False", "False", f"{PACKAGE}.networks.lite_unet"]


def test_a_copy_of_another_version_is_itself(copy_bundle):
    folder = copy_bundle()
    other = f"{PACKAGE}_next"
    (folder / PACKAGE).rename(folder / other)
    for path in folder.glob("configs/*.json"):
        path.write_text(path.read_text().replace(PACKAGE, other))
    assert open_in_a_process(folder, other) == ["False", "False", f"{other}.networks.lite_unet"]
