"""The only module that touches Ultralytics' globals, and undoes it: register() and unregister().

What is touched, and why:

- ``ultralytics.cfg.DEFAULT_CFG_DICT`` and ``DEFAULT_CFG`` get the plugin's keys, the sets of typed keys their names,
  so that ``adapt_factor=0.05`` is as good an argument as ``lr0=0.01``, in YAML, checkpoints and the validator too.
- ``ultralytics.engine.model.Model._smart_load`` returns our trainer where it would return one of Ultralytics' own, and
  ``Model.train`` checks our arguments first and puts the same mixin over a trainer that is passed as ``trainer=``.
- ``ultralytics.nn.tasks.BaseModel.load`` warns where a model of full width would take a pruned one's weights.
- ``ultralytics.utils.checks.check_file`` finds the YAML files that ship with us by name.
- ``ultralytics.cfg.entrypoint`` (the ``yolo`` command) prints our errors as one line and exits with 2.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.interrupts import Interrupted
from yolo_musgd.edge.options import nearest
from yolo_musgd.train.settings import missing_keys, plugin_keys

TARGETS = ("ultralytics.utils.checks", "ultralytics.cfg", "ultralytics.engine.model")  # as in _autoload.py
SUPPORTED = ((8, 4, 0), (9, 0, 0))  # from, up to but not including

_undo: dict[str, list[Callable[[], None]]] = {}
_stepped_aside = False


class PluginWarning(UserWarning):
    """The plugin cannot work with this Ultralytics and has stepped aside."""


def host_version() -> str:
    """Version of the installed ultralytics, read without importing more of it."""
    return str(getattr(sys.modules.get("ultralytics"), "__version__", None) or import_module("ultralytics").__version__)


def supported(version: str) -> bool:
    """Whether the plugin works with this version of ultralytics."""
    numbers = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3])
    return SUPPORTED[0] <= numbers < SUPPORTED[1]


def on_import(module: ModuleType) -> None:
    """Patch a module of Ultralytics that has just been imported; never let plain ``yolo`` suffer from a failure."""
    if _stepped_aside:
        return
    version = host_version()
    reason = "" if supported(version) else f"it supports {_range_text()}"
    if not reason:
        try:
            _PATCHES[module.__name__](module)
            return
        except Exception as error:  # an internal of Ultralytics changed: theirs must go on working without us
            reason = f"{type(error).__name__}: {error}"
    _step_aside(reason)


def _step_aside(reason: str) -> None:
    """Leave Ultralytics alone from now on, with one warning."""
    global _stepped_aside
    if _stepped_aside:
        return
    _stepped_aside = True
    unregister()
    warnings.warn(
        f"yolo-musgd steps aside, ultralytics {host_version()} runs without it ({reason}); "
        "see `yolo-musgd doctor`, or set YOLO_MUSGD=0 to silence this",
        PluginWarning,
        stacklevel=3,
    )


def _range_text() -> str:
    low, high = (".".join(map(str, v)) for v in SUPPORTED)
    return f"ultralytics >={low},<{high}"


def register() -> None:
    """Activate the plugin in this process; what the installed ``.pth`` file does by itself. Idempotent.

    Raises:
        UserError: this version of ultralytics is not supported.
    """
    if not supported(host_version()):
        raise UserError(f"ultralytics {host_version()} is not supported: install {_range_text()}")
    for name in TARGETS:
        _PATCHES[name](import_module(name))


def unregister() -> None:
    """Put what `register` touched back as it was; a later import of ultralytics is left alone too.

    Only what is still ours is put back: a function that another plugin has wrapped stays wrapped, with ours doing
    nothing inside.
    """
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "yolo_musgd._autoload"]
    for steps in _undo.values():
        for step in reversed(steps):
            step()
    _undo.clear()


def active() -> bool:
    """Whether every patch is in place."""
    return set(_undo) == set(TARGETS)


Undo = list[Callable[[], None]]


def _once(patch: Callable[[ModuleType, Undo], None]) -> Callable[[ModuleType], None]:
    """Patch a module once; each change is noted for the way back before the next is made."""

    @wraps(patch)
    def patch_once(module: ModuleType) -> None:
        if module.__name__ not in _undo:
            patch(module, _undo.setdefault(module.__name__, []))

    return patch_once


def _switch(original: Callable[..., Any], ours: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], None]]:
    """A function that is ``ours`` until it is switched off, and ``original`` from then on.

    Another plugin may have wrapped it meanwhile; it cannot be taken out of that one's hands, but it does nothing there.

    Returns:
        The function, and what switches it off.
    """
    on = [True]

    @wraps(original)
    def switched(*args: Any, **kwargs: Any) -> Any:
        return (ours if on else original)(*args, **kwargs)

    return switched, on.clear


def _set(owner: Any, name: str, ours: Callable[..., Any]) -> Callable[[], None]:
    before = getattr(owner, name)
    switched, switch_off = _switch(before, ours)
    setattr(owner, name, switched)

    def back() -> None:
        switch_off()
        if getattr(owner, name) is switched:
            setattr(owner, name, before)

    return back


def _replace(original: Any, ours: Any, name: str) -> Callable[[], None]:
    """Replace a function of Ultralytics in every one of its modules that has imported it by name.

    The way back looks for the replacement afresh: modules imported meanwhile have taken it over.
    """
    switched, switch_off = _switch(original, ours)

    def swap(old: Any, new: Any) -> None:
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("ultralytics") and vars(module).get(name) is old:
                setattr(module, name, new)

    def back() -> None:
        switch_off()
        swap(switched, original)

    swap(original, switched)
    return back


def _add_to(owner: Any, name: str, words: set[str]) -> Callable[[], None]:
    """Add words to a set of Ultralytics' that others may add to as well."""
    before = getattr(owner, name)
    ours = type(before)(before | words)
    setattr(owner, name, ours)

    def back() -> None:
        now = getattr(owner, name)
        setattr(owner, name, before if now is ours else type(now)(now - words))

    return back


