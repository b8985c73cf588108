"""Wrong input, told in one line."""

from __future__ import annotations

import sys
from types import TracebackType


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or argument, what was expected and found."""


def find_input_error(error: BaseException | None) -> BaseException | None:
    """The `InputError` that an exception is, or was raised from; None for a bug of ours."""
    while error is not None:
        # by name: every bundle brings its own copy of the class
        if any(kind.__name__ == InputError.__name__ for kind in type(error).__mro__):
            return error
        error = error.__cause__ or error.__context__
    return None


def report_input_errors() -> None:
    """
    Make an uncaught `InputError` end the process with its one line instead of a traceback; bugs keep theirs.

    MONAI wraps whatever a config component raises in errors of its own, so the cause is searched for.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        input_error = find_input_error(error)
        if input_error is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {input_error}", file=sys.stderr)

    sys.excepthook = hook
