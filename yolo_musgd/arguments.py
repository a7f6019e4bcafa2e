"""What the commands share: ``key=value`` strings into settings, recipes, and result folders that count up."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from yolo_musgd.settings import Settings, SettingsError, UserError, nearest

S = TypeVar("S", bound=Settings)


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
            guess = nearest(name, fields)
            raise SettingsError(f"unknown argument {name!r}" + (f"; did you mean {guess}?" if guess else ""))
        values[name] = _convert(name, text, fields[name].metadata["kind"], fields[name].default)
    return cls(**values)


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file of a user's holds.

    Raises:
        UserError: not readable, not YAML, or something else than ``key: value`` lines.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold key: value lines")
    return content


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
            raise SettingsError(f"{name} must be {expected}, got {text!r}") from None
    return text


def check_parent(project: str) -> None:
    """Refuse a parent folder of results that cannot be written, before the work whose results it is to hold.

    Raises:
        UserError: a file is in its place or in its path, or its folder may not be written.
    """
    folder = Path(project).absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "may not be written" if there.is_dir() else "is a file"
        raise UserError(f"project={project} cannot hold results: {there} {what}; choose another project=")


def new_folder(project: str, name: str) -> Path:
    """``project/name``, or the first of ``name2``, ``name3``, ... that does not exist yet; created."""
    number = 1
    while (folder := Path(project) / (name if number == 1 else f"{name}{number}")).exists():
        number += 1
    folder.mkdir(parents=True)
    return folder