def _of_ours(name: str) -> Any:
    """A module of this package; None, after one warning, where it is missing or damaged: the host does without it."""
    try:
        return import_module(f"yolo_musgd.{name}")
    except Exception as error:
        _step_aside(f"{type(error).__name__}: {error}")
        return None


@_once
def _patch_checks(checks: ModuleType, undo: Undo) -> None:
    original = checks.check_file

    @wraps(original)
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        ours = resources.find(file) if isinstance(file, str) else None
        if isinstance(file, str) and args and ".yaml" in args[0] and not Path(file).suffix:
            ours = resources.find(f"{file}.yaml")  # cfg=quickstart
        if ours and ours.parent.name == "datasets":  # a run that names it resumes after we are uninstalled
            ours = resources.copied(ours, Path(import_module("ultralytics.utils").SETTINGS["datasets_dir"]))
        return original(str(ours) if ours else file, *args, **kwargs)

    undo.append(_replace(original, check_file, "check_file"))


@_once
def _patch_cfg(cfg: ModuleType, undo: Undo) -> None:
    keys = plugin_keys()
    defaults, namespace = cfg.DEFAULT_CFG_DICT, cfg.DEFAULT_CFG
    clash = sorted(set(keys) & set(defaults))
    if clash:
        raise RuntimeError(f"ultralytics has arguments of the same name: {', '.join(clash)}")
    keys |= missing_keys(defaults)

    def forget() -> None:
        for key in keys:
            defaults.pop(key, None)
            vars(namespace).pop(key, None)

    undo.append(forget)
    typed = ((float, "CFG_FLOAT_KEYS"), (int, "CFG_INT_KEYS"), (bool, "CFG_BOOL_KEYS"), (str, "CFG_STR_KEYS"))
    for type_, set_name in typed:
        names = {k for k, (kind, _) in keys.items() if kind is type_}
        known = getattr(cfg, set_name, None)
        if known is not None:
            undo.append(_add_to(cfg, set_name, names))
    for key, (_, default) in keys.items():
        defaults[key] = default
        setattr(namespace, key, default)
    undo.append(_replace(cfg.entrypoint, _polite(cfg.entrypoint), "entrypoint"))


