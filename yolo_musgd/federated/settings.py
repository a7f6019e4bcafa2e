"""Arguments of ``yolo-musgd federate``: its own, and every argument of ``yolo train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.host import quiet_host
from yolo_musgd.optim import registry
from yolo_musgd.resources import read_recipe
from yolo_musgd.settings import Settings, parse, setting
from yolo_musgd.train.settings import argument_names

STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedmuon")
FIXED = {
    "epochs": "rounds= times local_epochs= are the epochs",
    "resume": "the same command goes on where it stopped",
    "mode": "it trains",
    "save_dir": "give project= and name=",
    "exist_ok": "give another name=",
    "time": "give rounds=",
    "pretrained": "give model=weights.pt",
}
"""Arguments of ``yolo train`` that a federation decides by itself, and what to give instead."""


@dataclasses.dataclass(frozen=True)
class FederateSettings(Settings):
    """Arguments of ``yolo-musgd federate``."""

    data: str | None = setting(
        None, "data set to divide; with split=folders one YAML a client: [a.yaml,b.yaml]", kind=str,
        required="shapes.yaml", file="datasets",
    )  # fmt: skip
    model: str = setting("yolo26n.yaml", "model YAML for random weights, or .pt", file="model")
    clients: int = setting(4, "number of clients; with split=folders they are counted", low=1, high=1000)
    rounds: int = setting(10, "rounds: each client trains, the server averages", low=1, high=100000)
    local_epochs: int = setting(1, "epochs that a client trains in a round", low=1, high=1000)
    optimizer: str = setting("MuSGD", "optimizer of the clients, as for yolo train")
    split: str = setting("iid", "how images are divided: iid, dirichlet:ALPHA (small ALPHA: uneven classes), folders")
    share: str = setting("all", "what is averaged: all, or of backbone, neck and head, as in backbone+neck")
    strategy: str = setting(
        "fedavg", "what the server makes of it: fedavg, fedprox, fedadam, fedmuon", choices=STRATEGIES
    )
    average: str = setting(
        "ema", "what a client returns: ema, or weights (the last step's)", choices=("ema", "weights")
    )
    optimizer_state: str = setting(
        "keep", "a client's momentum from round to round: keep, or restart", choices=("keep", "restart")
    )
    compress: str = setting(
        "none", "what is sent, both ways: none (float32), half, bits:N (a weight), topk:SHARE (of the weights)"
    )
    proximal_mu: float = setting(0.01, "weight of fedprox's pull towards the global model", low=0.0, high=1000.0)
    server_lr: float | None = setting(
        None,
        "server's step: 0.001 a weight for fedadam; 1, times the averaged difference, for fedavg and fedmuon",
        kind=float,
        low=0.0,
    )
    server_momentum: float = setting(
        0.0, "momentum of the averaged differences, for fedavg and fedmuon", low=0.0, below=1.0
    )
    val: str | None = setting(
        None, "data YAML whose val split judges the global model; that of data= unless given", kind=str
    )
    baselines: str = setting(
        "none",
        "train beside it for comparison: none, central, alone (each client), all",
        choices=("none", "central", "alone", "all"),
    )
    timeout: float = setting(3600.0, "seconds after which a client is left out of a round", low=1.0, high=1e7)
    jobs: int = setting(1, "clients that train at a time on this machine", low=1, high=1024)
    threads: int | None = setting(
        None, "CPU threads of each; the cores are shared unless given", kind=int, low=1, high=1024
    )
    project: str = setting("runs/federate", "parent folder of the results")
    name: str = setting("exp", "folder of the results; the same command goes on where it stopped")

    def check_files(self) -> None:
        """See `Settings.check_files`; the optimizer must be known, too."""
        super().check_files()
        registry.find(self.optimizer)

    @classmethod
    def read(cls, args: Mapping[str, str]) -> FederateSettings:
        """The command's own arguments among its words."""
        return parse(cls, {k: v for k, v in args.items() if k in cls.defaults()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The command's own arguments and those of ``yolo train``."""
        return tuple(dict.fromkeys((*super().names(), *argument_names())))


@dataclasses.dataclass(frozen=True)
class BundleSettings(Settings):
    """Arguments of ``yolo-musgd federate-bundle`` beside those of ``federate``."""

    host: str = setting("127.0.0.1", "the server's address, as the boards reach it; the default is for trying it out")
    port: int = setting(9443, "port that the server listens on", low=1, high=65535)
    boards: int = setting(2, "number of boards", low=1, high=100)
    project: str = setting("runs/federate-bundle", "parent folder of the bundle")
    folder: str = setting("bundle", "folder of the bundle, counted up")

    @classmethod
    def read(cls, args: Mapping[str, str]) -> BundleSettings:
        """The command's own arguments among its words."""
        return parse(cls, {k: v for k, v in args.items() if k in cls.defaults()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The command's own arguments, those of ``federate`` and those of ``yolo train``."""
        return tuple(dict.fromkeys((*super().names(), *FederateSettings.names())))


def others(args: Mapping[str, str], *known: type[Settings]) -> dict[str, str]:
    """The words that are of none of these settings: they are for ``yolo train``."""
    own = {name for cls in known for name in cls.defaults()}
    return {k: v for k, v in args.items() if k not in own}


def training_arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of ``yolo train`` from their text, checked by Ultralytics itself.

    Raises:
        UserError: one that Ultralytics does not take, or that a federation decides by itself.
    """
    for key, instead in FIXED.items():
        if key in given:
            raise UserError(f"{key}= is not for a federation: {instead}")
    from ultralytics.cfg import check_cfg, smart_value
    from ultralytics.utils.checks import check_imgsz

    values = {key: smart_value(text) for key, text in given.items() if key != "cfg"}
    if "cfg" in given:
        file = resources.find_recipe("train", given["cfg"])
        if file is None:
            raise UserError(f"cfg={given['cfg']} is no training recipe: {', '.join(resources.recipe_names('train'))}")
        values = {**{k: v for k, v in read_recipe(file).items() if k not in FIXED}, **values}
    try:
        check_cfg(values)
        with quiet_host():
            check_imgsz(values.get("imgsz", 640), max_dim=1)
    except (TypeError, ValueError) as error:
        raise UserError(first_line(error)) from None
    return values


def by_recipe(settings: FederateSettings, args: Mapping[str, str], train: Mapping[str, Any]) -> FederateSettings:
    """The settings with the optimizer of the training recipe, where the words name none.

    Args:
        settings: from the words.
        args: the words.
        train: from `training_arguments`.
    """
    if "optimizer" in args or "optimizer" not in train:
        return settings
    return dataclasses.replace(settings, optimizer=str(train["optimizer"]))
