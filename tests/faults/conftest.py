"""What the fault suite found, counted over all of it, printed at its end and written to docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from killed_tasks import make_place

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
COMMANDS = ("the commands segment, check and score", "and inference.json")
HEAD = """# Reliability: what was tried, and what was lost

`make faults` makes of one small CT what scanners, archives, converters and broken downloads make of theirs, feeds every
command with it, and writes this page.

- *right*: the mask is the clean CT's, voxel by voxel in the patient.
- *with a warning*: values that are not those of a CT, or a header that does not say how the patient lies.
- *told*: one line that names the input and the cause, exit code 1, and no file.
- *lost*: anything else: a traceback, a mask beside the image, half a file, a changed input.

| family | inputs | right | with a warning | told | lost |
| --- | --: | --: | --: | --: | --: |
"""
TAIL = "\nEvery input went through {}. Random volumes of the property tests are not counted.\n"


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


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for reports in (terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed", "error")):
        for report in reports:
            told = dict(getattr(report, "user_properties", ()))
            if report.when == "call" and "family" in told:
                counts[told["family"], told["fate"] if report.passed else "lost"] += 1
    families = sorted({family for family, _ in counts})
    if not families:
        return
    fates = ("right", "warning", "told", "lost")
    rows = [
        (family, sum(counts[family, fate] for fate in fates), *(counts[family, fate] for fate in fates))
        for family in families
    ]
    rows.append(("**all**", *(sum(column) for column in list(zip(*rows))[1:])))
    table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    terminalreporter.write_line(table)
    if config.getoption("--write-reliability"):
        PAGE.write_text(HEAD + table + "\n" + TAIL.format(", ".join(COMMANDS)), encoding="utf-8")