def _polite(entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """The ``yolo`` command, with our own errors as one line and exit code 2 instead of a traceback."""

    @wraps(entrypoint)
    def polite(*args: Any, **kwargs: Any) -> Any:
        try:
            return entrypoint(*args, **kwargs)
        except UserError as error:
            print(f"yolo-musgd: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except Interrupted as stopped:
            print(f"yolo-musgd: {stopped}", file=sys.stderr)
            raise SystemExit(130) from None
        except SyntaxError as error:
            said = _slip(str(error))
            if said is None:
                raise
            print(f"yolo-musgd: {said}", file=sys.stderr)
            raise SystemExit(2) from None
        except FileNotFoundError as error:
            words = dict(word.split("=", 1) for word in sys.argv if "=" in word)
            model = words.get("model", "")
            if not (model and f"'{model}'" in str(error) and _is_ours(words.get("optimizer", ""))):
                raise
            print(f"yolo-musgd: model={model} does not exist; give a .pt to fine-tune or a .yaml", file=sys.stderr)
            raise SystemExit(2) from None

    return polite


def _is_ours(optimizer: str) -> bool:
    """Whether a run with this optimizer= is this package's."""
    registry = _of_ours("optim.registry")
    return bool(registry) and any(e.build and e.name.lower() == optimizer.lower() for e in registry.REGISTRY.values())


def _slip(refused: str) -> str | None:
    """What to say of a word that the host refuses, where it is ours: a key of the plugin's, or a recipe's name."""
    recipe = re.match("'cfg=([^']*)'", refused)
    if recipe:
        near = nearest(recipe[1], [Path(name).stem for name in resources.recipe_names("train")])
        return f"cfg={recipe[1]} cannot be read; did you mean cfg={near}?" if near else None
    line = refused.strip().partition("\n")[0]
    return line.strip() if any(re.search(rf"['\[ ]{key}[=']", line) for key in plugin_keys()) else None


@_once
def _patch_model(module: ModuleType, undo: Undo) -> None:
    load, train = module.Model._smart_load, module.Model.train

    @wraps(load)
    def _smart_load(self: Any, key: str) -> Any:
        found = load(self, key)
        return _ours(found) if key == "trainer" else found

    @wraps(train)
    def checked_train(self: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if trainers := _of_ours("train.trainer"):
            trainers.check_arguments(kwargs)  # before a run folder, and before one process a data set of a list
        return train(self, trainer=None if trainer is None else _ours(trainer), **kwargs)

    tasks = import_module("ultralytics.nn.tasks")
    take = tasks.BaseModel.load

    @wraps(take)
    def load_weights(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        if pruned := _of_ours("train.pruned"):
            pruned.warn_of_regrowth(self, weights)
        return take(self, weights, *args, **kwargs)

    undo.append(_set(tasks.BaseModel, "load", load_weights))
    undo.append(_set(module.Model, "_smart_load", _smart_load))
    undo.append(_set(module.Model, "train", checked_train))


def _ours(trainer: Any) -> Any:
    from ultralytics.engine.trainer import BaseTrainer

    ours = _of_ours("train.trainer")
    known = ours and isinstance(trainer, type) and issubclass(trainer, BaseTrainer)
    return ours.trainer_class(trainer) if known else trainer


_PATCHES: dict[str, Callable[[ModuleType], None]] = dict(
    zip(TARGETS, (_patch_checks, _patch_cfg, _patch_model), strict=True)
)
