"""YAML into a protocol: every mistake is one line with the value and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import items, nearest
from yolo_musgd.lab.protocol import METRIC, Contender, Data, Protocol, Start
from yolo_musgd.lab.tuning import TRIALS, TUNING_SEED, Range, Search
from yolo_musgd.optim import registry
from yolo_musgd.resources import read_recipe
from yolo_musgd.settings import MOST_SEED, short
from yolo_musgd.train.settings import argument_names

RESERVED = (
    "model", "data", "epochs", "seed", "project", "name", "exist_ok", "resume", "mode", "save_dir", "time", "cfg",
)  # fmt: skip
"""Arguments of ``yolo train`` that have their own place in a protocol, or none."""

MOST_POINTS = 10_000
"""Combinations of settings that a search or a grid may have; each is checked before the first run."""

_PROTOCOL = ("data", "starts", "optimizers", "seeds", "epochs", "baseline", "train", "goal", "metric", "tune", "grid")
_OPTIMIZER = ("label", "optimizer", "cfg", "epochs", "epochs_share", "tune", "grid", "starts")


def load(name: str) -> tuple[str, dict[str, Any]]:
    """Name and content of a protocol: a path, or the name of one that ships with us (``quick``, ``bccd.yaml``).

    Raises:
        UserError: no such file, or not a YAML mapping.
    """
    path = resources.find_recipe("lab", name)
    if path is None:
        names = ", ".join(file.removesuffix(".yaml") for file in resources.recipe_names("lab"))
        raise UserError(f"protocol={name} is no protocol; give a YAML file or one of {names}")
    return path.stem, read_recipe(path)


def parse_protocol(given: Mapping[str, Any]) -> Protocol:
    """Check a parsed YAML file and fill in what it leaves open.

    Raises:
        UserError: an unknown key, or a value that cannot be.
    """
    if "target" in given:
        raise UserError("the protocol: target is now goal")
    _check_keys("the protocol", given, _PROTOCOL)
    given = numbers(given)
    if not given.get("data"):
        raise UserError("a comparison needs data=, for example data=shapes.yaml, or protocol=quick")
    contenders = tuple(
        _contender(x, given.get("tune"), given.get("grid")) for x in listed(given.get("optimizers", ["SGD", "MuSGD"]))
    )
    goal = given.get("goal")
    if goal is not None:
        goal = _number("goal", goal)
        if not 0 < goal < 1:
            raise UserError(f"goal must be a mAP in (0, 1), got {goal:g}; leave it out for the baseline's own final")
    metric = str(given.get("metric") or METRIC)
    if not re.fullmatch(r"metrics/(precision|recall|mAP50|mAP50-95)\([BMP]\)", metric):
        raise UserError(f"metric must be a column of results.csv such as metrics/mAP50(B), got {metric!r}")
    return Protocol(
        data=tuple(_data(x) for x in listed(given["data"])),
        starts=tuple(_start(x) for x in listed(given.get("starts", "yolo26n.yaml"))),
        optimizers=contenders,
        seeds=_seeds(given.get("seeds", 3)),
        epochs=_count("epochs", given.get("epochs", 30)),
        baseline=str(given.get("baseline") or contenders[0].label),
        train=train_arguments("train", given.get("train") or {}),
        goal=goal,
        metric=metric,
    )


def numbers(value: Any) -> Any:
    """A parsed YAML value with numbers where people write them: YAML 1.1 takes 1e-3 for text."""
    if isinstance(value, Mapping):
        return {k: numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(v) for v in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value):
        return float(value)
    return value


def listed(value: Any) -> list[Any]:
    """A YAML list, one entry alone, or text with commas, as a list.

    Raises:
        UserError: nothing in it.
    """
    if isinstance(value, str):
        value = items(value)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(v is None for v in values):
        raise UserError("data, starts and optimizers need at least one entry each, got an empty one")
    return values


def train_arguments(where: str, given: Any) -> dict[str, Any]:
    """Arguments for ``yolo train``, checked by name.

    Raises:
        UserError: an argument that Ultralytics and the plugin do not know, or that has its own place.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be a mapping such as {{imgsz: 192}}, got {given!r}")
    for key in given:
        if key in RESERVED:
            raise UserError(
                f"{where}: {key}= is not set here; the protocol has data, starts, seeds, epochs and an optimizer's cfg "
                "for that"
            )
    _check_keys(where, given, argument_names())
    return dict(given)


