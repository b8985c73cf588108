from __future__ import annotations

import pytest

from common.errors import InputError
from zoo.pages import format_markdown_table, replace_section

PAGE = "before\n<!-- numbers -->\nold\nlines\n<!-- /numbers -->\nafter\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_a_section_is_replaced_and_the_rest_stays(page):
    replace_section(page, "numbers", "1\\2 \\g<0>\n")
    assert page.read_text() == "before\n<!-- numbers -->\n1\\2 \\g<0>\n<!-- /numbers -->\nafter\n"
    replace_section(page, "numbers", "old\nlines")
    assert page.read_text() == PAGE


def test_an_empty_section_is_filled(page):
    page.write_text("<!-- numbers -->\n<!-- /numbers -->\n")
    replace_section(page, "numbers", "new")
    assert page.read_text() == "<!-- numbers -->\nnew\n<!-- /numbers -->\n"


@pytest.mark.parametrize("text, found", [("nothing", 0), (PAGE + PAGE, 2)])
def test_a_page_without_the_one_place_is_refused_and_left_alone(page, text, found):
    page.write_text(text)
    with pytest.raises(InputError, match=f"page.md: expected one place .* found {found}"):
        replace_section(page, "numbers", "new")
    assert page.read_text() == text


def test_a_table_has_a_line_a_row():
    table = format_markdown_table([{"name": "a", "n": "1"}, {"name": "b", "n": "2"}])
    assert table.splitlines() == ["| name | n |", "| --- | --: |", "| a | 1 |", "| b | 2 |"]
