"""yolo-musgd: better optimizers for small Ultralytics YOLO models, and a road from there to the edge board.

Importing this package costs next to nothing: neither torch nor ultralytics is loaded until a name is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from yolo_musgd.optim.musgd import MuSGD
    from yolo_musgd.plugin import register, unregister
    from yolo_musgd.train.trainer import MuSGDTrainer, trainer_class

__all__ = ["MuSGD", "MuSGDTrainer", "__version__", "register", "trainer_class", "unregister"]

_HOME = {
    "MuSGD": "yolo_musgd.optim.musgd",
    "MuSGDTrainer": "yolo_musgd.train.trainer",
    "trainer_class": "yolo_musgd.train.trainer",
    "register": "yolo_musgd.plugin",
    "unregister": "yolo_musgd.plugin",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
