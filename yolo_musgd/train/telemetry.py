"""What the optimizer does, on record: gradient norms and beta_t of every step.

The optimizer reports (``report()``), the monitor reads. Values stay on the device until the epoch ends; one transfer
then brings them all. Per step they go to ``optimizer_steps.csv.gz``, per epoch into results.csv and every logger.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yolo_musgd.optim.orthogonalize import singular_value_entropy
from yolo_musgd.settings import SettingsError, nearest

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
_QUANTILES = (0.1, 0.9)


def grad_norm(optimizer: Optimizer) -> Tensor:
    """L2 norm over all gradients, 0-d on their device; 0 where there are none."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms: tuple[Tensor, ...] = torch._foreach_norm(grads)
    total: Tensor = torch.linalg.vector_norm(torch.stack([n.float().to(norms[0].device) for n in norms]))
    return total


class Monitor:
    """Records one run of one optimizer.

    Args:
        folder: the run folder.
        model: the model being trained, for the names of its parameters.
        optimizer: any torch optimizer; one with ``report()`` is asked for beta_t and skipped steps.
        layers: also keep the mean beta_t of every parameter tensor.
        entropy: also keep, once an epoch, the singular-value entropy (S4) of the matrices and filters whose names begin
            with one of these; ``all`` takes every one.

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
    ):
        self.folder = folder
        self.optimizer = optimizer
        self.layers = layers
        self._names = {id(p): n.removeprefix("module.") for n, p in model.named_parameters()}
        self._watched = _matrices(model, entropy)
        self._rows: list[Tensor] = []
        self._layer_rows: list[tuple[list[str], Tensor]] = []
        self._clipped: Tensor | None = None
        self._steps: int | None = None
        optimizer.register_step_pre_hook(self._before_step)

    @contextmanager
    def step(self, scaler: Any) -> Iterator[None]:
        """Around one clip-and-step of the trainer, whose GradScaler still scales the gradients at the start."""
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        raw, self._clipped = grad_norm(self.optimizer) / scale, None
        yield
        report: dict[str, Tensor] = getattr(self.optimizer, "report", dict)()
        nan = raw.new_full((), float("nan"))
        stepped = self._clipped is not None  # a GradScaler that found inf does not call step() at all
        clipped = self._clipped.to(raw) if self._clipped is not None else nan
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
        if not self._rows:
            return {}
        rows = torch.stack(self._rows).cpu().numpy()
        self._rows.clear()
        self._append(epoch, rows)
        if self._layer_rows:
            self._append_layers(epoch)
        if self._watched:
            self._append_entropy(epoch)
        reports = getattr(self.optimizer, "reports", ())
        summary: dict[str, float] = {}
        for column, values in zip(COLUMNS, rows.T, strict=True):
            seen = values[np.isfinite(values)]
            if column == "skipped_steps":
                summary["optim/skipped_steps"] = float(values[-1])
            elif column.startswith("grad_norm"):
                summary[f"optim/{column}"] = round(float(np.median(seen)), 6) if seen.size else float("nan")
            elif column.startswith(tuple(reports)):
                summary[f"optim/{column}"] = round(float(seen.mean()), 6) if seen.size else float("nan")
        return summary

    def _append(self, epoch: int, rows: Any) -> None:
        """Append to the step file as a gzip member of its own: an interrupted run leaves a readable file."""
        file = self.folder / STEPS_FILE
        if self._steps is None:
            self._steps = _forget_from(file, epoch)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not file.exists():
            writer.writerow(("epoch", "step", *COLUMNS))
        for row in rows:
            self._steps += 1
            writer.writerow((epoch, self._steps, *(f"{v:.6g}" for v in row)))
        with file.open("ab") as out:
            out.write(gzip.compress(text.getvalue().encode(), mtime=0))

    def _append_layers(self, epoch: int) -> None:
        sums: dict[str, list[float]] = {}
        for names, betas in self._layer_rows:
            for name, beta in zip(names, betas.tolist(), strict=True):
                sums.setdefault(name, []).append(beta)
        self._layer_rows.clear()
        self._append_values(LAYERS_FILE, "beta_t", epoch, {name: sum(v) / len(v) for name, v in sums.items()})

    def _append_entropy(self, epoch: int) -> None:
        values = [singular_value_entropy(p) for p in self._watched.values()]
        entropy = torch.stack(values).tolist()
        self._append_values(ENTROPY_FILE, "entropy", epoch, dict(zip(self._watched, entropy, strict=True)))

    def _append_values(self, name: str, column: str, epoch: int, values: Mapping[str, float]) -> None:
        file = self.folder / name
        header = "" if file.exists() else f"epoch,layer,{column}\n"
        with file.open("a", encoding="utf-8") as out:
            out.write(header + "".join(f"{epoch},{layer},{value:.6g}\n" for layer, value in values.items()))

    def plot(self) -> list[Path]:
        """Draw optimizer.png, and optimizer_layers.png if layers were recorded; returns what was drawn."""
        from yolo_musgd.train.plots import plot_entropy, plot_layers, plot_steps

        pictures = [plot_steps(self.folder, type(self.optimizer).__name__)]
        if self.layers and (self.folder / LAYERS_FILE).exists():
            pictures.append(plot_layers(self.folder))
        if self._watched and (self.folder / ENTROPY_FILE).exists():
            pictures.append(plot_entropy(self.folder))
        return [p for p in pictures if p is not None]


def _matrices(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Matrices and filters below the modules ``names`` (model.1 is not model.10), or of these very names."""
    if not names:
        return {}
    known: dict[str, Tensor] = {n.removeprefix("module."): p for n, p in model.named_parameters() if p.ndim >= 2}
    if "all" in names:
        return known
    found = {n: p for n, p in known.items() if any(n == x or n.startswith(f"{x}.") for x in names)}
    if not found:
        guess = nearest(names[0], known) or next(iter(known), "none")
        raise SettingsError(
            f"telemetry_entropy={','.join(names)} names no matrix of the model; {guess} is one, or take all"
        )
    return found


def read_steps(file: Path) -> dict[str, Any]:
    """Columns of a step file as arrays of equal length; empty without a file or a row in it."""
    if not file.exists():
        return {}
    with gzip.open(file, "rt", encoding="utf-8") as text:
        header, *rows = list(csv.reader(text)) or [[]]
    if not rows:
        return {}
    values = np.array([[float(x) for x in row] for row in rows])
    return dict(zip(header, values.T, strict=True))


def _forget_from(file: Path, epoch: int) -> int:
    """Drop the rows from this epoch on, which a resumed run is about to repeat; returns the last step that stays."""
    if not file.exists():
        return 0
    with gzip.open(file, "rt", encoding="utf-8") as text:
        header, *rows = text.read().splitlines() or [""]
    kept = [row for row in rows if int(row.split(",")[0]) < epoch]
    if len(kept) < len(rows):
        part = file.with_suffix(".part")
        part.write_bytes(gzip.compress("".join(f"{row}\n" for row in [header, *kept]).encode(), mtime=0))
        part.replace(file)
    return int(kept[-1].split(",")[1]) if kept else 0
