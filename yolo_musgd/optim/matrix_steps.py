"""Muon's part of a hybrid optimizer: which parameters it takes, their state, the plan and the step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import is_
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from yolo_musgd.optim.checks import Wanted, wide_dtype
from yolo_musgd.optim.device_steps import advance, orthogonalize_block, walk
from yolo_musgd.optim.muon_update import (
    Chunk,
    Part,
    advance_momentum,
    gather,
    normalize_rows,
    orthogonal_updates,
    plan_chunks,
    update_scale,
)
from yolo_musgd.optim.param_groups import is_matrix
from yolo_musgd.optim.settings import MuonSettings
from yolo_musgd.optim.stacks import blocks, plan_stacks

# The first two are names that recent releases of Ultralytics do not halve in checkpoints, and say what they are.
MOMENTUM, ROWS, SGD_MOMENTUM = "exp_avg", "exp_avg_sq", "momentum_buffer"


C = TypeVar("C", bound=Chunk)
_KEYS = tuple(name for name in MuonSettings.names() if name != "muon_rest")


def muon_settings(group: dict[str, Any]) -> MuonSettings:
    """Muon's settings of a param group."""
    return _settings(*(group[key] for key in _KEYS))


@lru_cache(maxsize=64)
def _settings(*values: Any) -> MuonSettings:
    return MuonSettings(**dict(zip(_KEYS, values, strict=True)))


