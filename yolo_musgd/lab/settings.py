"""Arguments of ``yolo-musgd compare``, ``demo`` and ``steptime``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from yolo_musgd import resources
from yolo_musgd.edge.options import items
from yolo_musgd.settings import MOST_SEED, Settings, SettingsError, exist_ok, save_dir, setting


@dataclasses.dataclass(frozen=True)
class CompareSettings(Settings):
    """Arguments of ``yolo-musgd compare``."""

    renamed: ClassVar[Mapping[str, str]] = {"cfg": "protocol", "target": "goal"}

    protocol: str | None = setting(
        None, "what is compared: a YAML file, or quick, bccd, claims, sensitivity, finetune", kind=str
    )
    data: str | None = setting(
        None, "data sets, e.g. shapes.yaml or [bccd.yaml,raccoon.yaml]; required without protocol=", kind=str,
        file="datasets",
    )  # fmt: skip
    starts: str | None = setting(
        None, "initial models, .yaml for scratch, .pt for pretrained; yolo26n.yaml unless given", kind=str,
        file="models",
    )  # fmt: skip
    optimizers: str | None = setting(
        None, "names, or YAML as '[SGD,{optimizer: MuSGD,lr0: 0.02}]'; [SGD,MuSGD] unless given", kind=str
    )
    seeds: str | None = setting(None, "how many seeds, or a list such as [0,1,2]; 3 unless given", kind=str)
    epochs: int | None = setting(None, "epochs of every run; 30 unless given", kind=int, low=1, high=1000000)
    baseline: str | None = setting(
        None, "what the others are measured against; the first optimizer unless given", kind=str
    )
    goal: float | None = setting(None, "mAP to reach; the baseline's own final unless given", kind=float)
    tune: str | None = setting(None, "settings to tune, e.g. '{lr0: [0.005,0.01,0.02]}'", kind=str)
    train: str | None = setting(None, "arguments of yolo train for every run, e.g. '{imgsz: 192}'", kind=str)
    device: str | None = setting(None, "where to train: cpu, 0, as Ultralytics has it", kind=str)
    jobs: int | None = setting(None, "runs at a time; 1 unless given, or with ray as many as fit", kind=int, low=1)
    threads: int | None = setting(
        None, "CPU threads of each run; the cores are shared unless given", kind=int, low=1, high=1024
    )
    ray: str | None = setting(None, "train on a Ray cluster: auto, local, or an address", kind=str)
    keep_weights: bool = setting(False, "keep last.pt and best.pt of every run")
    imports: str | None = setting(None, "folders with finished runs of yolo train or another store", kind=str)
    dry_run: bool = setting(
        False, "train nothing: show what is finished and what is missing, and report on what is finished"
    )
    project: str = setting("runs/compare", "parent folder of comparisons")
    name: str | None = setting(
        None, "folder of this comparison, taken up again if it is there; by default the protocol's name", kind=str
    )
    save_dir: str | None = save_dir()
    store: str | None = setting(None, "folder of the runs, shared by comparisons; by default project/store", kind=str)

    def check_files(self) -> None:
        """See `Settings.check_files`; something to compare on is needed, too."""
        super().check_files()
        if not self.protocol and not self.data:
            raise SettingsError("a comparison needs data=, for example data=shapes.yaml, or protocol=quick")


@dataclasses.dataclass(frozen=True)
class DemoSettings(Settings):
    """Arguments of ``yolo-musgd demo``."""

    seed: int = setting(42, "of matrix, data and weights", low=0, high=MOST_SEED)
    steps: int = setting(200, "training steps of the small network", low=1)
    pictures: bool = setting(True, "draw the pictures too (needs matplotlib)")
    project: str = setting("runs/demo", "parent folder of the results")
    name: str = setting("exp", "folder of the results, counted up")
    save_dir: str | None = save_dir()
    exist_ok: bool = exist_ok()


STEPS = (
    "torch SGD foreach", "torch SGD fused", "torch AdamW foreach", "torch AdamW fused", "MuSGD", "MuSGD graph",
    "MuSGD recorded", "MuSGD article", "MuSGD article global", "MuonSGD", "MuonSGD all filters",
    "MuonSGD + SGD branch", "MuonAdamW", "MuSGD-native", "torch Muon + SGD", "pytorch_optimizer Muon",
)  # fmt: skip
"""Whose steps ``steptime`` times; `yolo_musgd.lab.contenders` makes those that are installed."""


def check_steps(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a name that the table of steps lacks.

    Raises:
        SettingsError: the first one.
    """
    for name in names:
        if name not in known:
            raise SettingsError(f"optimizers must be among {', '.join(known)}, got {name!r}")


@dataclasses.dataclass(frozen=True)
class StepTimeSettings(Settings):
    """Arguments of ``yolo-musgd steptime``."""

    models: str = setting("yolo26n", "Ultralytics models, separated by commas")
    optimizers: str = setting("", "names from the table, separated by commas; empty for all that are installed")
    threads: int = setting(1, "CPU threads", low=1, high=1024)
    steps: int = setting(15, "timed steps of each optimizer", low=1)
    imgsz: int = setting(192, "image size for the gradients", low=32)
    batch: int = setting(0, "images of an iteration to compare the steps with; 0 leaves it out", low=0, high=1024)
    device: str = setting("cpu", "cpu, or a GPU: 0, cuda:0 and so on")
    plan: bool = setting(False, "show which kernel orthogonalises which shapes instead of timing")
    project: str = setting("runs/steptime", "parent folder of the results")
    name: str = setting("exp", "folder of the results, counted up")
    save_dir: str | None = save_dir()
    exist_ok: bool = exist_ok()

    def check_files(self) -> None:
        """See `Settings.check_files`; models and optimizers must be known, too."""
        super().check_files()
        if not items(self.models):
            raise SettingsError("models= names none; try yolo26n, yolo26s or yolo26m")
        for model in items(self.models):
            file = Path(model if model.endswith(".yaml") else f"{model}.yaml")
            here = os.path.isfile(file)  # noqa: PTH113 - it says no to a name too long, too
            if not (here or resources.host_describes(file.name)):
                raise SettingsError(
                    f"models={model} is not a model of this Ultralytics; try yolo26n, yolo26s or yolo26m"
                )
        check_steps(items(self.optimizers), STEPS)
