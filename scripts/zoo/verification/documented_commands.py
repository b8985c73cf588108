"""Command lines in a page: the files, workflows, scripts and options that they name exist."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import monai.bundle
import typer
from monai.bundle import ConfigParser

from common.app.cli import app

from .bundle import FILES

CONFIG = re.compile(r"configs/(?:[\w-]+/)?[\w-]+\.\w+")
FILE = re.compile(r"(?<![\w./-])(?:configs|docs)/[\w-]+\.\w+")
# what a command line runs or reads
SOURCE = re.compile(r"(?<![\w./$<-])(?!configs/|docs/)[\w-]+(?:/[\w-]+)*\.(?:py|sh|json)\b")
RUNNER = re.compile(r"\s*(?:bash|sh|python\S*|torchrun|make)\s")
SCRIPT = re.compile(r"scripts/\w+\.py")
DOOR = re.compile(r"(?:^|\s)(?:kits-lite|-m (?:common|kits_lite_v\w+)) ")
OPTION = re.compile(r"--([a-zA-Z_][\w#:-]*)")


def find_command_problems(page: str, text: str, folder: Path, root: Path) -> Iterator[str]:
    """
    Yield what the `python -m monai.bundle ...` and `scripts/*.py` commands of a text name and what is not there.

    Options in inline code, such as `--epochs`, are to be keys of any config.

    Args:
        page: what to call the text.
        folder: bundle folder.
        root: where scripts may be, beside the bundle folder.
    """
    for name in sorted(set(FILE.findall(text))):
        if name not in FILES and not (folder / name).is_file():
            yield f"{page}: {name}: expected a file, found none"
    files = [path for path in folder.glob("configs/**/*.json") if path.name != "metadata.json"]
    known = set(inspect.signature(monai.bundle.run).parameters).union(*map(ConfigParser.load_config_file, files))
    for code in _find_code(text):
        option = OPTION.match(code)
        if option and option[1].partition("#")[0] not in known:
            yield f"{page}: {option[0]}: expected a key of a config, found none"
        for name in SOURCE.findall(code) if RUNNER.match(code) and not SCRIPT.search(code) else ():
            if not any((place / name).is_file() for place in (folder, root)):
                yield f"{page}: {name}: expected a file, found none"
        try:
            commands = _split_commands(code)
        except ValueError as error:
            yield f"{page}: expected a command line, found {error} in {code.strip()}"
            continue
        for words in commands:
            if "monai.bundle" in words:
                problems = _check_workflow(words[words.index("monai.bundle") + 1 :], folder)
            elif _is_door(words):
                problems = _check_door(words)
            else:
                problems = _check_script(words, (folder, root))
            yield from (f"{page}: {problem}" for problem in problems)


def _find_code(text: str) -> Iterator[str]:
    """Lines of code and inline code, continued lines joined."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        yield from re.findall(r"`([^`]+)`", line) or [line]


def _split_commands(code: str) -> list[list[str]]:
    """The words of the commands on a line, those that are ours to check."""
    if not re.search(rf"-m monai\.bundle\s|\b(python\S*|torchrun)\s.*{SCRIPT.pattern}", code) and not DOOR.search(code):
        return []
    lexer = shlex.shlex(re.sub(r"\s#\s.*", "", code), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    commands = [[]]
    for word in lexer:
        if word in ("&&", "||", ";", "|", "&"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if "monai.bundle" in words or SCRIPT.search(" ".join(words)) or _is_door(words)]


def _is_door(words: Sequence[str]) -> bool:
    return bool(DOOR.search(f"{' '.join(words)} "))


def _check_door(words: Sequence[str]) -> Iterator[str]:
    """
    Args:
        words: a command line of `common.app.cli`.
    """
    line = f"{' '.join(words)} "
    _, *words = line[DOOR.search(line).end() - 1 :].split(" ")
    commands = typer.main.get_command(app).commands
    if words and words[0].startswith("-"):
        return
    if not words or words[0] not in commands:
        yield f"kits-lite: expected one of {', '.join(commands)}, found {' '.join(words[:1]) or 'none'}"
        return
    options = {"--help"}.union(*(parameter.opts for parameter in commands[words[0]].params))
    for word in words[1:]:
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options:
            yield f"kits-lite {words[0]} {word}: expected an option of the command, found none"


def _check_workflow(words: Sequence[str], folder: Path) -> Iterator[str]:
    """
    Args:
        words: what follows `python -m monai.bundle`: a function, perhaps the id to run, options.
    """
    function = getattr(monai.bundle, words[0], None) if words else None
    if not callable(function):
        yield f"expected a command of monai.bundle, found {' '.join(words[:1])}"
        return
    ids, options = _parse_options(words[1:])
    # whatever stands before configs/ depends on where the user is
    files = [folder / name for name in CONFIG.findall(options.get("config_file", ""))]
    if not all(file.is_file() for file in files):
        return
    parser = ConfigParser()
    parser.read_config(files)
    arguments = inspect.signature(function).parameters
    for key in [*(ids[:1] if files else []), *(key for key in options if key not in arguments)]:
        if key not in parser:
            where = ", ".join(file.name for file in files) or words[0]
            yield f"{key}: expected a key of {where}, found none"


def _parse_options(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and options as Fire takes them: `--key value`, `--key=value`, `--flag`."""
    arguments, options, key = [], {}, None
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            options[key] = value
            key = None if equals else key
        elif key is not None:
            options[key], key = word, None
        else:
            arguments.append(word)
    return arguments, options


def _check_script(words: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    start = next(index for index, word in enumerate(words) if SCRIPT.search(word))
    name = SCRIPT.search(words[start])[0]
    script = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if script is None:
        yield f"{name}: expected a script, found none"
        return
    code = script.read_text()
    for option in OPTION.finditer(" ".join(words[start + 1 :])):
        if f'"{option[0]}"' not in code:
            yield f"{name} {option[0]}: expected an option of the script, found none"
