"""What says that a run is finished and unharmed: its record names the rows of results.csv and their checksum."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd.lab.process import RESULTS
from yolo_musgd.settings import is_finite

IDENTITY = {"data": str, "model": str, "args": dict, "versions": dict}
NUMBERS = (
    "seconds", "cpu_seconds", "optimizer_steps", "step_ms_p50", "step_ms_p90", "step_cpu_ms_p50", "state_bytes",
    "parameter_bytes", "peak_rss_bytes", "cuda_peak_bytes",
)  # fmt: skip
"""Facts of a record that the report computes with; None where they were not measured."""


def seal(results: Path) -> dict[str, Any]:
    """Rows and SHA-256 of a results.csv, for the record of its run."""
    content = results.read_bytes()
    return {"rows": _rows(content), "sha256": hashlib.sha256(content).hexdigest()}


def flaw(folder: Path, record: Any) -> str | None:
    """What is wrong with a finished run, in a few words; None where nothing is.

    Args:
        folder: of the run.
        record: content of its run.json. One of version 0.1 names no rows: then as many are wanted as it timed epochs.
    """
    identity = record.get("identity") if isinstance(record, dict) else None
    if not isinstance(identity, dict) or any(not isinstance(identity.get(k), t) for k, t in IDENTITY.items()):
        return "run.json says nothing about what was trained"
    wrong = next((k for k in NUMBERS if not _is_number(record.get(k))), None)
    if wrong is not None:
        return f"run.json: {wrong} is {str(record[wrong])[:40]!r}, not a number"
    epochs = record.get("epochs", [])
    timed = isinstance(epochs, list) and all(isinstance(e, dict) for e in epochs)
    if not timed or not all(_is_number(value) for e in epochs for value in e.values()):
        return "run.json: epochs is not a list of measurements"
    if not isinstance(record.get("machine", {}), dict):
        return "run.json: machine is not a description"
    wanted = len(epochs) if record.get("status") == "done" else 0  # one that diverged ends early
    return _flaw_of_results(folder / RESULTS, record.get("results"), wanted)


def _flaw_of_results(file: Path, sealed: Any, epochs: int) -> str | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        return f"{RESULTS} cannot be read: {error.strerror}"
    if isinstance(sealed, Mapping):
        if hashlib.sha256(content).hexdigest() == sealed.get("sha256"):
            return None
        return f"{RESULTS} is not the one that training wrote: {_rows(content)} of {sealed.get('rows')} rows"
    return flaw_of_table(content) or (
        f"{RESULTS} holds {_rows(content)} of {epochs} epochs" if _rows(content) < epochs else None
    )


def flaw_of_table(content: bytes) -> str | None:
    """What is wrong with a results.csv of which no checksum is known; None where every cell is a number."""
    try:
        rows = list(csv.reader(content.decode("utf-8").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        return f"{RESULTS}: {error}"
    if len(rows) < 2:
        return f"{RESULTS} has no epochs"
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(rows[0]) or not all(map(_is_numeric, row)):
            return f"{RESULTS}: row {number} is not {len(rows[0])} numbers"
    return None


def _rows(content: bytes) -> int:
    return max(0, len(content.splitlines()) - 1)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value))


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
