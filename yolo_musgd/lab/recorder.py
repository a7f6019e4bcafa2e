"""What the lab notes inside a training run: times of epochs and optimizer steps, memory, and where it ran."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from yolo_musgd.edge.power import system
from yolo_musgd.optim.state import picked, state_bytes


class Recorder:
    """Callbacks for one run of Ultralytics' trainer; :meth:`facts` is what they saw."""

    def __init__(self) -> None:
        self._epochs: dict[int, dict[str, Any]] = {}
        self._steps: list[float] = []
        self._cpu_steps: list[float] = []
        self._events: list[tuple[Any, Any]] = []
        self._began = self._step_began = self._step_cpu_began = self._cpu_began = 0.0
        self._optimizer: Optimizer | None = None
        self._parameters = 0
        self._picked: dict[str, Any] | None = None

    def attach(self, model: Any) -> None:
        """Register the callbacks with an Ultralytics model (``YOLO(...)``)."""
        for event in ("on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_fit_epoch_end"):
            model.add_callback(event, getattr(self, f"_{event}"))

    def _on_train_start(self, trainer: Any) -> None:
        self._optimizer, self._cpu_began = trainer.optimizer, time.process_time()
        self._picked = picked(trainer.optimizer)
        self._parameters = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        timed = trainer.device.type == "cuda"
        trainer.optimizer.register_step_pre_hook(self._before_cuda if timed else self._before)
        trainer.optimizer.register_step_post_hook(self._after_cuda if timed else self._after)

    def _on_train_epoch_start(self, trainer: Any) -> None:
        self._began = time.perf_counter()

    def _on_train_epoch_end(self, trainer: Any) -> None:
        seconds = time.perf_counter() - self._began
        self._epochs[trainer.epoch + 1] = {"train_s": round(seconds, 4), "batches": len(trainer.train_loader)}

    def _on_fit_epoch_end(self, trainer: Any) -> None:
        epoch = self._epochs.get(trainer.epoch + 1)
        if epoch is not None and "total_s" not in epoch:  # it is called once more after the final validation
            epoch["total_s"] = round(time.perf_counter() - self._began, 4)
            epoch["cpu_s"] = round(time.process_time() - self._cpu_began, 4)  # since training began

    def _before(self, *_: Any) -> None:
        self._step_began, self._step_cpu_began = time.perf_counter(), time.process_time()

    def _after(self, *_: Any) -> None:
        self._steps.append(time.perf_counter() - self._step_began)
        self._cpu_steps.append(time.process_time() - self._step_cpu_began)

    def _before_cuda(self, *_: Any) -> None:
        """Events do not make the host wait for the device; they are read when the run is over."""
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        self._events.append((start, end))

    def _after_cuda(self, *_: Any) -> None:
        self._events[-1][1].record()

    def facts(self) -> dict[str, Any]:
        """Everything seen; None for what this machine does not tell."""
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if self._events:
            torch.cuda.synchronize()
        steps = self._steps or [start.elapsed_time(end) / 1e3 for start, end in self._events]
        peak = system.memory_mb()[1]
        return {
            "picked": self._picked,
            "epochs": [{"epoch": e, **v} for e, v in self._epochs.items()],
            "optimizer_steps": len(steps),
            "step_ms_p50": float(np.median(steps)) * 1e3 if steps else None,
            "step_ms_p90": float(np.percentile(steps, 90)) * 1e3 if steps else None,
            "step_cpu_ms_p50": float(np.median(self._cpu_steps)) * 1e3 if self._cpu_steps else None,
            "state_bytes": None if self._optimizer is None else state_bytes(self._optimizer),
            "parameter_bytes": self._parameters or None,
            "peak_rss_bytes": None if peak is None else int(peak * 1024 * 1024),
            "cuda_peak_bytes": int(torch.cuda.max_memory_allocated()) if cuda else None,
        }


def machine() -> dict[str, Any]:
    """Where a run was done."""
    cuda = torch.cuda.is_available()
    return {
        **system.identity(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if cuda else None,
    }
