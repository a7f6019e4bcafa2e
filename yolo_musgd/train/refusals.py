"""What Ultralytics refuses at the start of a training, as one line that says what to put right."""

from __future__ import annotations

import errno
import re
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.utils import remove_colorstr

from yolo_musgd.edge.errors import UserError

_NOTHING = re.compile(r"No (labels|valid images) found in ")  # the host's words
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas


class DataError(UserError):
    """The data set cannot be trained on."""


class ArgumentError(UserError, TypeError):
    """An argument of Ultralytics' that it refused; a TypeError too, which it raises itself."""


def remove_empty_run(save_dir: Path | None) -> None:
    """Remove a run folder that holds nothing but what every start writes."""
    if save_dir is None or not Path(save_dir).is_dir():
        return
    entries = {p.relative_to(save_dir).as_posix() for p in Path(save_dir).rglob("*")}
    if all(e in ("args.yaml", "weights") or e.startswith("events.out.tfevents") for e in entries):
        shutil.rmtree(save_dir, ignore_errors=True)


def explained(error: Exception, args: Mapping[str, Any], save_dir: Path | None, following: str = "") -> Exception:
    """The host's error, or ours where one line says it better; ``following`` is what goes on after a full disk."""
    folder_made = save_dir is not None and (Path(save_dir) / "weights").is_dir()
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError) and error.filename and not folder_made and "get_cfg" not in frames:
        return UserError(f"cannot write the run folder {error.filename}: {error.strerror}; choose another project=")
    if isinstance(error, OSError) and error.errno in _FULL:
        return UserError(f"cannot write to {save_dir}: {error.strerror}{f'; {following}' if following else ''}")
    if isinstance(error, RuntimeError) and str(error).startswith("Dataset "):
        cause = error.__cause__ or error
        return DataError(f"data={args.get('data')}: {' '.join(str(cause).split())}")
    if isinstance(error, FileNotFoundError) and "Error loading data from" in str(error):
        reason, _, _ = remove_colorstr(str(error.__cause__ or error)).partition(" Supported formats")
        return DataError(f"data={args.get('data')}: {' '.join(reason.split())}")
    if isinstance(error, (ValueError, RuntimeError)) and _NOTHING.search(str(error)):
        reason, _, _ = remove_colorstr(str(error)).partition("See https")
        lines = [" ".join(line.split()) for line in reason.splitlines() if line.strip()]
        hint = "It needs a labels/ folder beside images/ with a .txt for each image, lines of class x y width height"
        return DataError(f"data={args.get('data')}: {' '.join(lines[:2])} {'' if lines[1:] else hint}".strip())
    if isinstance(error, (TypeError, ValueError)) and frames[-1:] == ["check_cfg"]:
        return ArgumentError(str(error))
    return error
