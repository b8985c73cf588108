"""Wrong input, told in one line."""

from __future__ import annotations

import sys
from types import TracebackType


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or argument, what was expected and found."""

    is_input_error = True


def find_input_error(error: BaseException | None) -> BaseException | None:
    """The `InputError` that an exception is, or was raised from; None for a bug of ours."""
    while error is not None:
        # a mark, for a bundle of another version brings a class of its own
        if getattr(error, "is_input_error", False):
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
