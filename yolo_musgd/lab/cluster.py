"""Runs on a Ray cluster: each task trains in a process on its node and sends the finished files back."""

from __future__ import annotations

import concurrent.futures as futures
import os
import socket
import threading
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.process import RunError, Task, train_on_node, unpack
from yolo_musgd.lab.runs import RunSpec, versions
from yolo_musgd.resources import install


class RayExecutor:
    """Runs on the nodes of a Ray cluster.

    The data set and the model must be at the same place on every node (or be ones that Ultralytics or the plugin finds
    by name); the results travel through Ray.

    Args:
        address: ``auto`` for the cluster of this machine, ``local`` to start one here, or ``ray://host:10001`` or
            ``host:6379``.
        jobs: runs at a time; None for as many as the cluster has CPUs for.
        threads: CPUs of each run.
        keep_weights: bring the checkpoints back too.
        gpus: GPUs of each run; 1 where training uses CUDA.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, jobs: int | None, threads: int, keep_weights: bool, gpus: float = 0):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        try:
            import ray
        except ImportError:
            raise UserError(f"ray= needs Ray: {install('ray')}") from None
        self._ray = ray
        _check_reachable(address)
        options = {}
        if address == "local":  # small and quick to start: it carries nothing but results
            options = {"include_dashboard": False, "object_store_memory": 2**27}
            if jobs:
                options["num_cpus"] = jobs * threads
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"ray={address}: no cluster there ({' '.join(str(error).split())[:160]})") from None
        cpus = int(ray.cluster_resources().get("CPU", 1))
        if threads > cpus:
            raise UserError(f"threads={threads} for each run, but the cluster has {cpus} CPUs; lower threads")
        self.slots = jobs or max(1, cpus // threads)
        self._train = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=1)(train_on_node)
        self._threads, self._keep = threads, keep_weights
        self._pending: list[Any] = []

    def submit(self, spec: RunSpec, folder: Path) -> futures.Future[None]:
        """Send a run to the cluster."""
        reference = self._train.remote(Task(spec.to_dict(), self._threads, self._keep, versions()))
        self._pending.append(reference)
        future: futures.Future[None] = futures.Future()
        threading.Thread(target=self._fetch, args=(reference, folder, future), daemon=True).start()
        return future

    def _fetch(self, reference: Any, folder: Path, future: futures.Future[None]) -> None:
        try:
            files, error = self._ray.get(reference)
            unpack(files, folder)
            if error:
                raise RunError(error)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error if isinstance(error, RunError) else RunError(_cause(error)))

    def close(self) -> None:
        """Cancel what is pending and leave the cluster."""
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _check_reachable(address: str, seconds: float = 10.0) -> None:
    """Knock at ``host:port`` first: Ray itself would try for minutes.

    Raises:
        UserError: nobody answers, or it is no address.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"ray={address}: no cluster there ({error}); give auto, local, host:6379 or ray://host:10001"
        ) from None


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