@dataclass(frozen=True)
class Matrices:
    """The matrices of a param group at one step.

    Attributes:
        group: the param group.
        settings: Muon's, of the group.
        params: matrices and filters, changed in place.
        grads: their gradients, only read.
        states: their optimizer states.
        number: place of the group among the optimizer's, under which its plan is kept.
        ranks: processes that share the work.
    """

    group: dict[str, Any]
    settings: MuonSettings
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    number: int
    ranks: int

    @property
    def mu(self) -> float:
        """Momentum coefficient where no beta_t is given."""
        return self.settings.muon_momentum or float(self.group["momentum"])

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rate, and what a step takes off the matrices by decay."""
        lr = float(self.group["lr"]) * self.group["muon_lr"] * self.settings.muon_every
        return lr, lr * self.settings.muon_decay * self.group["weight_decay"]


class MatrixSteps:
    """Muon's part of a hybrid optimizer: which parameters, their state, plan and step.

    Args:
        exclude: parameters for the standard optimizer although they are matrices.
    """

    def __init__(self, exclude: Collection[Tensor]):
        self.exclude = set(exclude)
        self.update_rms: list[Tensor] = []
        self._plans: dict[int, Sequence[Chunk]] = {}
        self._planned: dict[int, tuple[Any, ...]] = {}  # what each plan was made for
        self._generators: dict[torch.device, torch.Generator] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"excluded": list(self.exclude)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MatrixSteps.__init__(self, state["excluded"])

    def takes(self, p: Tensor) -> bool:
        """Whether Muon updates this parameter where it is asked to."""
        return is_matrix(p) and p not in self.exclude

    def wanted(self, group: dict[str, Any], p: Tensor) -> dict[str, Wanted]:
        """Shape and type of every state tensor that the settings of the group ask for."""
        momentum = torch.bfloat16 if group["muon_state"] == "bfloat16" else wide_dtype(p.dtype)
        out = {MOMENTUM: (p.shape, momentum)}
        if group["muon_rows"]:
            out[ROWS] = (p.shape[:1], torch.float32)
        if group["muon_share"] < 1:
            out[SGD_MOMENTUM] = (p.shape, p.dtype)
        return out

    def buffers(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> Tensor:
        """The momentum of a matrix, in its shape; made on first use, with the other state that the settings ask for."""
        if (
            MOMENTUM not in state
            or (group["muon_rows"] and ROWS not in state)
            or (group["muon_share"] < 1 and SGD_MOMENTUM not in state)
        ):
            for key, (shape, dtype) in self.wanted(group, p).items():
                like = p if shape == p.shape else p.new_empty(shape)
                if key not in state:
                    state[key] = torch.zeros_like(like, dtype=dtype, memory_format=torch.preserve_format)
        return cast(Tensor, state[MOMENTUM])

    def forget(self, number: int | None = None) -> None:
        """Drop the plan of one param group or of all, since parameters or settings may have changed."""
        if number is None:
            self._planned.clear()
        else:
            self._planned.pop(number, None)

    def step(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
        finite: Tensor | None,
        betas: list[float] | Tensor | None = None,
        number: int = 0,
    ) -> None:
        """Update the matrices of one param group.

        Args:
            group: the param group with its ``lr`` and ``muon_lr``; its ``muon_step`` counts the steps.
            params: matrices and filters, changed in place.
            grads: their gradients, only read.
            states: their optimizer states.
            finite: None on a CPU; elsewhere a 0-d tensor, 0 to leave everything as it is.
            betas: beta_t of each matrix, numbers or a (n,) or 0-d tensor; the constant momentum if None.
            number: place of the group among the optimizer's, under which its plan is kept.
        """
        settings = muon_settings(group)
        group["muon_step"] = int(group.get("muon_step", 0)) + 1
        ranks = dist.get_world_size() if settings.muon_shard and _distributed() else 1
        given = Matrices(group, settings, params, grads, states, number, ranks)
        if finite is not None:
            shared = torch.as_tensor(betas).to(finite.device) if isinstance(betas, list) else betas
            self._step_ahead(given, shared, finite)
        else:
            self._step(given, list(betas.expand(len(params)).unbind()) if isinstance(betas, Tensor) else betas)

    def _step(self, given: Matrices, betas: list[Any] | None) -> None:
        """Chunk by chunk, while one is in the cache: for a CPU."""
        settings, mu, ranks = given.settings, given.mu, given.ranks
        waiting: list[tuple[Chunk, list[Tensor] | None]] = []
        for chunk in self._plan(given, plan_chunks):
            mine = ranks == 1 or chunk.owner == dist.get_rank()
            due = given.group["muon_step"] % settings.muon_every == chunk.turn
            batches = []
            for part in chunk.parts:
                g = [given.grads[i] for i in part.index]
                if g[0].dtype != (wide := wide_dtype(g[0].dtype)):
                    g = [x.to(wide) for x in g]
                buffers = self._momenta(given, part.index)
                past = None if betas is None else [betas[i] for i in part.index]
                momenta = advance_momentum(g, buffers, mu, past, self._generator(settings, g[0].device))
                if due and mine:
                    nesterov = settings.muon_nesterov
                    batches.append(gather(part, g, momenta, mu, nesterov, chunk.kernel.dtype, past))
            if not due:
                continue
            results = orthogonal_updates(batches, chunk.kernel, settings) if mine else None
            if ranks > 1:
                waiting.append((chunk, results))
            else:
                self._apply(given, chunk, cast("list[Tensor]", results))
        for chunk, results in waiting:
            self._apply(given, chunk, _broadcast(chunk, results, given.params))

    def _apply(self, given: Matrices, chunk: Chunk, results: list[Tensor]) -> None:
        """Step the parameters of a chunk along the orthogonalised updates."""
        lr, decay = given.rates
        for part, result in zip(chunk.parts, results, strict=True):
            targets = [given.params[i] for i in part.index]
            if given.settings.muon_rows:
                result = _even_rows(chunk, part, result, given)
            factor = lr * given.settings.muon_share * update_scale(part.shape, given.settings.muon_scale)
            rms = torch.linalg.vector_norm(result.flatten(1), dim=1, dtype=torch.float32)
            self.update_rms.append(rms.mul_(factor / result[0].numel() ** 0.5))
            if decay:
                torch._foreach_mul_(targets, 1 - decay)
            torch._foreach_add_(targets, list(part.slots(result)), alpha=-factor)

    def _step_ahead(self, given: Matrices, betas: Tensor | None, finite: Tensor) -> None:
        """In few launches and without a value that the host would wait for: for a device."""
        settings = given.settings
        even = partial(_even_rows, given=given, finite=finite) if settings.muon_rows else None
        for block in blocks(self._plan(given, plan_stacks)):
            index = [i for stack in block for i in stack.index]
            here, grads = ([x[i] for i in index] for x in (given.params, given.grads))
            momenta = self._momenta(given, index)
            own = betas
            if betas is not None and betas.ndim:
                own = betas.index_select(0, torch.tensor(index).to(betas.device, non_blocking=True))
            generator = self._generator(settings, finite.device)
            vector = advance(here, grads, momenta, own, settings, given.mu, finite, generator)
            due = orthogonalize_block(block, vector, settings, given.group["muon_step"], given.ranks, even)
            if due:
                self.update_rms.append(walk(here, vector, due, settings, *given.rates, finite))

    def _momenta(self, given: Matrices, index: Sequence[int]) -> list[Tensor]:
        return [self.buffers(given.group, given.params[i], given.states[i]) for i in index]

    def _plan(self, given: Matrices, make: Callable[[Sequence[Tensor], MuonSettings, int], list[C]]) -> list[C]:
        """The chunks or stacks of a param group; kept as long as it holds the same parameters."""
        number, params, wanted = given.number, given.params, [given.settings, given.ranks, make]
        known, *same = self._planned.get(number, ([], None))
        if same != wanted or len(known) != len(params) or not all(map(is_, known, params)):
            self._planned[number] = (params, *wanted)
            self._plans[number] = make(params, given.settings, given.ranks)
        return cast("list[C]", self._plans[number])

    def _generator(self, settings: MuonSettings, device: torch.device) -> torch.Generator | None:
        """Random bits of the rounding: a stream of its own, so that it does not disturb the data loader's."""
        if settings.muon_state != "bfloat16":
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def _even_rows(chunk: Chunk, part: Part, result: Tensor, given: Matrices, finite: Tensor | None = None) -> Tensor:
    """NorMuon's normalisation of a part's matrices; their running mean squares are changed in place."""
    means = [given.states[i][ROWS] for i in part.index]
    every, rows = given.settings.muon_every, given.settings.muon_rows
    number = (int(given.group["muon_step"]) - chunk.turn) // every + (chunk.turn > 0)
    stacked = torch.stack(means)
    result = normalize_rows(result, stacked, rows, number)
    if finite is not None:
        stacked = torch.where(finite > 0, stacked, torch.stack(means))
    torch._foreach_copy_(means, list(stacked.unbind(0)))
    return result


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _broadcast(chunk: Chunk, results: list[Tensor] | None, params: list[Tensor]) -> list[Tensor]:
    """Send a chunk's results from its owner to every process."""
    if results is None:
        device = params[chunk.index[0]].device
        results = [
            torch.empty(len(part.index), *part.matrix, dtype=chunk.kernel.dtype, device=device) for part in chunk.parts
        ]
    for result in results:
        dist.broadcast(result, chunk.owner)
    return results
