"""README: its numbers are those of the networks, its files and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.zoo.bundling import render_metadata
from common.zoo.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_table_holds_the_counted_parameters_and_flops(variant):
    row = next(line for line in README.splitlines() if line.startswith(f"| `{variant.name}`"))
    complexity = render_metadata(variant)["complexity"]
    assert row.split("|")[3:5] == [f" {complexity['parameters']:,} ", f" {complexity['flops']:,} "]


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    files = [link for link in links if not link.startswith("http")]
    assert len(files) > 5 and all((ROOT / file).is_file() for file in files)


def test_named_scripts_and_their_options_exist():
    commands = re.findall(r"python (scripts/\w+\.py)([^\n`]*)", README)
    assert len(commands) >= 5
    for script, words in commands:
        code = (ROOT / script).read_text()
        assert all(f'"{option}"' in code for option in re.findall(r"--[\w-]+", words)), script
