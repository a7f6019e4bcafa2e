"""One training run of a comparison: what defines it, and when a finished run may stand for it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.optim import registry
from yolo_musgd.train.settings import CpuSettings, ModelSettings, TelemetrySettings, plugin_keys

FIXED: dict[str, Any] = {
    "patience": 0,  # no early stop: every run gets its whole budget
    "plots": False,
    "telemetry": True,  # of every optimizer, so that each pays the same for it
}
"""Arguments that every run of the lab gets unless the protocol says otherwise."""

IGNORED = frozenset(TelemetrySettings.names()) | {
    *("model", "data", "device", "project", "name", "exist_ok", "resume", "save", "save_dir", "save_period"),
    *("plots", "verbose", "profile", "cache", "mode", "cfg", "tracker", "channels_last"),
}
"""Arguments that do not change what a run learns, or that are compared in another way (model, data, device)."""


def resolve(args: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument that decides what a run learns, defaults filled in, in one spelling.

    Args:
        args: arguments of ``yolo train``, or the content of a run's args.yaml.
    """
    from ultralytics.cfg import DEFAULT_CFG_DICT

    full = {**DEFAULT_CFG_DICT, **{k: v for k, v in args.items() if k in DEFAULT_CFG_DICT}}
    info = registry.find(str(full["optimizer"] or "auto"))
    full["optimizer"] = info.name
    device = device_kind(full["device"])
    model = frozenset(ModelSettings.names())
    shared = model | set(CpuSettings.names())  # every optimizer trains with these
    ours = frozenset(plugin_keys()) - shared if info.build is None else frozenset()
    dropped = IGNORED | ours | {k for k in model if full.get(k) is None}
    resolved = {k: v for k, v in full.items() if k not in dropped}
    if not resolved["patience"] or resolved["patience"] >= resolved["epochs"]:
        resolved["patience"] = 0
    if device == "cpu" and resolved["amp"] in (True, "fp16"):
        resolved["amp"] = False  # what Ultralytics makes of it on a CPU
    return {**resolved, "device": device}


def device_kind(device: Any) -> str:
    """``cpu``, ``cuda``, ``mps`` ... for a ``device=`` argument; nothing given means what Ultralytics would choose."""
    import torch

    text = str(device if device is not None else "").lower()
    if text in ("", "none"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return text.split(":")[0] if text[0].isalpha() else "cuda"


def versions() -> dict[str, str]:
    """Releases that a run's result depends on."""
    import torch
    import ultralytics

    return {"ultralytics": ultralytics.__version__, "torch": torch.__version__.split("+")[0]}


@dataclass(frozen=True)
class RunSpec:
    """A run to be done.

    Attributes:
        data: data YAML, a path or a name that Ultralytics finds.
        model: model YAML or checkpoint.
        args: everything else given to ``yolo train``: optimizer, epochs, seed and so on.
        data_id: fingerprint of the images and labels.
        model_id: fingerprint of the initial model.
    """

    data: str
    model: str
    args: Mapping[str, Any]
    data_id: str
    model_id: str

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """See :func:`resolve`."""
        return resolve(self.args)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that matters for the result."""
        return {"data": self.data_id, "model": self.model_id, "args": self.resolved, "versions": versions()}

    @cached_property
    def key(self) -> str:
        """Name of the run's folder: what people look for, then a hash of everything that matters."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        a = self.resolved
        parent = Path(self.data)
        names = (parent.parent.name if parent.stem == "data" else parent.stem, Path(self.model).stem)
        data, model = (os.fsencode(name)[:80].decode(errors="ignore") for name in names)  # a name has 255 bytes
        parts = (data, model, a["optimizer"], f"lr{a['lr0']:g}", f"e{a['epochs']}", f"s{a['seed']}")
        return "-".join((*parts, hashlib.sha256(text.encode()).hexdigest()[:10]))

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return int(self.args["epochs"])

    @property
    def command(self) -> str:
        """The same run for the command line."""
        given = {"model": self.model, "data": self.data, **self.args}
        return shlex.join(["yolo", "train", *(f"{k}={v}" for k, v in given.items())])

    def to_dict(self) -> dict[str, Any]:
        """For the process that trains; :meth:`from_dict` is the way back."""
        fields = ("data", "model", "args", "data_id", "model_id")
        return {k: dict(self.args) if k == "args" else getattr(self, k) for k in fields}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RunSpec:
        """The run that :meth:`to_dict` described."""
        return cls(**given)

    def matches(self, identity: Mapping[str, Any]) -> bool:
        """Whether a finished run is this one.

        An argument that the finished run does not know (this release of the plugin may have new ones) counts as having
        today's default. Releases that are not on record (an imported run of plain ``yolo train``) match.
        """
        mine = self.identity
        if any(identity[k] != mine[k] for k in ("data", "model")):
            return False
        if any(v is not None and v != mine["versions"].get(k) for k, v in identity["versions"].items()):
            return False
        return self.fits(identity["args"])

    def fits(self, args: Mapping[str, Any]) -> bool:
        """Whether arguments of ``yolo train`` mean this run, on whatever data and model."""
        try:
            return _same(resolve(args), self.resolved)
        except UserError:  # an optimizer that this release does not have any more
            return False


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)


def _equal(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and list(a) == list(b))
