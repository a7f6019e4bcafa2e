"""What a federation has done so far, on disk: one file that is replaced whole after every round, and a table of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.edge.files import write_whole
from yolo_musgd.federated.arrays import Arrays, read_arrays, under, with_prefix, write_arrays

_META = "meta"


class Progress:
    """The rounds that are finished.

    Args:
        folder: of the results.

    Raises:
        UserError: its file is damaged.
    """

    def __init__(self, folder: Path):
        self._folder, self._file = folder, folder / "state.npz"
        self._stored: Arrays = read_arrays(self._file) if self._file.is_file() else {}
        meta = json.loads(str(self._stored.pop(_META))) if self._stored else {}
        self.rows: list[dict[str, Any]] = meta.get("rows", [])
        self.left_out: list[dict[str, Any]] = meta.get("left_out", [])
        self.baselines: dict[str, dict[str, float]] = meta.get("baselines", {})

    @property
    def round(self) -> int:
        """The last finished round, 0 before the first."""
        return int(self.rows[-1]["round"]) if self.rows else 0

    def load(self) -> Arrays:
        """What was stored with the last round; empty before the first."""
        return self._stored if self.rows else {}

    def initial(self) -> Arrays:
        """The arrays that the federation began with."""
        return under("initial", self._stored)

    def begin(self, initial: Arrays) -> None:
        """Keep the arrays that it begins with, unless it has begun."""
        if not self._stored:
            self._write(with_prefix("initial", initial))

    def add(self, row: dict[str, Any], arrays: Arrays, left_out: Mapping[str, str]) -> None:
        """A round is finished."""
        self.rows.append(row)
        self.left_out += [{"round": row["round"], "client": name, "why": why} for name, why in left_out.items()]
        self._write(with_prefix("initial", self.initial()) | arrays)
        self.write_table()

    def add_baseline(self, name: str, metrics: dict[str, float]) -> None:
        """A training beside it is finished."""
        self.baselines[name] = metrics
        self._write(self._stored)

    def _write(self, arrays: Arrays) -> None:
        meta = {"rows": self.rows, "left_out": self.left_out, "baselines": self.baselines}
        write_arrays(self._file, {**arrays, _META: np.array(json.dumps(meta))})
        self._stored = arrays

    def write_table(self) -> None:
        """Write results.csv from the rounds that are finished."""
        text = io.StringIO()
        table = csv.DictWriter(text, self.rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows)
        write_whole(str(self._folder / "results.csv"), text.getvalue())
