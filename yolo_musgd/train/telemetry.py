"""What the optimizer does, on record: gradient norms and beta_t of every step.

The optimizer reports (``report()``), the monitor reads. Values stay on the device until the epoch ends; one transfer
then brings them all. Per step they go to ``optimizer_steps.csv.gz``, per epoch into results.csv and every logger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.utils import LOGGER

from yolo_musgd.edge.options import nearest
from yolo_musgd.optim.orthogonalize import singular_value_entropy
from yolo_musgd.optim.param_groups import unwrap
from yolo_musgd.settings import SettingsError
from yolo_musgd.tables import plot_style
from yolo_musgd.train.records import (
    COLUMNS,
    ENTROPY_FILE,
    LAYERS_FILE,
    STEPS_FILE,
    append_steps,
    append_values,
    forget_steps,
    forget_values,
    read_steps,
)

_QUANTILES = (0.1, 0.9)


def grad_norm(optimizer: Optimizer) -> Tensor:
    """L2 norm over all gradients, 0-d on their device; 0 where there are none."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms: tuple[Tensor, ...] = torch._foreach_norm(grads)
    total: Tensor = torch.linalg.vector_norm(torch.stack([n.float().to(norms[0].device) for n in norms]))
    return total


@contextmanager
def noted_clipping() -> Iterator[list[Tensor]]:
    """The norms that ``torch.nn.utils.clip_grad_norm_`` computes in this block, which the trainer throws away."""
    utils: Any = nn.utils
    norms: list[Tensor] = []
    clip = utils.clip_grad_norm_

    @wraps(clip)
    def noted(*args: Any, **kwargs: Any) -> Tensor:
        norms.append(clip(*args, **kwargs))
        return norms[-1]

    utils.clip_grad_norm_ = noted
    try:
        yield norms
    finally:
        utils.clip_grad_norm_ = clip


