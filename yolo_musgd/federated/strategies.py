"""Flower's strategies, with what they lack: bad replies are left out and named, statistics are always averaged.

:class:`FedMuon` is ours; :class:`FedAvgM` is Flower's idea of it with a state that a resume takes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.arrays import Arrays, flaw, under, with_prefix
from yolo_musgd.federated.client import record
from yolo_musgd.federated.compression import Compression
from yolo_musgd.optim.orthogonalize import orthogonalize

Flaws = dict[str, str]
FIGURES = ("num-examples", "train/loss", "seconds")
"""What a reply tells beside the arrays; the first is its weight."""


class Receiver:
    """Unpacks and checks the replies of a round.

    Args:
        compression: as the clients send.
        name_of: a node's name, for messages.
        node_of: the node that a reply is for; Flower's server answers for one that is gone, in its own name.
    """

    def __init__(
        self,
        compression: Compression,
        name_of: Callable[[int], str],
        node_of: Callable[[Message], int] = lambda reply: int(reply.metadata.src_node_id),
    ):
        self._compression, self._name_of, self._node_of = compression, name_of, node_of
        self.left_out: Flaws = {}
        self.answered: list[int] = []
        self.bytes = 0

    def expect(self, start: Arrays) -> None:
        """A new round, in which the clients began from these arrays."""
        self._start = start
        self.left_out, self.answered, self.bytes = {}, [], 0

    def accept(self, replies: Iterable[Message]) -> list[Message]:
        """The replies that can be averaged, unpacked; why the others cannot is in ``left_out``."""
        good = []
        for reply in replies:
            node = self._node_of(reply)
            reason = reply.error.reason if reply.has_error() else self._unpack(reply)
            if reason:
                self.left_out[self._name_of(node)] = " ".join(reason.split())[:300]
            else:
                self.answered.append(node)
                good.append(reply)
        return good

    def _unpack(self, reply: Message) -> str:
        """Put the arrays themselves into a reply; returns what is wrong with it."""
        try:
            content = reply.content
            arrays = {name: array.numpy() for name, array in content["arrays"].items()}
            figures = {name: float(content["metrics"][name]) for name in FIGURES}
            if not 1 <= figures["num-examples"] < 2**40:
                return f"num-examples is {figures['num-examples']:g}"
            size = sum(len(array.data) for array in content["arrays"].values())
            arrays = self._compression.decode(arrays, self._start)
            if self._compression.kind != "none":
                arrays = {name: value + arrays[name] for name, value in self._start.items()}
            if wrong := flaw(arrays, self._start):
                return wrong
        except UserError as error:
            return str(error)
        except (KeyError, TypeError, ValueError, EOFError) as error:
            return f"not an answer to this question: {type(error).__name__}: {error}"
        reply.content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(figures)})
        self.bytes += size
        return ""


class CheckedMixin:
    """Over a strategy of Flower: only checked replies reach it, and what is no parameter is averaged plainly.

    An Adam or Muon step on BatchNorm's running variance would make no sense, and may make it negative.
    """

    receiver: Receiver
    parameters: frozenset[str]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the replies that can be."""
        good = self.receiver.accept(replies)
        arrays, metrics = super().aggregate_train(server_round, good)  # type: ignore[misc]
        if arrays is not None and isinstance(self, (FedOpt, FedAvgM)):
            mean = aggregate_arrayrecords([reply.content for reply in good], "num-examples")
            for name in mean.keys() - self.parameters:
                arrays[name] = mean[name]
        return arrays, metrics

    def state(self) -> Arrays:
        """What the strategy carries from round to round, for a resume."""
        kept = {key: getattr(self, key, None) or {} for key in ("m_t", "v_t")}
        return {name: a for key, arrays in kept.items() for name, a in with_prefix(key, arrays).items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` returned."""
        for key in ("m_t", "v_t"):
            setattr(self, key, under(key, arrays) or None)


class FedAvgM(FedAvg):  # type: ignore[misc]
    """FedAvg with a step length and a momentum of its own (Hsu et al. 2019, arXiv 1909.06335), resumable.

    With d = mean - w and m = momentum m + d, weights move by ``server_lr m``.

    Args:
        server_lr: 1 is FedAvg's step length.
        momentum: of the differences.
        fedavg: Flower's own arguments.
    """

    def __init__(self, server_lr: float = 1.0, momentum: float = 0.0, **fedavg: Any):
        super().__init__(**fedavg)
        self.server_lr, self.momentum = server_lr, momentum
        self.m_t: Arrays | None = None
        self._current: Arrays = {}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Message]:
        """Note where the round begins."""
        self._current = {name: array.numpy() for name, array in arrays.items()}
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, then go as far as the strategy says."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return mean, metrics
        moved, momenta = {}, {}
        for name, where in self._current.items():
            difference = mean[name].numpy() - where
            momenta[name] = self.momentum * (self.m_t or {}).get(name, 0.0) + difference
            moved[name] = where + np.float32(self.server_lr) * self.step(momenta[name], difference)
        self.m_t = momenta
        return record(moved), metrics

    def step(self, momentum: np.ndarray, difference: np.ndarray) -> np.ndarray:
        """The step at a length of 1."""
        return momentum


class FedMuon(FedAvgM):
    """FedAvg whose averaged difference is orthogonalised, a matrix at a time, at its own length.

    A filter bank moves by ``server_lr |d| U V^T / |U V^T|`` where m = U S V^T: the direction in which all clients
    together went, with its singular values made equal, and the step as long as FedAvg's (Frobenius norm). Vectors are
    moved as `FedAvgM` without momentum moves them.
    """

    def step(self, momentum: np.ndarray, difference: np.ndarray) -> np.ndarray:
        """The momentum, turned; a vector's difference as it is."""
        return difference if difference.ndim < 2 else turned(momentum, float(np.linalg.norm(difference)))


def turned(momentum: np.ndarray, length: float) -> np.ndarray:
    """The orthogonal direction of a filter bank's momentum, of a given Frobenius norm.

    Args:
        momentum: (out, in, height, width) or (out, in); its filters are the rows of the matrix.
        length: of the result.
    """
    matrix = torch.from_numpy(np.ascontiguousarray(momentum.reshape(len(momentum), -1)))
    direction = orthogonalize(matrix, "polar-express", 8).numpy()
    norm = float(np.linalg.norm(direction))
    return (direction * (length / norm if norm else 0.0)).reshape(momentum.shape).astype(np.float32)


_BASES: dict[str, type[Strategy]] = {"fedavg": FedAvg, "fedprox": FedProx, "fedadam": FedAdam, "fedmuon": FedMuon}


def build(name: str, receiver: Receiver, parameters: Iterable[str], **settings: Any) -> Any:
    """The strategy of a federation: all clients that are there take part in every round.

    Args:
        name: of `STRATEGIES`.
        receiver: checks the replies.
        parameters: names of the tensors that are trained, in contrast to statistics.
        settings: server_lr, momentum, proximal_mu; the strategy takes what it knows.
    """
    of_all = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    lr = settings.get("server_lr")
    step = {"server_lr": 1.0 if lr is None else lr, "momentum": settings.get("momentum", 0.0)}
    own: dict[str, Any] = {
        "fedprox": {"proximal_mu": settings.get("proximal_mu", 0.0)},
        "fedadam": {"eta": 0.001 if lr is None else lr},
        "fedmuon": step,
    }.get(name, {})
    base = _BASES[name]
    if name == "fedavg" and step != {"server_lr": 1.0, "momentum": 0.0}:
        base, own = FedAvgM, step  # with these it would be FedAvg but for the rounding
    strategy: Any = type(f"Checked{base.__name__}", (CheckedMixin, base), {})(**of_all, **own)
    strategy.receiver, strategy.parameters = receiver, frozenset(parameters)
    return strategy
