"""Overrides on the command line of `monai.bundle run`, of which MONAI takes any name, and ignores one without use."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from .errors import InputError


def check_overrides(arguments: Sequence[str]) -> None:
    """
    Refuse an override that no config has a place for.

    A new argument of a component, such as `--network_def#dropout`, has one: the component.

    Args:
        arguments: the words of the command line, the program first; those of other programs are left alone.

    Raises:
        InputError: naming the override, and the nearest name that there is.
    """
    if PurePath(arguments[0]).parts[-3:] != ("monai", "bundle", "__main__.py") or arguments[1:2] != ["run"]:
        return
    import monai.bundle  # which only such a run has loaded already

    given = _read_options(arguments[2:])
    files, own = given.get("config_file"), inspect.signature(monai.bundle.run).parameters
    if files is None or "args_file" in given:  # then it is not all here
        return
    config = monai.bundle.ConfigParser.load_config_files(files)
    for name in given.keys() - own.keys():
        keys = name.replace("::", "#").split("#")
        place: Any = config
        for depth, key in enumerate(keys):
            is_argument = isinstance(place, Mapping) and "_target_" in place and depth == len(keys) - 1
            if not isinstance(place, Mapping) or is_argument:
                break  # into a list, or into what an expression will make
            if key not in place:
                known = [*place, *(own if depth == 0 else ())]
                near = "".join(f"; did you mean --{'#'.join([*keys[:depth], match])}?" for match in _match(key, known))
                raise InputError(f"--{name}: expected a key of the configs, found none of this name{near}")
            place = place[key]
        else:
            _check_kind(name, place, given[name])


def _check_kind(name: str, default: Any, value: Any) -> None:
    """Refuse what is no truth value or number in the stead of one: `false` is a word, and holds."""
    if value is None or isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    is_truth, is_number = isinstance(value, bool), isinstance(value, (int, float))
    if isinstance(default, bool) and not is_truth:
        raise InputError(f"--{name}: expected True or False, found {value}.")
    if isinstance(default, (int, float)) and not isinstance(default, bool) and (is_truth or not is_number):
        raise InputError(f"--{name}: expected a number, found {value}.")


def _match(key: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(key, known, n=1)


def _read_options(words: Sequence[str]) -> dict[str, Any]:
    """Options by name, as Python Fire reads them: `--name value` or `--name=value`, with a hyphen for an underscore."""
    options: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], ""]):
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = "True" if following.startswith("--") or not following else following
            options[name.replace("-", "_").lstrip("+~")] = _read_literal(value if equals else following)
    return options


def _read_literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (SyntaxError, ValueError):
        return word
