"""A model that a runtime has open, with the facts that its output is read by."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from yolo_musgd.edge.runtimes.artifact import Artifact, open_artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.runtimes.open import open_runtime


class Loaded(NamedTuple):
    """Facts of a model file and the runtime that has it open; :meth:`close` it."""

    artifact: Artifact
    runtime: Runtime

    def close(self) -> None:
        """Free what the runtime holds."""
        self.runtime.close()


def load(model: Path, runtime: str, threads: int, precision: str | None = None, like: Artifact | None = None) -> Loaded:
    """Open ``model`` on the CPU.

    Args:
        model: file or folder, see :func:`yolo_musgd.edge.runtimes.artifact.open_artifact`.
        runtime: name of the runtime.
        threads: its CPU threads.
        precision: that it computes in, where it may choose.
        like: facts of the same network; gives input size and channels, head and names, which not every format carries.

    Raises:
        UserError: the model is damaged, or the runtime is missing or refuses it.
    """
    artifact = open_artifact(str(model), like.imgsz[0] if like else None)
    if like:
        artifact = artifact._replace(head=like.head, names=like.names, channels=like.channels)
    return Loaded(artifact, open_runtime(artifact, runtime, threads, precision=precision))