def _data(entry: Any) -> Data:
    if not isinstance(entry, Mapping):
        return Data(_stem(str(entry)), str(entry))
    _check_keys("data", entry, ("label", "data", "train"))
    if "data" not in entry:
        raise UserError(f"data: an entry needs data:, got {dict(entry)}")
    train = train_arguments("data: train", entry.get("train") or {})
    return Data(str(entry.get("label") or _stem(str(entry["data"]))), str(entry["data"]), train)


def _stem(file: str) -> str:
    """A label for a data file: its name, or its folder's where it is called data.yaml."""
    path = Path(file)
    return path.parent.name if path.stem == "data" and path.parent.name else path.stem


def _start(entry: Any) -> Start:
    if not isinstance(entry, Mapping):
        return Start(_start_label(str(entry)), str(entry))
    _check_keys("starts", entry, ("label", "model", "epochs", "train", "data"))
    if "model" not in entry:
        raise UserError(f"starts: an entry needs model:, got {dict(entry)}")
    epochs = entry.get("epochs")
    return Start(
        str(entry.get("label") or _start_label(str(entry["model"]))),
        str(entry["model"]),
        None if epochs is None else _count("starts: epochs", epochs),
        train_arguments("starts: train", entry.get("train") or {}),
        tuple(map(str, listed(entry["data"]))) if entry.get("data") else (),
    )


def _start_label(model: str) -> str:
    return f"{Path(model).stem} {'scratch' if model.lower().endswith(('.yaml', '.yml')) else 'pretrained'}"


def _contender(entry: Any, tune: Any, grid: Any) -> Contender:
    if not isinstance(entry, Mapping):
        entry = {"optimizer": str(entry)}
    given = {**_recipe(entry["cfg"]), **entry} if "cfg" in entry else dict(entry)
    if "optimizer" not in given:
        raise UserError(f"optimizers: an entry needs optimizer: or cfg:, got {dict(entry)}")
    info = registry.find(str(given["optimizer"]))
    label = str(given.get("label") or (Path(str(given["cfg"])).stem if "cfg" in given else info.name))
    where = f"optimizer {label}"
    settings = train_arguments(where, {k: v for k, v in given.items() if k not in _OPTIMIZER})
    if info.name == "auto":  # it searches nothing: that is what it is compared for
        tune = grid = None
        _refuse_what_auto_ignores(where, settings, given)
    mapped = _grid(where, given.get("grid", grid))
    search = None if mapped else _search(where, given.get("tune", tune), tune)
    for key in (*mapped, *(search.space if search else ())):
        if key in entry:
            raise UserError(f"{where}: {key} is set to {entry[key]} and searched too; drop one, or say tune: false")
        settings.pop(key, None)  # a recipe's value gives way to the search
    epochs, share = given.get("epochs"), given.get("epochs_share")
    if epochs is not None and share is not None:
        raise UserError(f"{where}: epochs={epochs} and epochs_share={share} exclude each other")
    if share is not None and not 0 < _number(f"{where}: epochs_share", share) <= 10:
        raise UserError(f"{where}: epochs_share must be in (0, 10], got {share}")
    return Contender(
        label,
        info.name,
        settings,
        None if epochs is None else _count(f"{where}: epochs", epochs),
        None if share is None else float(share),
        search,
        mapped,
        tuple(map(str, listed(given["starts"]))) if given.get("starts") else (),
    )


def _refuse_what_auto_ignores(where: str, *given: Any) -> None:
    """Raise a UserError where settings of optimizer=auto, its search or its grid name what it picks by itself."""
    for names in (*given, *(given[-1].get(k) or {} for k in ("tune", "grid"))):
        for key in ("lr0", "momentum", "warmup_bias_lr"):
            if key in names:
                raise UserError(f"{where}: optimizer=auto picks {key} by itself and ignores yours; drop it")


