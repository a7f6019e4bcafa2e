"""Finished runs on disk: each in its own folder, found again by what was trained, not by its name."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.lab import identify
from yolo_musgd.lab.evidence import IDENTITY, flaw, flaw_of_table, seal
from yolo_musgd.lab.process import KEPT, RECORD, RESULTS
from yolo_musgd.lab.runs import RunSpec, resolve
from yolo_musgd.resources import read_recipe
from yolo_musgd.train.settings import plugin_keys


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        folder: where its files are.
        identity: data, model, resolved arguments and versions, as :class:`RunSpec` has them.
        facts: everything else in run.json: status, machine, seconds, memory, times; None for what was not measured.
    """

    folder: Path
    identity: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def columns(self) -> dict[str, list[float]]:
        """results.csv: column -> values; an epoch that was repeated after a NaN counts once, the last."""
        return read_results(self.folder / RESULTS)

    @property
    def diverged(self) -> bool:
        """Whether training ended in NaN for good."""
        return self.facts.get("status") == "diverged"

    @property
    def cpu_seconds(self) -> list[float]:
        """CPU time of the process since training began, after each epoch; empty if not on record."""
        return [e["cpu_s"] for e in self.facts.get("epochs", ()) if "cpu_s" in e]

    def is_for(self, spec: RunSpec) -> bool:
        """Whether this is that run; no, where its arguments are none that can be resolved."""
        try:
            return spec.matches(self.identity)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            LOGGER.warning(f"{self.folder} is left out: {RECORD}: {type(error).__name__}: {error}")
            return False

    def curve(self, metric: str) -> list[float]:
        """The metric after each epoch, 0 where it is not a number."""
        return [v if math.isfinite(v) else 0.0 for v in self.columns.get(metric, [])]

    def final(self, metric: str) -> float:
        """The metric after the last epoch; 0 for a run that diverged."""
        curve = self.curve(metric)
        return 0.0 if self.diverged or not curve else curve[-1]


def read_results(file: Path) -> dict[str, list[float]]:
    """Columns of a results.csv, by epoch; empty without the file. ``time`` goes on where a resumed run began at 0."""
    if not file.is_file():
        return {}
    rows: dict[int, dict[str, float]] = {}
    text = file.read_bytes().replace(b"\0", b"").decode("utf-8", "replace")  # it may be in the middle of being written
    for row in csv.DictReader(text.splitlines()):
        values = {k.strip(): _number(v) for k, v in row.items() if k}
        if math.isfinite(values.get("epoch", math.nan)):
            rows[int(values["epoch"])] = values
    names = dict.fromkeys(k for row in rows.values() for k in row)
    columns = {k: [rows[e].get(k, math.nan) for e in sorted(rows)] for k in names}
    if "time" in columns:
        columns["time"] = _on_and_on(columns["time"])
    return columns


def _on_and_on(times: Sequence[float]) -> list[float]:
    """Seconds since training began, from a clock that was set back to 0 at each resume."""
    before, last, whole = 0.0, 0.0, []
    for now in times:
        before += last if now < last else 0.0
        last = now
        whole.append(before + now)
    return whole


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(str(file), json.dumps(content, indent=1, default=str) + "\n")


