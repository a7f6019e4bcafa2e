"""yolo-musgd: better optimizers for small Ultralytics YOLO models, and a pipeline from there to the edge board.

Importing this package costs next to nothing, because every interpreter start does it (yolo_musgd.pth): neither torch
nor ultralytics is loaded until a name is asked for, and not even `typing`, which takes milliseconds.
"""

TYPE_CHECKING = False  # type checkers take this name for typing's

__version__ = "0.1.0"

if TYPE_CHECKING:
    from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
    from yolo_musgd.optim.musgd import MuSGD
    from yolo_musgd.optim.param_groups import param_groups
    from yolo_musgd.plugin import register, unregister
    from yolo_musgd.train.trainer import trainer_class
    from yolo_musgd.trainers import MuSGDTrainer

__all__ = [
    "MuSGD",
    "MuSGDTrainer",
    "MuonAdamW",
    "MuonSGD",
    "__version__",
    "param_groups",
    "register",
    "trainer_class",
    "unregister",
]

_HOME = {
    "MuSGD": "yolo_musgd.optim.musgd",
    "MuonSGD": "yolo_musgd.optim.muon",
    "MuonAdamW": "yolo_musgd.optim.muon",
    "param_groups": "yolo_musgd.optim.param_groups",
    "MuSGDTrainer": "yolo_musgd.trainers",
    "trainer_class": "yolo_musgd.trainers",
    "register": "yolo_musgd.plugin",
    "unregister": "yolo_musgd.plugin",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
