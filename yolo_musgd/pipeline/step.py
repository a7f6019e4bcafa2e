"""A step of the pipeline: one command, what it needs, what it makes, and how to know whether that is still true.

A step is done when its folder holds ``step.json`` with the key of today's inputs, and its outputs are the files they
were. The key covers the command's words, the content of every file that goes in, and the versions of what computes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yolo_musgd.edge.runtimes.artifact import sha256_of
from yolo_musgd.export import manifest

MARKER = "step.json"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of its folder.
        title: for people: what it does.
        words: the command; ``{out}`` stands for the step's own folder, ``{train}`` for that of the step train, and
            ``{data}`` and so on for the pipeline's inputs.
        needs: steps before it.
        inputs: names of the pipeline's inputs that it reads, without braces.
        outputs: patterns of the files that later steps read, below the folder; each must match.
        seconds: a first guess of how long it takes.
        epochs: of a training, else 0.
    """

    name: str
    title: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    seconds: float = 20.0
    epochs: int = 0

    def command(self, places: Mapping[str, str]) -> list[str]:
        """The words with every place filled in."""
        return [re.sub(r"{([\w-]+)}", lambda found: places.get(found[1], found[0]), word) for word in self.words]


@dataclass(frozen=True)
class Input:
    """Something that the pipeline is given: its path and the SHA-256 of its content."""

    path: str
    digest: str


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that compute, as far as they are installed."""
    found = manifest.versions()
    with suppress(PackageNotFoundError):
        found["torch-pruning"] = version("torch-pruning")
    return found


def key_of(step: Step, inputs: Mapping[str, Input], before: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides what a step makes.

    Args:
        step: the step.
        inputs: name -> input of the pipeline.
        before: name -> digest of the outputs of each step that is needed.
    """
    return {
        "words": list(step.words),
        "inputs": {name: inputs[name].digest for name in step.inputs},
        "before": {name: before[name] for name in step.needs},
        "versions": versions(),
    }


def digest_of(content: Any) -> str:
    """SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_outputs(step: Step, folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of the files a step made.

    Raises:
        FileNotFoundError: a pattern that no file matches.
    """
    found: dict[str, str] = {}
    for pattern in step.outputs:
        files = sorted(f for f in folder.glob(pattern) if f.is_file())
        if not files:
            raise FileNotFoundError(pattern)
        found.update({f.relative_to(folder).as_posix(): sha256_of(str(f)) for f in files})
    return found


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The record of a finished step, None where there is none, or one that was harmed: then the step is done anew."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if _is_record(content) else None


def _is_record(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("outputs"), dict):
        return False
    inputs = content.get("inputs")
    if not isinstance(inputs, dict):
        return False
    words = inputs.get("words") or []
    parts = (inputs.get(name) or {} for name in ("inputs", "outside", "before", "versions"))
    listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return listed and all(isinstance(part, dict) for part in parts)


def why_not_done(key: Mapping[str, Any], folder: Path) -> str | None:
    """Why a step is to do, in a few words; None if it is done."""
    record = read_marker(folder)
    if record is None:
        return "not done yet"
    for name, digest in record["outputs"].items():
        file = folder / name
        if not file.is_file() or sha256_of(str(file)) != digest:
            return f"{name} was {'changed' if file.is_file() else 'removed'}"
    return _difference(record["inputs"], key)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    if old.get("words") != new["words"]:
        return _changed_words(old.get("words") or [], new["words"])
    old = {"inputs": old.get("outside"), **old}  # as records of version 0.1 call them
    for part, text in (("inputs", "{} changed"), ("before", "{} was redone")):
        for name, digest in new[part].items():
            if (old.get(part) or {}).get(name) != digest:
                return text.format(name)
    for name in {**(old.get("versions") or {}), **new["versions"]}:
        was, now = (old.get("versions") or {}).get(name), new["versions"].get(name)
        if was != now:
            return f"{name} {was or 'was missing'} -> {now or 'missing'}"
    return None


def _changed_words(old: Sequence[str], new: Sequence[str]) -> str:
    gone, come = [w for w in old if w not in new], [w for w in new if w not in old]
    return f"{' '.join(gone) or 'nothing'} -> {' '.join(come) or 'nothing'}"
