"""Times a model with NVIDIA's ``trtexec`` where TensorRT has no Python bindings: inference only, by its own clock."""

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError, first_line
from ..stats import drift, summarize
from .artifact import Artifact
from .base import Runtime
from .metadata import read_engine_header
from .tensorrt import TensorRt, build_precision

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")


def find_trtexec() -> Optional[str]:
    """Return the path of trtexec, or None."""
    return shutil.which("trtexec") or next((path for path in PLACES if os.access(path, os.X_OK)), None)


def parse_times(text: str) -> List[Dict[str, float]]:
    """Parse the file of ``--exportTimes``: per run ``latencyMs`` (with copies) and ``computeMs`` (GPU only).

    Raises:
        UserError: Not that kind of file, or no runs in it.
    """
    try:
        rows = [
            {key: float(row[key]) for key in ("latencyMs", "computeMs")}
            for row in json.loads(text)
            if "latencyMs" in row
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError("trtexec wrote times that cannot be read: {}".format(first_line(error)))
    if not rows:
        raise UserError("trtexec wrote no times")
    if not all(0 <= value < math.inf for row in rows for value in row.values()):
        raise UserError("trtexec wrote times that are negative or no numbers")
    return rows


class Trtexec(Runtime):
    """trtexec: times inference, gives no boxes; so ``detect`` and ``val`` need the bindings."""

    name = "trtexec"
    install = "sudo apt install libnvinfer-bin   (part of JetPack: /usr/src/tensorrt/bin/trtexec)"
    reads = ("engine", "onnx")

    def __init__(self, artifact: Artifact, engine: Optional[str], precision: str) -> None:
        Runtime.__init__(self, artifact)
        path = find_trtexec()
        if path is None:
            raise RuntimeMissing("trtexec is not found; install it: {}".format(self.install))
        self._path, self._artifact, self._engine, self._precision = path, artifact, engine, precision
        self.detail = {"path": path, "precision": precision}

    @classmethod
    def available(cls) -> Tuple[bool, str]:
        """See Runtime.available; the path stands for the version."""
        path = find_trtexec()
        return (True, path) if path else (False, cls.install)

    @classmethod
    def open(
        cls, artifact: Artifact, threads: Optional[int], engine: Optional[str], precision: Optional[str]
    ) -> Runtime:
        """See Runtime.open."""
        return cls(artifact, engine, build_precision(artifact, precision))

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """Not possible with trtexec."""
        raise UserError(
            "trtexec only times a model; detect and val need TensorRT's Python bindings: {}".format(TensorRt.install)
        )

    def _command(self, times: str, frames: int, seconds: float, plain: str) -> List[str]:
        words = [self._path, "--exportTimes=" + times, "--iterations={}".format(frames)]
        words += ["--duration={:g}".format(seconds), "--warmUp=2000", "--avgRuns=1"]
        if self._artifact.format == "engine":
            return words + ["--loadEngine=" + plain]
        words.append("--onnx=" + self._artifact.model)
        if self._precision in ("fp16", "int8"):
            words.append("--fp16")
        if self._precision == "int8":
            words.append("--int8")
        return words + (["--saveEngine=" + self._engine] if self._engine else [])

    def profile(self, frames: int, seconds: float) -> Dict[str, Any]:
        """Run trtexec for at least ``frames`` runs and ``seconds``; returns a run of the report without pre and post.

        Raises:
            UserError: trtexec failed; its last line says why.
        """
        with tempfile.TemporaryDirectory() as folder:
            times, plain = os.path.join(folder, "times.json"), self._artifact.model
            if self._artifact.format == "engine":
                offset = read_engine_header(plain)[1]
                if offset:  # trtexec knows nothing of the description before the engine
                    plain = os.path.join(folder, "plain.engine")
                    with open(self._artifact.model, "rb") as source, open(plain, "wb") as target:
                        source.seek(offset)
                        shutil.copyfileobj(source, target)
            start = time.perf_counter()
            done = subprocess.run(
                self._command(times, frames, seconds, plain),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False,
            )  # fmt: skip
            end = time.perf_counter()
            if done.returncode != 0 or not os.path.isfile(times):
                lines = [line for line in done.stdout.splitlines() if "[E]" in line] or done.stdout.splitlines()[-1:]
                raise UserError("trtexec failed: {}".format(lines[0].strip()[:300] if lines else done.returncode))
            with open(times, encoding="utf-8") as file:
                rows = parse_times(file.read())
        version = re.search(r"TensorRT\.trtexec \[TensorRT v(\d+)\]", done.stdout)
        self.version = version.group(1) if version else ""
        return _as_run(rows, start, end)


def _as_run(rows: List[Dict[str, float]], start: float, end: float) -> Dict[str, Any]:
    """Put trtexec's times into the report's form; what it does not measure is None.

    The timed runs come last; before them it may have built the engine for minutes, whose energy is not the frames'.
    """
    latency = [row["latencyMs"] for row in rows]
    ends = np.cumsum(latency) / 1e3
    start = max(start, end - float(ends[-1]))
    empty = None
    return {
        "start": start, "end": end, "frames": len(rows), "seconds": float(ends[-1]), "partial": False, "ended": None,
        "latency_ms": {"total": empty, "pre": empty, "infer": summarize(latency), "post": empty, "read": empty,
                       "compute": summarize([row["computeMs"] for row in rows])},
        "fps": {"end_to_end": empty, "inference_only": 1e3 * len(rows) / float(np.sum(latency))},
        "own_overhead_ms": empty, "detections_per_frame": empty, "drift_ms": drift(ends.tolist(), latency),
        "first_inference_ms": empty, "time_to_first_s": empty, "warmup": empty,
        "series": {"every": 1, "t_s": np.round(ends, 3).tolist(), "total_ms": [],
                   "infer_ms": np.round(latency, 3).tolist()},
    }  # fmt: skip
