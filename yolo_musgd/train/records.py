"""The files of a run's telemetry: their names and columns, how they are written and how they are read.

One row a step in ``optimizer_steps.csv.gz``; one a layer and epoch in ``optimizer_layers.csv`` and
``optimizer_entropy.csv``. A resumed or repeated run first forgets the epochs that it is about to redo.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

STEPS_FILE = "optimizer_steps.csv.gz"
LAYERS_FILE = "optimizer_layers.csv"
ENTROPY_FILE = "optimizer_entropy.csv"
COLUMNS = (
    "grad_norm",  # before clipping
    "grad_norm_clipped",  # what the optimizer sees
    "beta_t",  # mean over the parameter tensors
    "beta_t_min",
    "beta_t_max",
    "beta_t_p10",
    "beta_t_p90",
    "update_rms",  # mean over the matrices that Muon updates
    "skipped_steps",  # count since the start of this process
)


def append_steps(file: Path, epoch: int, rows: Any, last: int) -> int:
    """Append one epoch's rows as a gzip member of its own: what an interruption cuts off is the last epoch at most.

    Args:
        file: the step file; made with its header where there is none.
        epoch: 1-based.
        rows: array (steps, columns), in the order of COLUMNS.
        last: number of the last step in the file.

    Returns:
        The number of the last step now.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not file.exists():
        writer.writerow(("epoch", "step", *COLUMNS))
    for row in rows:
        last += 1
        writer.writerow((epoch, last, *(f"{v:.6g}" for v in row)))
    with file.open("ab") as out:
        out.write(gzip.compress(text.getvalue().encode(), mtime=0))
    return last


def append_values(file: Path, column: str, epoch: int, values: Mapping[str, float]) -> None:
    """Append one value a layer to a file with the columns epoch, layer and ``column``."""
    header = "" if file.exists() else f"epoch,layer,{column}\n"
    with file.open("a", encoding="utf-8") as out:
        out.write(header + "".join(f"{epoch},{layer},{value:.6g}\n" for layer, value in values.items()))


def read_steps(file: Path) -> dict[str, Any]:
    """Columns of a step file as arrays of equal length; empty without a file or a row in it."""
    header, rows = _lines(file)
    if not rows:
        return {}
    values = np.array([[float(x) for x in row.split(",")] for row in rows])
    return dict(zip(header.split(","), values.T, strict=True))


def _lines(file: Path) -> tuple[str, list[str]]:
    """Header and complete rows of a step file; a member that a power cut left incomplete is passed over."""
    if not file.exists():
        return "", []
    data, text = file.read_bytes(), b""
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(data)
        except zlib.error:
            break
        if not member.eof:
            break
        text, data = text + part, member.unused_data
    header, *rows = text.decode().splitlines() or [""]
    return header, [row for row in rows if row.count(",") == header.count(",")]


def forget_steps(file: Path, epoch: int) -> int:
    """Drop the rows from this epoch on, and anything unreadable; returns the last step that stays."""
    if not file.exists():
        return 0
    header, rows = _lines(file)
    if header != ",".join(("epoch", "step", *COLUMNS)):  # another release's columns: begin anew, and keep the old file
        file.replace(file.with_name(f"old_{file.name}"))
        return 0
    kept = [row for row in rows if int(row.split(",")[0]) < epoch]
    if not kept:
        file.unlink()
        return 0
    _replace(file, gzip.compress("".join(f"{row}\n" for row in [header, *kept]).encode(), mtime=0))
    return int(kept[-1].split(",")[1])


def forget_values(file: Path, epoch: int) -> None:
    """Drop the rows from this epoch on of a file with one value a layer."""
    if file.exists():
        header, *rows = file.read_text(encoding="utf-8").splitlines() or [""]
        kept = [row for row in rows if int(row.split(",")[0]) < epoch]
        if kept:
            _replace(file, "".join(f"{row}\n" for row in [header, *kept]).encode())
        else:
            file.unlink()


def _replace(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)


def read_values(file: Path, column: str) -> dict[str, dict[int, float]]:
    """Layer -> epoch -> value; an epoch that a resumed run repeated counts once, the last."""
    layers: dict[str, dict[int, float]] = {}
    with file.open(encoding="utf-8") as text:
        for row in csv.DictReader(text):
            layers.setdefault(row["layer"], {})[int(row["epoch"])] = float(row[column])
    return layers
