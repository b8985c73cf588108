from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError, describe_failure, find_input_error

ROOT = Path(__file__).resolve().parents[1]


def catch(function: Callable[[], None]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (any exception is what it is about)
        function()
    return caught.value


def raise_input_error() -> None:
    raise InputError("labels.nii.gz: expected 3 labels, found 7.")


def raise_from(inner: Callable[[], None]) -> Callable[[], None]:
    """Wrap as `raise ... from error` does: the chain goes through `__cause__`."""

    def outer() -> None:
        try:
            inner()
        except Exception as error:
            raise RuntimeError("wrapped") from error

    return outer


def raise_from_one_at_hand() -> None:
    """As a worker's error is handed over: there is a `__cause__` and no `__context__`."""
    raise RuntimeError("wrapped") from InputError("labels.nii.gz: expected 3 labels, found 7.")


def raise_while_handling(inner: Callable[[], None]) -> Callable[[], None]:
    """Wrap as a plain `raise` in a handler does: the chain goes through `__context__`."""

    def outer() -> None:
        try:
            inner()
        except Exception:
            raise KeyError("wrapped")  # noqa: B904 (what is tested)

    return outer


def raise_bug() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    "function",
    [
        raise_input_error,
        raise_from(raise_input_error),
        raise_from_one_at_hand,
        raise_while_handling(raise_input_error),
        raise_from(raise_from(raise_input_error)),
        raise_while_handling(raise_while_handling(raise_input_error)),
        raise_from(raise_while_handling(raise_input_error)),
        raise_while_handling(raise_from(raise_input_error)),
    ],
)
def test_input_error_is_found_through_every_chain(function):
    found = find_input_error(catch(function))
    assert type(found) is InputError and str(found) == "labels.nii.gz: expected 3 labels, found 7."


@pytest.mark.parametrize("function", [raise_bug, raise_from(raise_bug), raise_while_handling(raise_from(raise_bug))])
def test_a_bug_has_no_input_error(function):
    assert find_input_error(catch(function)) is None


def test_a_value_error_is_no_input_error_but_the_other_way_round():
    assert find_input_error(ValueError("channels")) is None
    assert isinstance(InputError("channels"), ValueError)


def test_no_error_has_no_input_error():
    assert find_input_error(None) is None


def test_the_input_error_of_a_bundle_of_another_version_is_found_too():
    specification = importlib.util.spec_from_file_location("kits_lite_v0_0_1.errors", ROOT / "common/errors.py")
    copy = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(copy)
    assert copy.InputError is not InputError
    bundled = copy.InputError("labels.nii.gz: expected 3 labels, found 7.")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = bundled
    assert find_input_error(wrapped) is bundled


def test_the_outermost_input_error_is_the_one_that_is_told():
    outer = InputError("outer")
    outer.__cause__ = InputError("inner")
    assert find_input_error(outer) is outer


def run(script: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_an_input_error_wrapped_twice_ends_in_one_line_and_exit_code_one():
    result = run(
        """
        from common.errors import InputError, report_input_errors
        report_input_errors()
        print("working")
        try:
            try:
                raise InputError("case_00000: expected imaging.nii.gz, found nothing.")
            except InputError as error:
                raise RuntimeError("Failed to instantiate component") from error
        except RuntimeError:
            raise ValueError("Failed to run the bundle")
        """
    )
    assert (result.returncode, result.stdout) == (1, "working\n")
    assert result.stderr == "error: case_00000: expected imaging.nii.gz, found nothing.\n"


def test_a_bug_keeps_its_traceback():
    result = run(
        """
        from common.errors import report_input_errors
        report_input_errors()
        def divide():
            raise RuntimeError("a bug of ours")
        divide()
        """
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):") and "in divide" in result.stderr
    assert result.stderr.endswith("RuntimeError: a bug of ours\n") and "error: " not in result.stderr


def test_without_the_report_an_input_error_keeps_its_traceback():
    result = run("from common.errors import InputError; raise InputError('no such case')")
    assert result.returncode == 1 and result.stderr.startswith("Traceback")


@pytest.mark.parametrize(("statement", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("pass", 0)])
def test_other_ends_stay_as_they_are(statement, code):
    result = run(f"import sys; from common.errors import report_input_errors; report_input_errors(); {statement}")
    assert (result.returncode, result.stderr) == (code, "")


@pytest.mark.parametrize(
    ("case", "told", "line"),
    [
        ("a", InputError("/x/a.nii.gz: expected more, found less."), "/x/a.nii.gz: expected more, found less."),
        ("a", InputError("series/a/003.dcm: expected Rows."), "series/a/003.dcm: expected Rows."),
        ("a", InputError("height must be divisible by 16."), "a: height must be divisible by 16."),
        ("a", TypeError("a float"), "a: TypeError: a float"),
        ("two\nlines", KeyError("x"), "two lines: KeyError: 'x'"),
    ],
)
def test_a_failure_is_one_line_with_the_name_of_its_case(case, told, line):
    assert describe_failure(case, told) == line