def _recipe(name: Any) -> dict[str, Any]:
    """A training recipe (cfg/train/muon.yaml): what it sets, without the places that the protocol fills."""
    found = resources.find_recipe("train", str(name))
    if found is None:
        names = ", ".join(resources.recipe_names("train"))
        raise UserError(f"optimizers: cfg={name} is no recipe; give a YAML file or one of {names}")
    filled = {*RESERVED, "pretrained"}  # a run's args.yaml may say what that run started from
    return {str(k): v for k, v in read_recipe(found).items() if k not in filled}


def _search(where: str, own: Any, common: Any) -> Search | None:
    """The optimizer's own search; what it leaves open (seed, trials, epochs) is the protocol's."""
    if own is False or not own:
        return None
    options = ("trials", "seed", "epochs")
    for given in (own, common or {}):
        if not isinstance(given, Mapping):
            raise UserError(f"{where}: tune must be a mapping such as {{lr0: [0.005, 0.01, 0.02]}}, got {given!r}")
    merged = {**{k: v for k, v in (common or {}).items() if k in options}, **own}
    space = {k: _axis(f"{where}: tune", k, v) for k, v in merged.items() if k not in options}
    train_arguments(f"{where}: tune", space)
    _check_points(f"{where}: tune", [3 if isinstance(axis, Range) else len(axis) for axis in space.values()])
    epochs = merged.get("epochs")
    return Search(
        space,
        _count(f"{where}: trials", merged.get("trials", TRIALS), MOST_POINTS),
        _seed(merged.get("seed", TUNING_SEED)),
        None if epochs is None else _count(f"{where}: tune epochs", epochs),
    )


def _axis(where: str, name: str, value: Any) -> tuple[Any, ...] | Range:
    if isinstance(value, Mapping):
        _check_keys(f"{where}: {name}", value, ("low", "high", "log"))
        low, high = (_number(f"{where}: {name} {k}", value.get(k)) for k in ("low", "high"))
        log = value.get("log", True)
        if not low < high or (log and low <= 0):
            raise UserError(
                f"{where}: {name} must run from low < high (above 0 unless log: false), got {low} to {high}"
            )
        return Range(low, high, bool(log))
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values:
        raise UserError(f"{where}: {name} has no values")
    return values


def _grid(where: str, given: Any) -> dict[str, tuple[Any, ...]]:
    if not given:
        return {}
    if not isinstance(given, Mapping) or not 1 <= len(given) <= 2:
        raise UserError(f"{where}: grid takes one or two settings such as {{lr0: [...], adapt_factor: [...]}}")
    axes = {str(k): _axis(f"{where}: grid", str(k), v) for k, v in given.items()}
    train_arguments(f"{where}: grid", axes)
    mapped = {}
    for name, axis in axes.items():
        if isinstance(axis, Range):
            raise UserError(f"{where}: grid: {name} must be a list of values")
        mapped[name] = axis
    _check_points(f"{where}: grid", [len(axis) for axis in mapped.values()])
    return mapped


def _check_points(where: str, lengths: list[int]) -> None:
    if math.prod(lengths) > MOST_POINTS:
        raise UserError(f"{where} has {math.prod(lengths)} points, more than {MOST_POINTS}")


def _seeds(value: Any) -> tuple[int, ...]:
    """Seeds 0 to n-1 for a number n, or the listed ones."""
    seeds = (
        tuple(_seed(s) for s in value)
        if isinstance(value, (list, tuple))
        else tuple(range(_count("seeds", value, 1000)))
    )
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be a number >= 1 or a list of different whole numbers, got {short(value)}")
    return seeds


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_SEED:
        raise UserError(f"a seed must be a whole number >= 0 and below 2^32, got {short(value)}")
    return value


def _count(name: str, value: Any, most: int = 1_000_000) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number >= 1, got {short(value)}")
    if value > most:
        raise UserError(f"{name} must be in [1, {most}], got {short(value)}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300:  # NaN neither
        raise UserError(f"{name} must be a number, got {short(value)}")
    return float(value)


def _check_keys(where: str, given: Any, known: tuple[str, ...]) -> None:
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be key: value lines, got {given!r}")
    for key in given:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"did you mean {guess}?" if guess else f"it takes {', '.join(known)}"
            raise UserError(f"{where} has no key {key!r}; {hint}")
