"""``key=value`` arguments: the same habit as Ultralytics' command line, with the nearest key in the error."""

import difflib
import os
import re
from types import SimpleNamespace
from typing import Any, Callable, Collection, Dict, Iterable, List, Optional, Tuple

from .errors import UserError
from .files import check_name


class Required(str):
    """The default of an option that has none."""


REQUIRED = Required()

Parser = Callable[[str], Any]
Spec = Dict[str, Tuple[Any, Parser, str]]  # key -> (default, parser, one line of help)


_ITEM = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"\\]|\\.)*)"|([^,]*?))\s*(?:,|$)""")


def nearest(name: str, names: Iterable[str]) -> Optional[str]:
    """Return the entry of ``names`` that ``name`` most likely stands for, or None; letter case does not count.

    A part of an entry will do: ``pi5`` is raspberry-pi-5.
    """
    by_lower = {n.lower(): n for n in names}
    hits = difflib.get_close_matches(name.lower(), list(by_lower), 1, 0.5)
    part = re.sub("[^a-z0-9]", "", name.lower())
    hits = hits or [n for n in by_lower if len(part) > 1 and part in re.sub("[^a-z0-9]", "", n)]
    return by_lower[hits[0]] if hits else None


def items(value: str) -> List[str]:
    """Return the entries of a list such as ``[a,b]``, ``(a,b)``, ``a,b`` or ``a``; empty ones do not count.

    An entry in single or double quotes may hold commas: ``['a,b.yaml',c.yaml]``.
    """
    value = value.strip()
    if value[:1] + value[-1:] in ("[]", "()"):
        value = value[1:-1]
    found, place = [], 0
    while place < len(value):
        match = _ITEM.match(value, place)
        assert match is not None  # the last alternative takes anything
        single, double, bare = match.groups()
        found.append(bare if single is None and double is None else _unquoted(single, double))
        place = match.end()
    return [entry for entry in found if entry]


def _unquoted(single: Optional[str], double: Optional[str]) -> str:
    return single.replace("''", "'") if single is not None else re.sub(r"\\(.)", r"\1", double or "")


def pairs(
    args: Iterable[str],
    known: Collection[str],
    command: str,
    positional: Optional[str] = None,
    see: str = "",
    last_wins: bool = False,
    mark: str = "=",
) -> Dict[str, str]:
    """Split ``key=value`` words at their first ``=``.

    Args:
        args: Words after the command; leading dashes do not count.
        known: Keys that the command takes.
        command: Its name, for the error texts.
        positional: Key that one word without ``=`` fills; None where no such word is allowed.
        see: How the user gets help.
        last_wins: A key may be given again and the last value holds, as with Ultralytics; else that is an error.
        mark: What stands behind the key that an error suggests.

    Raises:
        UserError: A word without ``=``, an unknown key (with the nearest one), or one that is given twice.
    """
    found = {}  # type: Dict[str, str]
    for word in args:
        key, equals, value = word.partition("=")
        key = key.lstrip("-")
        if not equals:
            if positional is None or positional in found:
                raise UserError(
                    "{!r} is not key=value{}; see: {}".format(word, _meant(word, known), see or command + " help")
                )
            key, value = positional, word
        if key not in known:
            near = nearest(key, known)
            hint = "it takes {}".format(", ".join(sorted(known)) or "no arguments")
            raise UserError(
                "{} has no argument {!r}; {}".format(
                    command, key, "did you mean {}{}?".format(near, mark) if near else hint
                )
            )
        if key in found and not last_wins:
            raise UserError("{}: {}= is given twice".format(command, key))
        found[key] = value
    return found


def _meant(word: str, known: Collection[str]) -> str:
    """Return what a word without ``=`` was probably meant to be, as the middle of an error."""
    bare = word.lstrip("-")
    key = {".pt": "model", ".onnx": "model", ".yaml": "data"}.get(os.path.splitext(bare)[1])
    if bare in known:  # --target x86
        return ": write {}=... as one word".format(bare)
    return ", did you mean {}={}?".format(key, bare) if key in known else ""


def text(value: str) -> str:
    """Any text."""
    return value


def folder_name(value: str) -> str:
    """The name of a results folder; empty for the default."""
    if value:
        check_name(value)
    return value


def flag(value: str) -> bool:
    """True or false; a ValueError for anything else, as every parser here raises: parse_args names the key."""
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

    parse.kind = kind.__name__  # type: ignore[attr-defined]
    return parse


def integers(value: str) -> List[int]:
    """A list such as ``[1,2,4]``, ``1,2,4`` or ``4``; every entry in [1, 1024]."""
    try:
        parsed = [int(part) for part in items(value)]
    except ValueError:
        parsed = []
    if not parsed:
        raise ValueError("expected whole numbers such as 4 or [1,2,4]")
    if not all(1 <= number <= 1024 for number in parsed):
        raise ValueError("every number must be in [1, 1024]")
    return parsed


PLACE = {
    "project": ("", text, "results go to project/name; by default runs/<command>"),
    "name": ("", folder_name, "folder name, counted up when taken; by default the command's"),
    "save_dir": ("", text, "the results' folder itself, instead of project/name"),
    "exist_ok": (False, flag, "write into a folder that is there already"),
}  # type: Spec
"""Where results go; the words are Ultralytics'."""


