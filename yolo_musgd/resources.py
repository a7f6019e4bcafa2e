"""YAML that ships with the package and YAML of a user's; tells early which models and data sets are nowhere."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import items

_PACKAGE = Path(__file__).resolve().parent
FIRST_COMMAND = "yolo train cfg=quickstart"
"""What to try first, in every place that says so: it ends in minutes on two cores, and nothing is downloaded."""
COPIES = "yolo-musgd-datasets"
"""Folder below Ultralytics' folder of data sets that holds the shipped YAMLs."""
SUFFIXES = (".yaml", ".yml")


def folder(name: str) -> Path:
    """Folder ``cfg`` or ``datasets``.

    Raises:
        FileNotFoundError: neither an installed wheel nor a checkout has it.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        # The checkout's cfg/ holds train/; this keeps another project's cfg/ folder from being taken for ours.
        if (base / name).is_dir() and (base / "datasets" / "shapes.yaml").exists():
            return base / name
    raise FileNotFoundError(f"the package's {name}/ folder is missing: reinstall yolo-musgd")


def recipe_names(kind: str) -> list[str]:
    """The files of ``cfg/<kind>/``."""
    return sorted(path.name for path in (folder("cfg") / kind).glob("*.yaml"))


def find_recipe(kind: str, name: str) -> Path | None:
    """A file of the user's, or else the shipped ``cfg/<kind>/<name>`` (its suffix may be left out); None if neither."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder("cfg") / kind
    found = shipped / (name if path.suffix else f"{name}.yaml")
    return found if path.name == name and found.is_file() else None


def find(file: str) -> Path | None:
    """The shipped YAML of this bare file name (``shapes.yaml``, ``on-device.yaml``), or None.

    A name with a folder in it, or of a file that exists in the working folder, is never ours.
    """
    path = Path(file)
    try:
        if path.suffix.lower() not in SUFFIXES or path.name != file or path.exists():
            return None
        candidates = [folder("datasets") / file, folder("cfg") / "train" / file]
    except (OSError, ValueError):  # no such folder; no name that the system takes
        return None
    return next((c for c in candidates if c.is_file()), None)


def load_yaml(text: str, what: str) -> Any:
    """What YAML of a user's holds: plain values that are small, finite in depth and have words as keys.

    Args:
        text: the YAML.
        what: it is, for the message: a file, or ``key=text``.

    Raises:
        UserError: not YAML, too large or too deep (aliases counted as what they stand for), or a key that is no word.
    """
    import yaml

    if len(text) > MOST_YAML:
        raise UserError(f"{what[:200]} has {len(text)} characters, more than {MOST_YAML}: not a file of settings")
    try:
        if max(accumulate(_BRACKETS.get(letter, 0) for letter in text), default=0) > 100:
            raise RecursionError  # before the parser, which takes seconds for it
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None:
            _count_nodes(root, {})
        return _check_keys(yaml.safe_load(text), what)
    except RecursionError:
        raise UserError(f"{what[:200]} is nested too deep, or contains itself") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{what[:200]} is not YAML: {' '.join(str(error).split())[:300]}") from None


_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
MOST_YAML = 200_000
"""Characters, and values with every alias written out: more are no settings."""


def _count_nodes(node: Any, sizes: dict[int, int]) -> int:
    """How many values a YAML node is with every alias written out."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_YAML  # what it counts while inside itself
        children = node.value if isinstance(node.value, list) else []
        parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        sizes[id(node)] = 1 + sum(_count_nodes(part, sizes) for part in parts)
    if sizes[id(node)] > MOST_YAML:
        raise RecursionError
    return sizes[id(node)]


def _check_keys(value: Any, what: str) -> Any:
    """``value``, when all its keys are words."""
    for key, part in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            hint = "; YAML reads on, off, yes and no as a switch: put it in quotes" if isinstance(key, bool) else ""
            raise UserError(f"{what[:200]}: the key {key!r} is not a word{hint}")
        _check_keys(part, what)
    for part in value if isinstance(value, (list, tuple)) else ():
        _check_keys(part, what)
    return value


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file of a user's holds.

    Raises:
        UserError: not readable, see `load_yaml`, or something else than ``key: value`` lines.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = load_yaml(file.read(MOST_YAML + 1), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold key: value lines")
    return content


def install(extra: str) -> str:
    """The command that brings an extra, from where this package came: a clone, a wheel's file, or by its name."""
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    name = "yolo-musgd"
    try:
        origin = json.loads(metadata.distribution(name).read_text("direct_url.json") or "{}")
        path = Path(url2pathname(urlsplit(origin.get("url", "")).path)) if origin else None
        if path is not None and path.exists():
            editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
            return f"pip install {editable}'{path}[{extra}]'"
    except (metadata.PackageNotFoundError, ValueError, OSError):  # a copied package
        pass
    return f"pip install '{name}[{extra}]'"


