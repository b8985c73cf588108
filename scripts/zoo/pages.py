"""Pages in docs/ and README.md whose numbers a command writes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from common.errors import InputError
from common.files import write_whole

# the keyword of a PNG's text
SHOWN = "Description"


def replace_section(page: Path, name: str, content: str) -> None:
    """
    Put other content between `<!-- name -->` and `<!-- /name -->` of a page.

    Raises:
        InputError: when the page has no such place, or several.
    """
    text, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: f"{match[1]}{content.strip()}\n{match[2]}",
        page.read_text(),
        flags=re.DOTALL,
    )
    if count != 1:
        raise InputError(f"{page}: expected one place between <!-- {name} --> and <!-- /{name} -->, found {count}.")
    with write_whole(page) as temporary:
        temporary.write_text(text)


def write_figure(path: Path, figure: Figure, shown: object) -> None:
    """Write a PNG that carries the numbers it shows, so that a test sees where it is older than they are."""
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={SHOWN: json.dumps(shown)})


def read_figure(path: Path) -> object:
    """The numbers that a PNG shows, as `write_figure` was given them."""
    with Image.open(path) as image:
        return json.loads(image.text[SHOWN])


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none where it was not measured yet and there is no such file."""
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def format_markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A markdown table, a column a key; all but the first column are aligned to the right."""
    header = list(rows[0])
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *(row.values() for row in rows)])
