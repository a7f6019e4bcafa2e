"""The files of a run's telemetry: their names and columns, how they are written and how they are read.

One row a step in ``optimizer_steps.csv.gz``; one a layer and epoch in ``optimizer_layers.csv`` and
``optimizer_entropy.csv``. A resumed or repeated run first forgets the epochs that it is about to redo.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import warnings
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
_NUMBER = r"(?:[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf)|nan)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:,{_NUMBER})*")
_HEADER = re.compile(r"epoch,layer,\w+")
_VALUE = re.compile(rf"(\d+),([^\x00,]+),({_NUMBER})")


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
    if not _size(file):
        writer.writerow(("epoch", "step", *COLUMNS))
    for row in rows:
        last += 1
        writer.writerow((epoch, last, *(f"{v:.6g}" for v in row)))
    _append(file, gzip.compress(text.getvalue().encode(), mtime=0))
    return last


def append_values(file: Path, column: str, epoch: int, values: Mapping[str, float]) -> None:
    """Append one value a layer to a file with the columns epoch, layer and ``column``."""
    header = "" if _size(file) else f"epoch,layer,{column}\n"
    rows = "".join(f"{epoch},{layer},{value:.6g}\n" for layer, value in values.items())
    _append(file, (header + rows).encode())


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _append(file: Path, data: bytes) -> None:
    """All of the data, or none where the disk has no room: nothing that comes later could be read behind a part."""
    end = _size(file)
    try:
        with file.open("ab") as out:
            out.write(data)
    except OSError:
        if _size(file) > end:
            os.truncate(file, end)
        raise


def read_steps(file: Path) -> dict[str, Any]:
    """Columns of a step file as arrays of equal length; empty without a file or a row in it."""
    header, rows, values, _ = _table(file)
    return dict(zip(header.split(","), values.T, strict=True)) if rows else {}


def _table(file: Path) -> tuple[str, list[str], Any, bool]:
    """Header, readable rows as text and as an array (rows, columns), and whether that is all of the file.

    A member that a power cut left incomplete is passed over, and what comes after it.
    """
    if not file.exists():
        return "", [], np.empty((0, 0)), True
    text, whole = _inflate(file)
    header, *lines = text.decode(errors="replace").splitlines() or [""]
    commas = header.count(",")
    rows = [line for line in lines if line.count(",") == commas]
    values = _parsed(rows)
    if values.size != len(rows) * (commas + 1):
        rows = [row for row in rows if _NUMBERS.fullmatch(row)]
        values = _parsed(rows)
    return header, rows, values.reshape(len(rows), commas + 1), whole and len(rows) == len(lines)


def _parsed(rows: list[str]) -> Any:
    """All numbers of the rows; fewer where one is no number, of which older releases of NumPy only warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return np.fromstring(",".join(rows), sep=",")
        except ValueError:
            return np.empty(0)


def _inflate(file: Path, size: int = 1 << 16) -> tuple[bytes, bool]:
    """The text of all complete gzip members, and whether there is nothing else."""
    complete: list[bytes] = []
    parts: list[bytes] = []
    member = zlib.decompressobj(wbits=31)
    with file.open("rb") as stream:
        while data := stream.read(size):
            while data:
                try:
                    parts.append(member.decompress(data))
                except zlib.error:
                    return b"".join(complete), False
                data = member.unused_data
                if member.eof:
                    complete += parts
                    parts, member = [], zlib.decompressobj(wbits=31)
    return b"".join(complete), not parts


def forget_steps(file: Path, epoch: int) -> int:
    """Drop the rows from this epoch on, and anything unreadable; returns the last step that stays.

    A file with other columns, those of another release, is kept aside as ``old_...``.
    """
    if not file.exists():
        return 0
    header, rows, values, whole = _table(file)
    if header != ",".join(("epoch", "step", *COLUMNS)):
        _set_aside(file)
        return 0
    earlier = values[:, 0] < epoch
    if not earlier.any():
        file.unlink()
        return 0
    if not whole or not earlier.all():
        kept = [row for row, keep in zip(rows, earlier, strict=True) if keep]
        _replace(file, gzip.compress("".join(f"{row}\n" for row in [header, *kept]).encode(), 6, mtime=0))
    return int(values[earlier][-1, 1])


def forget_values(file: Path, epoch: int) -> None:
    """Drop the rows from this epoch on of a file with one value a layer.

    A file with unreadable rows, such as the zeros that a power cut leaves, is kept aside as ``old_...``; its readable
    rows go on in a new one.
    """
    if not file.exists():
        return
    header, rows, whole = _values(file)
    kept = [f"{e},{layer},{value}\n" for e, layer, value in rows if int(e) < epoch]
    if not whole:
        _set_aside(file)
    if kept:
        _replace(file, "".join([header + "\n", *kept]).encode())
    else:
        file.unlink(missing_ok=True)


def _values(file: Path) -> tuple[str, list[tuple[str, str, str]], bool]:
    """Header and readable rows (epoch, layer, value as text) of a file with one value a layer; whether that is all."""
    header, *lines = file.read_bytes().decode(errors="replace").splitlines() or [""]
    if not _HEADER.fullmatch(header):
        return "", [], False
    found = [_VALUE.fullmatch(line) for line in lines]
    rows = [(m[1], m[2], m[3]) for m in found if m]
    return header, rows, len(rows) == len(lines)


def _set_aside(file: Path) -> None:
    """Rename a file to ``old_...``, or ``old2_...`` where there is one already."""
    number = 1
    while (aside := file.with_name(f"old{number if number > 1 else ''}_{file.name}")).exists():
        number += 1
    file.replace(aside)


def _replace(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)


def read_values(file: Path) -> dict[str, dict[int, float]]:
    """Layer -> epoch -> value; an epoch that a resumed run repeated counts once, the last."""
    layers: dict[str, dict[int, float]] = {}
    for epoch, layer, value in _values(file)[1]:
        layers.setdefault(layer, {})[int(epoch)] = float(value)
    return layers
