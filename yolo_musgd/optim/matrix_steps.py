"""Muon's part of a hybrid optimizer: which parameters it takes, their state, the plan and the step."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from yolo_musgd.optim.muon_settings import MuonSettings
from yolo_musgd.optim.muon_update import (
    Chunk,
    advance_momentum,
    gather,
    normalize_rows,
    orthogonal_updates,
    plan_chunks,
    update_scale,
)
from yolo_musgd.optim.param_groups import is_matrix

# Ultralytics halves every fp32 tensor of a checkpoint except under a few names. A momentum of small gradients does not
# survive that, so it takes the exempt name that says what it is; so does NorMuon's mean square.
MOMENTUM, ROWS, SGD_MOMENTUM = "exp_avg", "exp_avg_sq", "momentum_buffer"


class MatrixSteps:
    """Muon's part of a hybrid optimizer: which parameters, their state, plan and step.

    Args:
        settings: see :class:`~yolo_musgd.optim.muon_settings.MuonSettings`.
        exclude: parameters for the standard optimizer although they are matrices.
    """

    def __init__(self, settings: MuonSettings, exclude: Collection[Tensor]):
        self.settings = settings
        self.exclude = {id(p): p for p in exclude}
        self.update_rms: list[Tensor] = []
        self._takes: dict[int, bool] = {}
        self._plans: dict[tuple[int, ...], list[Chunk]] = {}
        self._generators: dict[torch.device, torch.Generator] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "excluded": list(self.exclude.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MatrixSteps.__init__(self, state["settings"], state["excluded"])

    def takes(self, p: Tensor) -> bool:
        """Whether Muon updates this parameter."""
        known = self._takes.get(id(p))
        if known is None:
            known = self._takes[id(p)] = is_matrix(p) and id(p) not in self.exclude
        return known

    def buffers(self, p: Tensor, state: dict[str, Any]) -> Tensor:
        """The momentum of a matrix; made, with the other state that the settings ask for, on first use."""
        s = self.settings
        momentum = state.get(MOMENTUM)
        if momentum is None:
            dtype = torch.bfloat16 if s.muon_state == "bfloat16" else p.dtype
            momentum = state[MOMENTUM] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if s.muon_rows and ROWS not in state:
            state[ROWS] = torch.zeros(p.shape[0], dtype=torch.float32, device=p.device)
        if s.muon_share < 1 and SGD_MOMENTUM not in state:
            state[SGD_MOMENTUM] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return cast(Tensor, momentum)

    def restore(self, state: dict[Tensor, dict[str, Any]]) -> None:
        """Undo what loading a checkpoint does to bf16 state: torch casts it to the parameter's type."""
        self._plans.clear()
        if self.settings.muon_state == "bfloat16":
            for p, entries in state.items():
                if self.takes(p) and MOMENTUM in entries:
                    entries[MOMENTUM] = entries[MOMENTUM].to(torch.bfloat16)

    def step(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
        finite: Tensor | None,
    ) -> None:
        """Update the matrices of one param group.

        Args:
            group: the param group; its ``muon_step`` counts the steps.
            params: matrices and filters, changed in place.
            grads: their gradients, only read.
            states: their optimizer states.
            finite: None on a CPU; elsewhere a 0-d tensor, 0 to leave everything as it is.
        """
        count = group["muon_step"] = int(group.get("muon_step", 0)) + 1
        mu = self.settings.muon_momentum or float(group["momentum"])
        ranks = dist.get_world_size() if self.settings.muon_shard and _distributed() else 1
        waiting: list[tuple[Chunk, Tensor | None, Tensor | None]] = []
        for chunk in self._chunks(params, ranks):
            g = [grads[i] for i in chunk.index]
            buffers = [self.buffers(params[i], states[i]) for i in chunk.index]
            if finite is not None:
                g = [torch.where(finite > 0, a, b.to(a.dtype)) for a, b in zip(g, buffers, strict=True)]
            momenta = advance_momentum(g, buffers, mu, self._generator(g[0].device))
            if count % self.settings.muon_every != chunk.turn:
                continue
            result = scale = None
            if ranks == 1 or chunk.owner == dist.get_rank():
                batch = gather(chunk, g, momenta, mu, self.settings.muon_nesterov)
                result, scale = orthogonal_updates(batch, chunk, self.settings)
            if ranks == 1:
                self._apply(chunk, cast(Tensor, result), cast(Tensor, scale), group, params, states, finite)
            else:
                waiting.append((chunk, result, scale))
        for chunk, result, scale in waiting:
            result, scale = _broadcast(chunk, result, scale, params[chunk.index[0]].device)
            self._apply(chunk, result, scale, group, params, states, finite)

    def _apply(
        self,
        chunk: Chunk,
        result: Tensor,
        scale: Tensor,
        group: dict[str, Any],
        params: list[Tensor],
        states: list[dict[str, Any]],
        finite: Tensor | None,
    ) -> None:
        """Step the parameters of a chunk along ``result * scale``."""
        s = self.settings
        lr = float(group["lr"]) * s.muon_lr * s.muon_every
        targets = [params[i] for i in chunk.index]
        if s.muon_rows:
            means = torch.stack([states[i][ROWS] for i in chunk.index])
            number = (int(group["muon_step"]) - chunk.turn) // s.muon_every + (chunk.turn > 0)
            result = normalize_rows(result.float() * scale[:, None, None], means, s.muon_rows, max(1, number))
            scale = torch.ones_like(scale)
            if finite is not None:
                means = torch.where(finite > 0, means, torch.stack([states[i][ROWS] for i in chunk.index]))
            torch._foreach_copy_([states[i][ROWS] for i in chunk.index], list(means.unbind(0)))
        factor = lr * s.muon_share * update_scale(chunk.shape, s.muon_scale)
        rms = torch.linalg.vector_norm(result.flatten(1), dim=1, dtype=torch.float32)
        self.update_rms.append(rms.mul_(scale).mul_(factor / result[0].numel() ** 0.5))
        decay = lr * s.muon_decay * group["weight_decay"]
        if finite is not None:
            scale = scale * finite
            if decay:
                torch._foreach_mul_(targets, (1 - decay * finite).to(targets[0].dtype))
            moves = (result.float() * scale[:, None, None]).to(targets[0].dtype)
            torch._foreach_add_(targets, list(chunk.slots(moves)), alpha=-factor)
            return
        if decay:
            torch._foreach_mul_(targets, 1 - decay)
        for p, move, own in zip(targets, chunk.slots(result), scale.tolist(), strict=True):
            p.add_(move, alpha=-factor * own)

    def _chunks(self, params: list[Tensor], ranks: int) -> list[Chunk]:
        key = (ranks, *map(id, params))
        if key not in self._plans:
            self._plans[key] = plan_chunks(params, self.settings, ranks)
        return self._plans[key]

    def _generator(self, device: torch.device) -> torch.Generator | None:
        """Random bits of the rounding: a stream of its own, so that it does not disturb the data loader's."""
        if self.settings.muon_state != "bfloat16":
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _broadcast(
    chunk: Chunk, result: Tensor | None, scale: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Send a chunk's result from its owner to every process."""
    if result is None or scale is None:
        result = torch.empty(len(chunk.index), *chunk.matrix, dtype=chunk.kernel.dtype, device=device)
        scale = torch.empty(len(chunk.index), dtype=torch.float32, device=device)
    dist.broadcast(result, chunk.owner)
    dist.broadcast(scale, chunk.owner)
    return result, scale
