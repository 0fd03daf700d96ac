"""The short way to `sync push`, `pull` and `status`: without Typer, a third of their start-up.

Only a command line that means one thing is read here: long options in full, values in their plain
form. Whatever else stands there (help, an abbreviation, a mistake, completion) is left to Typer,
whose words then are the only ones. A test holds the two readings against each other.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from .endings import allow_insecure, root_options_first
from .options import declared
from .sync import SYNC_COMMANDS

_COMPLETION_VARIABLE = "_EDGEREPLICA_COMPLETE"


class _Unusual(Exception):
    """Left to Typer."""


def fast_command(words: Sequence[str], environ: Mapping[str, str]) -> Callable[[], None] | None:
    """What the command line `words` (without the program) asks for; None is left to Typer."""
    if _COMPLETION_VARIABLE in environ:
        return None
    try:
        return _read(root_options_first(list(words)))
    except _Unusual:
        return None


def _read(words: list[str]) -> Callable[[], None]:
    insecure = False
    server: str | None = None
    while words and words[0] != "sync":
        word = words.pop(0)
        if word == "--insecure":
            insecure = True
        elif word.partition("=")[0] == "--server":
            server = _value(word, words)
        else:
            raise _Unusual
    if len(words) < 2 or words[1] not in SYNC_COMMANDS:
        raise _Unusual
    function = SYNC_COMMANDS[words[1]]
    values = _options(function, words[2:])
    values["server"] = values.get("server") or server

    def run() -> None:
        if insecure:
            allow_insecure()
        function(**values)

    return run


def _options(function: Callable[..., None], words: list[str]) -> dict[str, Any]:
    known = {}
    for parameter, annotation in function.__annotations__.items():
        if parameter != "return":
            kind, option = declared(annotation)
            known[option.name] = (parameter, kind, option.least)
    values: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        name = word.partition("=")[0]
        if name not in known or known[name][0] in values:
            raise _Unusual
        parameter, kind, least = known[name]
        if kind is bool:
            if word != name:
                raise _Unusual
            values[parameter] = True
        else:
            values[parameter] = _converted(kind, _value(word, words), least)
    required = set(function.__annotations__) - {"return"} - set(function.__kwdefaults__ or ())
    if required - set(values):
        raise _Unusual
    return values


def _value(word: str, words: list[str]) -> str:
    """Of `--name=value`, or of `--name` and the word after it."""
    _, sign, value = word.partition("=")
    if not sign:
        value = words.pop(0) if words else ""
    if not value or (value.startswith("-") and value != "-"):
        raise _Unusual
    return value


def _converted(kind: Any, value: str, least: Any) -> Any:
    if kind is str:
        return value
    if kind is Path:
        if Path(value).exists() and not os.access(value, os.R_OK):
            raise _Unusual
        return Path(value)
    if issubclass(kind, Enum):
        for member in kind:
            if member.value == value:
                return member
        raise _Unusual
    if not value.isascii() or not value.replace(".", "", kind is float).isdigit():
        raise _Unusual
    number = kind(value)
    if least is not None and number < least:
        raise _Unusual
    return number
