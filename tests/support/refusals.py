"""What an action is refused with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import InputError


def error_message(action: Callable[[], object]) -> str:
    """The message of the InputError that an action must raise."""
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def error_lines(action: Callable[[], object]) -> list[str]:
    """Its lines."""
    return error_message(action).splitlines()
