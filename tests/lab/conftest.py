"""Finished runs written by hand: what the report says about them is then known beforehand."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from yolo_musgd import plugin
from yolo_musgd.lab.arms import Arm
from yolo_musgd.lab.parsing import parse_protocol
from yolo_musgd.lab.protocol import METRIC
from yolo_musgd.lab.runs import RunSpec
from yolo_musgd.lab.store import Store

plugin.register()


class Make:
    """Protocols and their arms, whose data and models need not exist."""

    def protocol(self, **content):
        return parse_protocol({"data": "d.yaml", "optimizers": ["SGD", "MuSGD"], "seeds": 2, "epochs": 4, **content})

    def arms(self, **content):
        p = self.protocol(**content)
        return [
            Arm(p, data, start, c, f"id of {data.data}", f"id of {start.model}")
            for data in p.data
            for start in p.starts
            for c in p.optimizers
        ]


@pytest.fixture
def make():
    return Make()


def write_run(store: Path, spec: RunSpec, curve, columns=None, **facts) -> Path:
    """Put a finished run into a store: metric after each epoch, further columns of results.csv, facts of run.json."""
    folder = store / spec.key
    folder.mkdir(parents=True)
    table = {"epoch": range(1, len(curve) + 1), "time": [10.0 * (i + 1) for i in range(len(curve))], METRIC: curve}
    table |= columns or {}
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    facts = {"status": "done", "seconds": 40.0, "machine": {"threads": 1, "board": "a board"}, **facts}
    (folder / "run.json").write_text(json.dumps({"identity": spec.identity, **facts}))
    return folder


@dataclasses.dataclass
class Bench:
    """A store in which runs are written by hand."""

    folder: Path

    def add(self, arm, seed, curve, point=None, **facts):
        return write_run(self.folder, arm.spec(point or {}, seed), curve, **facts)

    def write(self, spec, curve, **facts):
        return write_run(self.folder, spec, curve, **facts)

    def store(self):
        return Store(self.folder)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "store")
