"""yolo-musgd: better optimizers for small Ultralytics YOLO models, and a pipeline from there to the edge board.

Importing this package costs next to nothing, because every interpreter start does it (yolo_musgd.pth): neither torch
nor ultralytics is loaded until a name is asked for, and not even `typing`, which takes milliseconds.
"""

import sys

TYPE_CHECKING = False  # type checkers take this name for typing's

__version__ = "0.1.0"

if TYPE_CHECKING:
    from types import ModuleType

    from yolo_musgd.api import bench, bundle, compare, detect, export, federate, pipeline, prune, val
    from yolo_musgd.edge.errors import UserError
    from yolo_musgd.edge.result import Result
    from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
    from yolo_musgd.optim.musgd import MuSGD
    from yolo_musgd.optim.param_groups import param_groups
    from yolo_musgd.optim.settings import MuonSettings, MuSGDSettings
    from yolo_musgd.plugin import register, unregister
    from yolo_musgd.train.trainer import trainer_class
    from yolo_musgd.trainers import MuSGDTrainer
else:
    ModuleType = type(sys)

__all__ = [
    "MuSGD",
    "MuSGDSettings",
    "MuSGDTrainer",
    "MuonAdamW",
    "MuonSGD",
    "MuonSettings",
    "Result",
    "UserError",
    "__version__",
    "bench",
    "bundle",
    "compare",
    "detect",
    "export",
    "federate",
    "param_groups",
    "pipeline",
    "prune",
    "register",
    "trainer_class",
    "unregister",
    "val",
]

_HOME = {
    "MuSGD": "yolo_musgd.optim.musgd",
    "MuonSGD": "yolo_musgd.optim.muon",
    "MuonAdamW": "yolo_musgd.optim.muon",
    "MuSGDSettings": "yolo_musgd.optim.settings",
    "MuonSettings": "yolo_musgd.optim.settings",
    "Result": "yolo_musgd.edge.result",
    "UserError": "yolo_musgd.edge.errors",
    **dict.fromkeys(("bench", "bundle", "compare", "detect", "federate", "val"), "yolo_musgd.api"),
    "param_groups": "yolo_musgd.optim.param_groups",
    "MuSGDTrainer": "yolo_musgd.trainers",
    "trainer_class": "yolo_musgd.trainers",
    "register": "yolo_musgd.plugin",
    "unregister": "yolo_musgd.plugin",
}
_PACKAGES = ("export", "pipeline", "prune")  # commands that share their name with the package of their code


class CommandPackage(ModuleType):
    """A package that is its command, too: ``yolo_musgd.export(model="best.pt")`` runs ``yolo_musgd.api.export``."""

    def __call__(self, *args: object, **settings: object) -> object:
        """Run the command; see `yolo_musgd.api`."""
        return self._command(*args, **settings)

    @property
    def __signature__(self) -> object:
        from inspect import signature

        return signature(self._command)

    @property
    def _command(self):  # type: ignore[no-untyped-def] # a function; typing is not imported here
        from importlib import import_module

        return getattr(import_module("yolo_musgd.api"), self.__name__.rpartition(".")[2])


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"yolo_musgd.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
