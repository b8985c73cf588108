"""The picture of the page in the documents, taken anew where it is asked for."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-screenshot", action="store_true", help="write docs/web/screenshot.png")
