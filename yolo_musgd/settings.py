"""Settings: frozen dataclasses whose fields know their range; key=value in, one clear line out.

This module imports neither torch nor ultralytics, so that the plugin can read its keys at no cost.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import nearest
from yolo_musgd.places import Place, check_parent, check_place

S = TypeVar("S", bound="Settings")


MOST_SEED = 2**32 - 1
"""The largest seed that NumPy takes, and with it Ultralytics."""


class SettingsError(UserError):
    """A setting with an unknown name, a wrong type or a value out of range."""


def setting(
    default: Any,
    help: str,
    *,
    kind: type | None = None,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    required: str | None = None,
    file: str | None = None,
) -> Any:
    """A dataclass field with its documentation and range.

    Args:
        default: default value; None means "decided by the program", and is then allowed.
        help: one line for people.
        kind: bool, int, float or str; the type of the default unless given.
        low: smallest allowed number.
        high: largest allowed number.
        below: exclusive upper bound.
        choices: allowed strings, in lower case.
        required: an example value, for a setting without which the command cannot work.
        file: what kind of file it names, which is looked for before the work: see `yolo_musgd.resources.check_file`.
    """
    meta = {
        "help": help, "kind": kind or type(default), "low": low, "high": high, "below": below, "choices": choices,
        "required": required, "file": file,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=meta)


def bare_device(given: object) -> str:
    """A device in lower case without brackets, quotes and spaces: ``0,1`` of ``[0, 1]`` or of a tuple."""
    return re.sub(r"[\[\]()'\s]", "", str(given).lower())


def check_device(text: str) -> None:
    """Refuse what Ultralytics takes for no device; whether this machine has it is asked when PyTorch is loaded.

    Raises:
        SettingsError: neither a name of a device nor numbers of GPUs.
    """
    known = r"none|cpu|cuda|(mps|npu|xpu|hpu|tpu|intel)(:\w+)?|(cuda:)?-?\d+(,(cuda:)?-?\d+)*"
    if not re.fullmatch(known, bare_device(text)):
        raise SettingsError(f"device={text} is no device: cpu, mps, or the number of a GPU as 0 or [0,1]")


def save_dir() -> Any:
    """The field ``save_dir`` of a command's settings, as Ultralytics has it."""
    return setting(None, "the results' folder itself, instead of project/name", kind=str)


def exist_ok(what: str = "write into") -> Any:
    """The field ``exist_ok`` of a command's settings, as Ultralytics has it."""
    return setting(False, f"{what} a folder that is there already")


def _range_text(meta: Mapping[str, Any]) -> str:
    low, high, below = meta["low"], meta["high"], meta["below"]
    if below is not None:
        return f"in [{low:g}, {below:g})"
    if high is not None:
        return f"in [{low:g}, {high:g}]"
    return f">= {low:g}" if low is not None else "a number"


def check_value(name: str, value: Any, default: Any, meta: Mapping[str, Any]) -> Any:
    """Return ``value`` in the setting's type, or raise SettingsError with value, range and fix.

    Args:
        name: the setting's name, for the message.
        value: what the user gave.
        default: the default; where it is None, None is allowed.
        meta: kind, range and choices as `setting` wrote them.
    """
    kind = meta["kind"]
    if value is None and default is None:
        return None
    if kind is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{name} must be True or False, got {value!r}; the default is {default}")
        return value
    if kind in (int, float):
        if hasattr(value, "item"):  # a 0-d tensor or a NumPy number
            value = value.item()
        low, high, below = meta["low"], meta["high"], meta["below"]
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not is_finite(value)
            or (low is not None and value < low)
            or (high is not None and value > high)
            or (below is not None and value >= below)
            or (kind is int and value != int(value))
        ):
            raise SettingsError(
                f"{name} must be {_range_text(meta)}, got {short(value)}{_instead(value, default, meta)}"
            )
        return kind(value)
    if meta["choices"] is not None:
        text = str(value).lower()
        if text not in meta["choices"]:
            guess = nearest(text, meta["choices"])
            hint = f"; did you mean {guess}?" if guess else ""
            raise SettingsError(f"{name} must be one of {', '.join(meta['choices'])}, got {value!r}{hint}")
        return text
    return str(value)


