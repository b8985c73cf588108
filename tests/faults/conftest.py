"""What the fault suite found, counted over all of it, printed at its end and written to docs/reliability.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from killed_tasks import make_place

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
COMMANDS = ("the commands segment, check and score", "and inference.json")
HEAD = """# Reliability: what was tried, and what was lost

`make faults` makes of one small CT what scanners, archives, converters and broken downloads make of theirs, feeds every
command with it, kills whatever writes files at points that are always the same, and writes this page.

- *right*: the mask is the clean CT's, voxel by voxel in the patient; of a run that was killed, lost a rank or was
  started twice at once: what stands is whole, and the same command then ends with the bytes of an undisturbed one.
- *with a warning*: values that are not those of a CT, or a header that does not say how the patient lies.
- *told*: one line that names the input and the cause, exit code 1, and no file.
- *lost*: anything else: a traceback, a mask beside the image, half a file, a changed input.

| family | tried | right | with a warning | told | lost |
| --- | --: | --: | --: | --: | --: |
"""
TAIL = "\nEvery image went through {}. What is random is not counted: volumes, and bytes in every file that is read.\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-reliability", action="store_true", help="write docs/reliability.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a bundle, cases and a training, for what is killed at work beside them."""
    return make_place(tmp_path_factory.mktemp("killed"))


def read_rows() -> dict[str, list[int]]:
    """The rows of the page: where a part of the suite runs, those of the other families stay."""
    rows = re.findall(r"^\| ([^|*]+) \| \d+ \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.M)
    return {family: [int(count) for count in row] for family, *row in rows}


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for reports in (terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed", "error")):
        for report in reports:
            told = dict(getattr(report, "user_properties", ()))
            if report.when == "call" and "family" in told:
                counts[told["family"], told["fate"] if report.passed else "lost"] += 1
    if not counts:
        return
    rows = read_rows() if config.getoption("--write-reliability") else {}
    for family in {family for family, _ in counts}:
        rows[family] = [counts[family, fate] for fate in ("right", "warning", "told", "lost")]
    rows = {family: rows[family] for family in sorted(rows)}
    rows["**all**"] = [sum(column) for column in zip(*rows.values())]
    table = "\n".join(f"| {' | '.join(map(str, (family, sum(row), *row)))} |" for family, row in rows.items())
    terminalreporter.write_line(table)
    if config.getoption("--write-reliability"):
        PAGE.write_text(HEAD + table + "\n" + TAIL.format(", ".join(COMMANDS)), encoding="utf-8")