def place(chosen: SimpleNamespace) -> Tuple[str, str, str, bool]:
    """Return what was chosen of ``PLACE``, in order."""
    return chosen.project, chosen.name, chosen.save_dir, chosen.exist_ok


def one_of(*choices: str) -> Parser:
    """Build a parser that accepts one of the given words."""

    def parse(value: str) -> str:
        lowered = value.lower()
        if lowered not in choices:
            near = nearest(lowered, choices)
            hint = "; did you mean {}?".format(near) if near else ""
            raise ValueError("must be one of {}{}".format(", ".join(choices), hint))
        return lowered

    parse.choices = choices  # type: ignore[attr-defined]
    return parse


def optional(parser: Parser) -> Parser:
    """Build a parser that turns ``none`` and ``auto`` into None and gives the rest to ``parser``."""

    def parse(value: str) -> Any:
        return None if value.lower() in ("none", "auto", "") else parser(value)

    parse.choices = choices_of(parser)  # type: ignore[attr-defined]
    parse.kind = kind_of(parser) + " | None"  # type: ignore[attr-defined]
    return parse


def choices_of(parser: Parser) -> Tuple[str, ...]:
    """Return the words that a parser takes; empty where they cannot be listed."""
    if parser is flag:
        return ("True", "False")
    found: Tuple[str, ...] = getattr(parser, "choices", ())
    return found


def kind_of(parser: Parser) -> str:
    """Return the type that a parser's values have in Python, as an annotation."""
    if parser is integers:
        return "int | Sequence[int]"
    words = choices_of(parser)
    literal = "Literal[{}]".format(", ".join('"{}"'.format(word) for word in words))
    return "bool" if parser is flag else literal if words else getattr(parser, "kind", "Words")


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
    if any("\0" in word for word in args):
        raise UserError("{}: a NUL character in its options".format(command))
    values = {key: default for key, (default, _, _) in spec.items()}
    for key, value in pairs(args, spec, command, positional).items():
        try:
            values[key] = spec[key][1](value)
        except UserError:
            raise
        except ValueError as error:
            raise UserError("{}: {}={}: {}".format(command, key, value, error))
    return SimpleNamespace(**values)


def describe(spec: Spec) -> str:
    """Return one aligned line of help per key: its default, and what it means."""
    return help_table([(key, default, line) for key, (default, _, line) in spec.items()])


def help_table(rows: List[Tuple[str, Any, str]]) -> str:
    """Return aligned lines of help.

    Args:
        rows: Key, default and meaning of each argument; a default of None or ``""`` is explained by the meaning.
    """
    shown = [
        (key + "=", "required" if isinstance(default, Required) else "" if default is None else str(default), line)
        for key, default, line in rows
    ]
    keys, defaults = (max([len(row[k]) for row in shown] or [0]) for k in (0, 1))
    return "\n".join("  {:<{}}  {:<{}}  {}".format(key, keys, value, defaults, line) for key, value, line in shown)