def _instead(value: Any, default: Any, meta: Mapping[str, Any]) -> str:
    """What to write instead of a number out of range: the same with a minus (flops=0.4), or the default."""
    low, high = meta["low"], meta["high"] if meta["below"] is None else meta["below"]
    turned = isinstance(value, float) and low is not None and high is not None and low <= -value < min(high, 0)
    return f"; did you mean {-value:g}?" if turned else "" if default is None else f"; the default is {default}"


def short(value: Any) -> str:
    """A value as a message shows it: at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_finite(value: float) -> bool:
    """Whether a number is one that a float can hold: no NaN, no infinity, not beyond 1.8e308."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float can hold
        return False


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings: checks every field when it is made."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Name that an older release took -> today's, for the answer to it."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = check_value(field.name, getattr(self, field.name), field.default, field.metadata)
            object.__setattr__(self, field.name, value)

    @classmethod
    def _hint(cls, name: str) -> str:
        guess = cls.renamed.get(name) or nearest(name, cls.names())
        return f"; did you mean {guess}?" if guess else ""

    @classmethod
    def read(cls: type[S], args: Mapping[str, str]) -> S:
        """Settings from a command's words and from the recipe that they name, where the command takes one."""
        return parse(cls, args)

    def check_files(self) -> None:
        """Refuse a place for results that is none, and models and data sets that are nowhere, before torch is loaded.

        Raises:
            UserError: see `yolo_musgd.places.check_parent` and `yolo_musgd.resources.check_file`.
        """
        if hasattr(self, "exist_ok"):
            check_place(cast("Place", self))
        elif hasattr(self, "project"):
            check_parent(self.project, getattr(self, "name", None))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata["file"] and value:
                resources.check_file(field.metadata["file"], field.name, value)
            elif field.name == "device" and value:
                check_device(value)

    def require(self, name: str, more: str = "") -> str:
        """The value of a setting without which the command cannot work.

        Raises:
            SettingsError: it was not given.
        """
        value = getattr(self, name)
        if value in (None, ""):
            example = next(f.metadata["required"] for f in dataclasses.fields(self) if f.name == name)
            raise SettingsError(f"{name}= is required, for example {name}={example}{more}")
        return str(value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The settings' names, in order."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Name -> default value."""
        return {f.name: f.default for f in dataclasses.fields(cls)}

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any], ignore_unknown: bool = False) -> S:
        """Settings from a mapping such as a parsed YAML file.

        Args:
            values: name -> value.
            ignore_unknown: take what belongs here and leave the rest (the host's own arguments, say).

        Raises:
            SettingsError: unknown name (with the nearest known one), wrong type or value out of range.
        """
        known = cls.names()
        for name in values:
            if name not in known and not ignore_unknown:
                raise SettingsError(f"unknown setting {name!r}{cls._hint(name)}")
        return cls(**{k: v for k, v in values.items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        """Name -> value."""
        return dataclasses.asdict(self)


def parse(cls: type[S], args: Mapping[str, str]) -> S:
    """Settings of a command from its arguments, which are already split at the first ``=``.

    Args:
        cls: a settings class whose fields are bool, int, float or str.
        args: name -> text; ``True``/``False`` in any case for switches.

    Raises:
        SettingsError: unknown name, or a value of the wrong type or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for name, text in args.items():
        if name not in fields:
            raise SettingsError(f"unknown argument {name!r}{cls._hint(name)}")
        values[name] = _convert(name, text, fields[name].metadata["kind"], fields[name].default)
    return cls(**values)


def _convert(name: str, text: str, kind: type, default: Any) -> Any:
    if default is None and text.lower() == "none":
        return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SettingsError(f"{name} must be True or False, got {text!r}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise SettingsError(f"{name} must be {expected}, got {short(text)}") from None
    return text
