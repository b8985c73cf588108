"""docs/studies/audit.md: its tables are what the command writes, its verdicts follow from the numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from studies.audit import SECTIONS, claims, write_audit
from studies.audit.claims import VERDICTS, build, collect_findings, judge, judge_all

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/studies/audit.md").read_text()
PLACE = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)


def find_verdicts() -> dict[str, str]:
    return {finding.claim: finding.verdict for finding in collect_findings()}


# ---- the page


def test_the_page_is_what_the_command_writes(tmp_path):
    page = tmp_path / "audit.md"
    page.write_text(PLACE.sub("<!-- \\1 -->\n<!-- /\\1 -->", PAGE))
    assert page.read_text() != PAGE
    write_audit(page)
    assert page.read_text() == PAGE, "run python scripts/audit.py"
    assert [name for name, _ in PLACE.findall(PAGE)] == list(SECTIONS)


def test_the_command_writes_one_changed_digit_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import audit

    page = tmp_path / "audit.md"
    page.write_text(PAGE.replace("1,244,035", "1,244,036"))
    assert page.read_text() != PAGE
    assert audit.main(["--page", str(page)]) == 0 and page.read_text() == PAGE
    assert audit.PAGE.read_text() == PAGE
    sys.modules.pop("audit")


def test_a_number_between_the_tables_is_one_that_is_quoted():
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|\[(?:arXiv|doi):[^]]*", " ", PLACE.sub("", PAGE))
    numbers = set(re.findall(r"\d[\d,.]*\d", prose))
    claimed = " ".join(finding.claim for finding in collect_findings())
    quoted = {number for number in numbers if re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,]*\d)", claimed)}
    assert len(quoted) > 4
    # years; sizes and settings; what the papers print besides
    settings = {"256", "12", "16", "27", "64"}
    printed = {"62.4", "62.04", "0.5601", "93.62", "0.066", "210", "300", "98", "97.3", "97.91", "97.8"}
    assert {n for n in numbers - quoted if not n.startswith("20")} <= settings | printed


@pytest.mark.parametrize(
    "text, words",
    [(None, "expected the page to write the tables to"), ("no places", "expected one place between <!-- summary -->")],
)
def test_a_page_that_cannot_be_written_is_told_in_one_line(tmp_path, text, words):
    page = tmp_path / "audit.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(InputError, match=words):
        write_audit(page)
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if text is None else [text])


# ---- verdicts


@pytest.mark.parametrize(
    "printed, found, explained, verdict",
    [
        (150_049, 150_049, None, "exact"),
        (150_049, 150_050, None, "nearly"),
        (50_000, 52_993, None, "nearly"),  # rounds to the one digit
        (51_000, 52_993, None, "not reproduced"),
        (3.9e6, 3_926_659, None, "nearly"),
        (3.9e6, 3_960_000, None, "not reproduced"),
        (7.8e6, 16.7e9, 7.83e6, "artefact"),
        (7.8e6, 16.7e9, 7.9e6, "not reproduced"),
        (7.8e6, 7.8e6, 7.8e6, "exact"),
        (1_297_441, 1_244_035, None, "not reproduced"),
        (0.428, 0.961, None, "not reproduced"),
    ],
)
def test_the_verdict_follows_from_the_numbers(printed, found, explained, verdict):
    assert judge(printed, found, explained) == verdict


def test_of_several_numbers_the_worst_decides():
    assert judge_all([1000, 2000], [1000, 2000]) == "exact"
    assert judge_all([1000, 2000], [1000, 2001]) == "nearly"
    assert judge_all([1000, 2000], [1001, 5000]) == "not reproduced"
    assert judge_all([1000, 2000], [1000]) == judge_all([1000], [1000, 2000]) == "not reproduced"


def test_every_paper_has_findings_with_known_verdicts():
    findings = collect_findings()
    assert {finding.verdict for finding in findings} == set(VERDICTS)
    assert all(sum(finding.paper == paper for finding in findings) >= 3 for paper in claims.AUDITS)


@pytest.mark.parametrize("column", [0, 1])
def test_one_other_digit_in_table_2_is_no_longer_exact(monkeypatch, column):
    claim = "parameters and FLOPs of 17 sub-models"
    assert find_verdicts()[claim] == "exact"
    changed = [list(row) for row in claims.TABLE_2]
    changed[8][column] += 1
    monkeypatch.setattr(claims, "TABLE_2", [tuple(row) for row in changed])
    assert find_verdicts()[claim] != "exact"
    monkeypatch.setattr(claims, "TABLE_2", claims.TABLE_2[:-1])
    assert find_verdicts()[claim] == "not reproduced"


def test_a_network_that_is_built_otherwise_is_no_longer_exact(monkeypatch):
    claim = "31,030,723 parameters, 96,200,556,544 FLOPs"
    assert find_verdicts()[claim] == "exact"
    monkeypatch.setitem(claims.ROWS, "UNet-PWP", claims.ROWS["UNet-PWP"] | {"out_channels": 2})
    build.cache_clear()
    try:
        assert find_verdicts()[claim] == "nearly"
    finally:
        build.cache_clear()