class Monitor:
    """Records one run of one optimizer.

    Args:
        folder: the run folder.
        model: the model being trained, for the names of its parameters.
        optimizer: any torch optimizer; one with ``report()`` is asked for its gradient norm, beta_t and skipped steps.
        layers: also keep the mean beta_t of every parameter tensor.
        entropy: also keep, once an epoch, the singular-value entropy of the matrices and filters whose names begin
            with one of these; ``all`` takes every one.
        name: what the user calls the optimizer; its class' name if None.

    Raises:
        SettingsError: no matrix has such a name.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: Optimizer,
        layers: bool = False,
        entropy: Sequence[str] = (),
        name: str | None = None,
    ):
        self.folder = folder
        self.name = name or type(optimizer).__name__
        self.optimizer = optimizer
        self.reports = tuple(getattr(optimizer, "reports", ()))  # the columns of the whole run
        self.layers = layers
        named = _named(model)
        self._names = {id(p): n for n, p in named.items()}
        self._watched = _matrices(named, entropy)
        self._rows: list[Tensor] = []
        self._layer_rows: list[tuple[list[str], Tensor]] = []
        self._stepped = False
        self._clipped: Tensor | None = None
        self._steps = 0
        self._skipped = 0.0
        self._begun = False
        optimizer.register_step_pre_hook(self._before_step)

    def follow(self, optimizer: Optimizer) -> None:
        """Record this optimizer from now on, where a user's callback has put it in the place of the one before."""
        if optimizer is not self.optimizer:
            self.optimizer, self.name = optimizer, type(optimizer).__name__
            optimizer.register_step_pre_hook(self._before_step)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one clip-and-step of the trainer."""
        self._stepped, self._clipped = False, None
        with noted_clipping() as norms:
            yield
        report: dict[str, Tensor] = getattr(self.optimizer, "report", dict)()
        stepped = self._stepped  # a GradScaler that found inf does not call step() at all
        nan = torch.full((), float("nan"), device=norms[-1].device if norms else None)
        clipped = report.get("grad_norm", self._clipped) if stepped else None
        clipped = nan if clipped is None else clipped.float()
        raw = norms[-1].detach().float() if norms else clipped
        clipped, nan = clipped.to(raw.device), nan.to(raw.device)
        spread, rms = nan.expand(5), nan
        betas = report.get("beta_t") if stepped else None
        if betas is not None and betas.numel():
            betas = betas.to(raw)
            low, high = torch.quantile(betas, betas.new_tensor(_QUANTILES))
            spread = torch.stack([betas.mean(), betas.min(), betas.max(), low, high])
            if self.layers:
                live: list[Tensor] = getattr(self.optimizer, "beta_params", [])
                self._layer_rows.append(([self._names.get(id(p), "?") for p in live], betas))
        if stepped and "update_rms" in report:
            rms = report["update_rms"].to(raw).mean()
        skipped = report.get("skipped_steps", torch.zeros(())).to(raw)
        self._rows.append(torch.cat([torch.stack([raw, clipped]), spread, torch.stack([rms, skipped])]))

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Note that there is a step, and its norm if the optimizer will not tell: some write to the gradients."""
        self._stepped = True
        if "grad_norm" not in getattr(optimizer, "reports", ()):
            self._clipped = grad_norm(optimizer)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Write the epoch's steps to their file and return its summary, keyed ``optim/<column>``.

        Args:
            epoch: 1-based, as in results.csv.

        Returns:
            medians of the norms (a single exploding step would hide the rest), means of beta_t and update_rms as far as
            the optimizer has them (NaN if no step was finite), and the running count of skipped steps. The keys are the
            same in every epoch, as the columns of results.csv must be.
        """
        rows = torch.stack(self._rows).cpu().numpy() if self._rows else np.empty((0, len(COLUMNS)))
        self._rows.clear()
        try:
            self._write(epoch, rows)
        except OSError as error:  # a full disk must not end the training
            LOGGER.warning(f"telemetry could not be written: {error}")
        if len(rows):
            self._skipped = float(rows[-1, COLUMNS.index("skipped_steps")])
        summary: dict[str, float] = {}
        for column, values in zip(COLUMNS, rows.T, strict=True):
            seen = values[np.isfinite(values)]
            if column == "skipped_steps":
                summary["optim/skipped_steps"] = self._skipped
            elif column.startswith("grad_norm"):
                summary[f"optim/{column}"] = float(np.median(seen)) if seen.size else float("nan")
            elif column.startswith(self.reports):
                summary[f"optim/{column}"] = float(seen.mean()) if seen.size else float("nan")
        return summary

    def _write(self, epoch: int, rows: Any) -> None:
        """Write what the epoch brought; the first time, forget what a resumed or repeated run is about to redo."""
        first, self._begun = not self._begun, True
        layer_rows, self._layer_rows = self._layer_rows, []
        steps, layers, entropy = (self.folder / n for n in (STEPS_FILE, LAYERS_FILE, ENTROPY_FILE))
        if first:
            self._steps = forget_steps(steps, epoch)
            for file in (layers, entropy):
                forget_values(file, epoch)
        if len(rows):
            self._steps = append_steps(steps, epoch, rows, self._steps)
        if layer_rows:
            sums: dict[str, list[float]] = {}
            for names, betas in layer_rows:
                for name, beta in zip(names, betas.tolist(), strict=True):
                    sums.setdefault(name, []).append(beta)
            append_values(layers, "beta_t", epoch, {name: sum(v) / len(v) for name, v in sums.items()})
        if self._watched:
            values = torch.stack([singular_value_entropy(p) for p in self._watched.values()]).tolist()
            append_values(entropy, "entropy", epoch, dict(zip(self._watched, values, strict=True)))

    def findings(self) -> list[str]:
        """What the record says, and where it can be seen; nothing without a recorded step."""
        from yolo_musgd.train.optimizer_plots import PICTURE, findings

        steps = read_steps(self.folder / STEPS_FILE)
        if not steps:
            return []
        said = f"{self.name}: {'; '.join(findings(steps))}"
        return [said, f"results: {self.folder}, with {PICTURE} and the optim/ columns of results.csv"]

    def plot(self) -> list[Path]:
        """Draw optimizer.png, and optimizer_layers.png if layers were recorded; returns what was drawn."""
        from yolo_musgd.train.optimizer_plots import plot_entropy, plot_layers, plot_steps

        with plot_style():
            pictures = [plot_steps(self.folder, self.name)]
            if self.layers and (self.folder / LAYERS_FILE).exists():
                pictures.append(plot_layers(self.folder))
            if self._watched and (self.folder / ENTROPY_FILE).exists():
                pictures.append(plot_entropy(self.folder))
        return [p for p in pictures if p is not None]


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by their names in the model that trains, without wrappers and a distillation's teacher."""
    named = unwrap(model).named_parameters()
    return {n.removeprefix("student_model."): p for n, p in named if not n.startswith("teacher_model.")}


def _matrices(named: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Matrices and filters below the modules ``names`` (model.1 is not model.10), or of these very names."""
    if not names:
        return {}
    known = {n: p for n, p in named.items() if p.ndim >= 2}
    if "all" in names:
        return known
    found = {n: p for n, p in known.items() if any(n == x or n.startswith(f"{x}.") for x in names)}
    if not found:
        guess = nearest(names[0], known) or next(iter(known), "none")
        raise SettingsError(
            f"telemetry_entropy={','.join(names)} names no matrix of the model; {guess} is one, or take all"
        )
    return found
