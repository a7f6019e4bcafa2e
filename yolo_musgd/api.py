"""The commands as functions: ``yolo_musgd.export(model="best.pt", target="raspberry-pi-5")``.

Each function takes the arguments of its command as keywords, with Python's own values: numbers, True, paths, lists and
mappings. It does what the command does, and returns a `yolo_musgd.edge.result.Result`: what was found, where it lies,
the figures. Bad input is a `yolo_musgd.edge.errors.UserError`, found before any work.

The types are in ``api.pyi``, which ``.ci/stubs.py`` writes from the table that the command line has.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any

from yolo_musgd.commands import COMMANDS, REQUIRED, arguments, run
from yolo_musgd.edge.result import Result

NAMES = ("bench", "bundle", "compare", "detect", "export", "federate", "pipeline", "prune", "val")

__all__ = list(NAMES)


def _word(value: Any) -> str:
    """A value as the command line has it; lists and mappings as JSON, which is YAML."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=_word, ensure_ascii=False)  # no command undoes JSON's \u00e9
    return str(value)


def _signature(name: str) -> inspect.Signature:
    """Of a command: the first argument may be given without its name where it is required."""
    parameters = []
    for place, argument in enumerate(arguments(name)):
        first = place == 0 and argument.default is REQUIRED
        parameters.append(
            inspect.Parameter(
                argument.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if first else inspect.Parameter.KEYWORD_ONLY,
                default=None if argument.default is REQUIRED else argument.default,
                annotation=argument.kind,
            )
        )
    if COMMANDS[name].trains:
        parameters.append(inspect.Parameter("train", inspect.Parameter.VAR_KEYWORD, annotation="Words"))
    return inspect.Signature(parameters, return_annotation=Result)


def _function(name: str) -> Callable[..., Result]:
    signature = _signature(name)
    names = {argument.name for argument in arguments(name)}

    def command(*args: Any, **settings: Any) -> Result:
        own = {key: value for key, value in settings.items() if key in names}
        words = {**signature.bind(*args, **own).arguments, **settings}  # the command itself answers unknown names
        given = {key: value for key, value in words.items() if value is not None or _takes_none(key)}
        found = run(name, [f"{key}={_word(value)}" for key, value in given.items()])
        assert isinstance(found, Result)
        return found

    def _takes_none(key: str) -> bool:
        return key in signature.parameters and signature.parameters[key].default not in (None, "")

    command.__name__ = command.__qualname__ = name
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = documentation(name)
    return command


def documentation(name: str) -> str:
    """The docstring of a command's function."""
    summary = COMMANDS[name].summary
    lines = [f"{summary[0].upper()}{summary[1:]}.", "", "Args:", *(f"    {a.name}: {a.help}." for a in arguments(name))]
    if COMMANDS[name].trains:
        lines.append("    train: arguments of ``yolo train`` such as imgsz and batch.")
    return "\n".join([*lines, "", "Raises:", "    UserError: bad input or a missing package, found before any work."])


def __getattr__(name: str) -> Callable[..., Result]:
    """Make a command's function on first use: its arguments are read from modules that import of this one need not."""
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _function(name)
    return made