class Store:
    """The folder of finished runs, shared by comparisons.

    Args:
        folder: one sub-folder a run.
        imports: folders to look in for further finished runs: other stores, or run folders of plain ``yolo train``;
            what fits is copied into the store.

    Raises:
        UserError: a folder to import from does not exist.
    """

    def __init__(self, folder: Path, imports: Sequence[str] = ()):
        self.folder = folder
        self._records = [r for r in _stored(folder) if r is not None]
        for name in imports:
            if not Path(name).is_dir():
                raise UserError(f"imports={name} is not a folder")
        self._known: dict[str, Record | None] = {}  # by the run's key: what was looked for once
        self._foreign = [r for name in imports for r in _foreign(Path(name))]

    def place(self, spec: RunSpec) -> Path:
        """The folder of a run."""
        return self.folder / spec.key

    def find(self, spec: RunSpec) -> Record | None:
        """The finished run that is this one, or None; one that is to be imported is copied first."""
        if spec.key not in self._known:
            mine = next((r for r in self._records if r.is_for(spec)), None)
            foreign = None if mine else next((r for r in self._foreign if r.is_for(spec)), None)
            self._known[spec.key] = self._adopt(foreign, spec) if foreign else mine
        return self._known[spec.key]

    def add(self, spec: RunSpec) -> Record:
        """Take note of a run that has just been finished."""
        record = read_record(self.place(spec))
        if record is None:
            raise FileNotFoundError(self.place(spec) / RECORD)
        self._known[spec.key] = record
        return record

    def _adopt(self, record: Record | PlainRun, spec: RunSpec) -> Record:
        target = self.place(spec)
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT[1:]:
            if (record.folder / name).is_file():
                shutil.copy2(record.folder / name, target / name)
        facts = {**record.facts, "imported_from": str(record.folder.resolve())}
        write_json(target / RECORD, {"identity": record.identity, **facts, "results": seal(target / RESULTS)})
        LOGGER.info(f"imported {record.folder}")
        return self.add(spec)


def read_record(folder: Path) -> Record | None:
    """The finished run in a folder; None where there is none, or one that was harmed, which is named in the log."""
    if not (folder / RECORD).is_file():
        return None
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        wrong = flaw(folder, content)
    except (OSError, ValueError, RecursionError) as error:
        wrong = f"{RECORD}: {' '.join(str(error).split())[:200]}"
    if wrong:
        LOGGER.warning(f"{folder} is left out: {wrong}")
        return None
    identity = content.pop("identity")
    return Record(folder, {k: identity[k] for k in IDENTITY}, content)


def _stored(folder: Path) -> Iterator[Record | None]:
    if folder.is_dir():
        for place in sorted(folder.iterdir()):
            yield read_record(place)


@dataclass(frozen=True)
class PlainRun:
    """A finished run of plain ``yolo train``, which says what it was given but not what data and model were then.

    Attributes:
        folder: where its files are.
        args: content of its args.yaml.
        facts: as a record's.
    """

    folder: Path
    args: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=lambda: {"status": "done"})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """As a record's, of the data and the model as they are now.

        Raises:
            UserError: they are not there any more.
        """
        return {
            "data": identify.data_id(identify.locate(str(self.args["data"])), fetch=False),
            "model": identify.model_id(identify.locate(str(self.args["model"]))),
            "args": resolve(self.args),
            "versions": {"ultralytics": None, "torch": None},
        }

    def is_for(self, spec: RunSpec) -> bool:
        """Whether this is that run; data and model are only looked at where everything else fits."""
        try:
            return spec.fits(self.args) and spec.matches(self.identity)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # UserError is a ValueError
            LOGGER.warning(f"imports: {self.folder} is left out: {error}")
            return False


def _foreign(folder: Path) -> Iterator[Record | PlainRun]:
    """Finished runs below a folder: ours with their record, others by args.yaml and a complete results.csv."""
    for place in sorted(Path(root) for root, _, names in os.walk(folder) if RESULTS in names):  # passes what is closed
        record = read_record(place) if (place / RECORD).is_file() else _plain_run(place)
        if record is not None:
            yield record


def _plain_run(place: Path) -> PlainRun | None:
    """A finished run of plain ``yolo train``; None where it was cut short."""
    try:
        args = read_recipe(place / "args.yaml")
        epochs = read_results(place / RESULTS).get("epoch", [])
        if wrong := flaw_of_table((place / RESULTS).read_bytes()):
            raise UserError(wrong)
        if len(epochs) != args["epochs"] or args.get("mode") != "train":
            return None
        if not args["data"] or not args["model"]:
            return None
    except (OSError, KeyError, UserError) as error:
        LOGGER.warning(f"imports: {place} is left out: {error}")
        return None
    if str(args.get("optimizer")).lower() == "musgd" and not plugin_keys().keys() & args.keys():
        args["optimizer"] = "MuSGD-native"  # without the plugin, Ultralytics' own has that name
    return PlainRun(place, args)
