"""``key=value`` arguments: the same habit as Ultralytics' command line, with the nearest key in the error."""

import difflib
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import UserError

Parser = Callable[[str], Any]
Spec = Dict[str, Tuple[Any, Parser, str]]  # key -> (default, parser, one line of help)


def text(value: str) -> str:
    """Any text."""
    return value


def flag(value: str) -> bool:
    """True or false."""
    lowered = value.lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off", "none"):
        return False
    raise ValueError("expected true or false")


def number(low: float, high: float, kind: Callable[[str], Any] = float) -> Parser:
    """Build a parser of a number (of type ``kind``) in [low, high]."""

    def parse(value: str) -> Any:
        try:
            parsed = kind(value)
        except ValueError:
            raise ValueError("expected a number")
        if not low <= parsed <= high:  # false for nan too
            raise ValueError("must be in [{:g}, {:g}]".format(low, high))
        return parsed

    return parse


def integers(value: str) -> List[int]:
    """A list such as ``[1,2,4]``, ``1,2,4`` or ``4``; every entry at least 1."""
    try:
        parsed = [int(part) for part in value.strip("[]() ").split(",")]
    except ValueError:
        raise ValueError("expected whole numbers such as 4 or [1,2,4]")
    if min(parsed) < 1:
        raise ValueError("every number must be at least 1")
    return parsed


def one_of(*choices: str) -> Parser:
    """Build a parser that accepts one of the given words."""

    def parse(value: str) -> str:
        lowered = value.lower()
        if lowered not in choices:
            near = difflib.get_close_matches(lowered, choices, 1)
            hint = "; did you mean {}?".format(near[0]) if near else ""
            raise ValueError("must be one of {}{}".format(", ".join(choices), hint))
        return lowered

    return parse


def optional(parser: Parser) -> Parser:
    """Build a parser that turns ``none`` and ``auto`` into None and gives the rest to ``parser``."""

    def parse(value: str) -> Any:
        return None if value.lower() in ("none", "auto", "") else parser(value)

    return parse


def parse_args(args: List[str], spec: Spec, command: str, positional: Optional[str] = "model") -> SimpleNamespace:
    """Turn ``["model.onnx", "n=100"]`` into a namespace of checked values.

    Args:
        args: Words after the command; one bare word fills ``positional``.
        spec: Key to (default, parser, help).
        command: Name of the command, for the error texts.
        positional: Key that a word without ``=`` fills; None where no such word is allowed.

    Raises:
        UserError: Unknown key (with the nearest one), repeated key, or a value outside its range.
    """
    values = {key: default for key, (default, _, _) in spec.items()}
    seen = set()
    for word in args:
        key, equals, value = word.partition("=")
        key = key.lstrip("-")
        if not equals:
            if positional is None or positional in seen:
                raise UserError("{}: expected key=value, got {!r}".format(command, word))
            key, value = positional, word
        if key not in spec:
            near = difflib.get_close_matches(key, list(spec), 1, 0.5)
            hint = "did you mean {}=?".format(near[0]) if near else "it knows: {}".format(", ".join(sorted(spec)))
            raise UserError("{}: unknown option {!r}; {}".format(command, key, hint))
        if key in seen:
            raise UserError("{}: {}= is given twice".format(command, key))
        seen.add(key)
        try:
            values[key] = spec[key][1](value)
        except ValueError as error:
            raise UserError("{}: {}={}: {}".format(command, key, value, error))
    return SimpleNamespace(**values)


def describe(spec: Spec) -> str:
    """Return one aligned line of help per key, with its default."""
    width = max(len(key) for key in spec) + 1
    lines = []
    for key, (default, _, line) in spec.items():
        shown = "" if default is None or default == "" else "  [{}]".format(default)
        lines.append("  {:<{}} {}{}".format(key + "=", width, line, shown))
    return "\n".join(lines)
