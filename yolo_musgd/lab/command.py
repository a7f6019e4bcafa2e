"""``yolo-musgd compare``: its arguments and its file, read into a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_musgd import plugin
from yolo_musgd.edge.result import Result
from yolo_musgd.lab.parsing import load, numbers, parse_protocol
from yolo_musgd.lab.protocol import Protocol
from yolo_musgd.lab.settings import CompareSettings
from yolo_musgd.places import check_parent
from yolo_musgd.resources import load_yaml
from yolo_musgd.settings import parse

_OVERRIDES = ("data", "starts", "optimizers", "seeds", "epochs", "baseline", "goal", "tune", "train")
_STRUCTURED = ("data", "starts", "optimizers", "seeds", "tune", "train")


def read_protocol(settings: CompareSettings) -> tuple[str, Protocol]:
    """Name and protocol that the arguments describe: the file's, with what was given beside it.

    Raises:
        UserError: something in it cannot be.
    """
    name, content = load(settings.protocol) if settings.protocol else ("exp", {})
    for key in _OVERRIDES:
        value: Any = getattr(settings, key)
        if value is None:
            continue
        if key in _STRUCTURED:
            value = _flow(key, value)
        if key == "train" and isinstance(value, dict):
            value = {**(content.get("train") or {}), **value}
        content[key] = value
    if settings.device is not None:
        content["train"] = {**(content.get("train") or {}), "device": settings.device}
    return settings.name or name, parse_protocol(content)


def _flow(key: str, text: str) -> Any:
    value = numbers(load_yaml(text, f"{key}={text}"))
    return text if isinstance(value, str) else value


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Returns:
        what was found; the report and its figures are in project/name.

    Raises:
        UserError: bad arguments or protocol, or a run that failed.
    """
    settings = parse(CompareSettings, args)
    check_parent(settings.save_dir or settings.project, settings.name, "save_dir" if settings.save_dir else "project")
    name, protocol = read_protocol(settings)
    plugin.register()  # which loads PyTorch: only now, when all is well that can be told without it
    from yolo_musgd.lab.comparison import compare

    return compare(settings, name, protocol)