def copied(file: Path, datasets: Path) -> Path:
    """A copy of a shipped data-set YAML beside the images that it names, so that it stays when the package goes.

    Args:
        file: the shipped YAML.
        datasets: Ultralytics' folder of data sets.

    Returns:
        the copy, brought up to date; ``file`` itself where nothing can be written.
    """
    copy = datasets / COPIES / file.name
    try:
        text = file.read_text(encoding="utf-8")
        if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(str(copy), text)
    except (OSError, UserError):
        return file
    return copy


_SCALE = re.compile(r"(\d+)([nslmx])(.*\.ya?ml)$")  # number, size, rest
_PUBLISHED = re.compile(r"(yolo|rtdetr|sam|mobile_sam|fastsam|damo)", re.IGNORECASE)  # what Ultralytics fetches


def check_file(kind: str, key: str, value: str) -> None:
    """Refuse a model or a data set that is nowhere, before torch is loaded for it.

    What may be known to Ultralytics only (weights to download, an address) is left to it.

    Args:
        kind: ``checkpoint`` must be there, ``model`` may be published weights; ``data``; ``recipe`` of a training;
            ``teacher`` of a distillation; ``models``, ``datasets``: lists, which a protocol may write as YAML.
        key: of the argument, for the message.
        value: what was given.

    Raises:
        UserError: it is not there, or is a device, a pipe or a socket.
    """
    if kind in ("models", "datasets"):
        for entry in [] if "{" in value or len(value) > 4000 else items(value):
            check_file("model" if kind == "models" else "data", key, entry)
        return
    path = Path(value)
    try:
        there, endless = path.exists(), path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):
        return  # no name that the system takes: whoever opens it says why
    if endless:  # a device never ends, a pipe never begins
        raise UserError(f"{key}={value} is neither a file nor a folder")
    if there or "://" in value:
        return
    if kind == "recipe":
        if not find_recipe("train", value) and not _of_ultralytics(value):
            raise UserError(f"{key}={value} does not exist; training recipes: {', '.join(recipe_names('train'))}")
    elif kind == "teacher":
        if value != "base":
            raise UserError(f"{key}={value} is no checkpoint that is there: give base, or a .pt of the same classes")
    elif kind == "data":
        shipped = find(value) or (path.name == value and _of_ultralytics(value))
        if path.suffix.lower() in SUFFIXES and not shipped:
            raise UserError(f"{key}={value} cannot be read: {value!r} does not exist")
    elif kind == "checkpoint":
        raise UserError(f"{key}={value} does not exist; give the best.pt of a training run")
    else:
        described = path.suffix.lower() in SUFFIXES
        if not (host_describes(path.name) if described else path.name == value and _PUBLISHED.match(value)):
            hint = "" if path.suffix == ".pt" else "; give a .pt, or a model of Ultralytics such as yolo26n.yaml"
            raise UserError(f"{key}={value} does not exist{hint}")


def _of_ultralytics(file: str) -> bool:
    """Whether a YAML of this name lies in the installed Ultralytics, which finds it so."""
    home = host_folder()
    try:
        return (home.parent / file).exists() or any(path.name == file for path in home.rglob("*.yaml"))
    except (OSError, ValueError):  # no name that the system takes
        return False


def host_describes(file: str) -> bool:
    """Whether Ultralytics has the model of this YAML; that of ``yolo26n.yaml`` is its ``yolo26.yaml`` in size n."""
    return any(map(_of_ultralytics, {file, _SCALE.sub(r"\1\3", file)}))


def host_folder() -> Path:
    """Where the installed Ultralytics lies; it is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("ultralytics is not installed", name="ultralytics")
    return Path(spec.origin).parent
