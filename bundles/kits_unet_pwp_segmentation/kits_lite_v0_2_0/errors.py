"""Wrong input, told in one line."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
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


def describe_failure(case: str, error: BaseException) -> str:
    """One line, with its name, for a case that cannot be done: what is wrong with the input, or what broke and why."""
    told = find_input_error(error)
    if told is None:
        while error.__cause__ is not None:  # MONAI wraps what breaks in a transform once or twice
            error = error.__cause__
        told = f"{type(error).__name__}: {error}"
    case, line = (" ".join(str(words).split()) for words in (case, told))
    # what is wrong with a file begins with its path
    is_named = re.match(rf"(.*/)?{re.escape(case)}([./].*)?: ", line)
    return line if is_named else f"{case}: {line}"


def tell_failure(case: str, error: Exception, debug: bool = False) -> str:
    """Print what `describe_failure` says beside a progress bar, with debug how it came to it, too; gives the line."""
    from tqdm import tqdm  # which the command lines have, and bundles need not

    line = describe_failure(case, error)
    tqdm.write(f"failed: {line}", file=sys.stderr)
    if debug:
        tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr)
    return line


def report_warnings() -> None:
    """Print every warning as one line of its own, beside a progress bar, too."""
    from tqdm import tqdm

    def show(message: Warning | str, *_: object, **__: object) -> None:
        tqdm.write(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = show


def report_input_errors() -> None:
    """
    Make an uncaught `InputError` end the process with its one line instead of a traceback; bugs keep theirs.

    MONAI wraps whatever a config component raises in errors of its own, so the cause is searched for.

    Raises:
        InputError: when `monai.bundle run` was given an override that its configs do not know, see `check_overrides`.
    """

    def hook(kind: type[BaseException], error: BaseException, origin: TracebackType | None) -> None:
        input_error = find_input_error(error)
        if input_error is None:
            sys.__excepthook__(kind, error, origin)
        else:
            print(f"error: {input_error}", file=sys.stderr)

    sys.excepthook = hook
    from .overrides import check_overrides  # which raises the error below

    check_overrides(sys.argv)
