"""The tensors that a step is about, group by group, checked wherever one is not the last step's.

A step may cost 300 Python calls less than a network has parameters, or it is slower than its kernels: what is compared
in every step is compared by loops in C.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_musgd.optim.checks import Wanted, check_gradient, check_memory, check_parameter, check_state, label

Group = dict[str, Any]
State = dict[str, Any]
_kind = attrgetter("shape", "dtype", "device")
_form = attrgetter("shape", "layout")
_grad = attrgetter("grad")
_shape = attrgetter("shape")
_memory = Tensor.data_ptr


class Batch(NamedTuple):
    """One param group's tensors that have a gradient: first those of the standard rule, then Muon's.

    Attributes:
        group: the param group.
        number: its place among the groups.
        params: parameters.
        grads: their gradients.
        places: their places in the group.
        cut: how many of them the standard rule updates.
        states: optimizer state of each; empty until the step is known to be taken.
    """

    group: Group
    number: int
    params: list[Tensor]
    grads: list[Tensor]
    places: list[int]
    cut: int
    states: list[State]


@dataclass
class _Split:
    """Who updates what of a param group, and what has been checked; valid while all of it stays the same objects.

    Attributes:
        orthogonalize: the group's setting.
        params: the group's parameters, in its order.
        order: the same, first those of the standard rule, then Muon's.
        places: their places in the group.
        cut: how many of them the standard rule updates.
        plain: whether all tensors are of torch's own classes, whose memory may be asked for.
        kinds: shape, type and device of those that had a gradient.
        forms: shape and layout that their gradients must have.
        held: what their states hold.
        tensors: the tensors among that; numbers change with every step.
        shapes: theirs, which may change in place.
    """

    orthogonalize: bool
    params: list[Tensor]
    order: list[Tensor]
    places: list[int]
    cut: int
    plain: bool = False
    kinds: list[Any] | None = None
    forms: list[Any] = field(default_factory=list)
    held: list[Any] | None = None
    tensors: list[Tensor] = field(default_factory=list)
    shapes: list[torch.Size] | None = None


def same(some: Sequence[Any] | None, others: Sequence[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return some is not None and len(some) == len(others) and all(map(is_, some, others))


class Batches:
    """Makes the batches of an optimizer; what it found is kept from step to step, by identity.

    Args:
        optimizer: its name, for errors.
        takes: whether Muon updates a parameter of a group.
        wanted: (parameter, group, whether it is Muon's) -> shape and type of every state tensor that is read.
    """

    def __init__(
        self,
        optimizer: str,
        takes: Callable[[Tensor, Group], bool],
        wanted: Callable[[Tensor, Group, bool], dict[str, Wanted]],
    ):
        self.optimizer = optimizer
        self.takes = takes
        self.wanted = wanted
        self._splits: dict[int, _Split] = {}

    def collect(self, number: int, group: Group) -> tuple[Batch, bool]:
        """The tensors of a group that have a gradient, and whether they are the last step's.

        Raises:
            TensorError: a complex parameter, a gradient that is sparse or does not fit, or memory that was freed.
        """
        split = self._split(number, group)
        batch = self._of(split, number, group)
        kinds = list(map(_kind, batch.params))
        if kinds == split.kinds and list(map(_form, batch.grads)) == split.forms:
            self._check_memory(batch, split)
            return batch, True
        split = self._split(number, group, anew=True)  # p.data may have been replaced, and be no matrix any more
        batch = self._of(split, number, group)
        for place, p, grad in zip(batch.places, batch.params, batch.grads, strict=True):
            check_gradient(self.optimizer, p, grad, partial(label, group, number, place))
        split.plain = set(map(type, chain(batch.params, batch.grads))) <= {Tensor, nn.Parameter}
        self._check_memory(batch, split)
        split.kinds = list(map(_kind, batch.params))
        split.forms = [(p.shape, torch.strided) for p in batch.params]
        return batch, False

    @staticmethod
    def _check_memory(batch: Batch, split: _Split) -> None:
        if split.plain and not all(map(_memory, chain(batch.params, batch.grads))):  # as of tensors without elements
            for place, p, grad in zip(batch.places, batch.params, batch.grads, strict=True):
                what = partial(label, batch.group, batch.number, place)
                check_memory(p, "data", what)
                check_memory(grad, "gradient", what)

    def with_states(self, batch: Batch, state: MutableMapping[Tensor, State]) -> Batch:
        """The batch with the states of its parameters.

        Raises:
            TensorError: a tensor of a state that does not fit its parameter.
        """
        split = self._splits[batch.number]
        states = [state[p] for p in batch.params]
        held = list(chain.from_iterable(map(dict.values, states)))
        tensors = split.tensors
        if not same(split.held, held):
            tensors = [t for t in held if isinstance(t, Tensor)]
        shapes = list(map(_shape, tensors))
        whole = not split.plain or all(map(_memory, tensors))
        if not whole or not same(split.tensors, tensors) or shapes != split.shapes:
            for i, (p, entry) in enumerate(zip(batch.params, states, strict=True)):
                for key, wanted in self.wanted(p, batch.group, i >= batch.cut).items():
                    if key in entry:
                        what = partial(label, batch.group, batch.number, batch.places[i])
                        check_state(p, key, entry[key], wanted, what)
                        check_memory(entry[key], key, what)
        split.held, split.tensors, split.shapes = held, tensors, shapes
        return batch._replace(states=states)

    def _split(self, number: int, group: Group, anew: bool = False) -> _Split:
        """Who updates what of a group; kept as long as it holds the same parameters."""
        params, known = group["params"], self._splits.get(number)
        if known and not anew and known.orthogonalize == group["orthogonalize"] and same(known.params, params):
            return known
        rest: list[int] = []
        matrices: list[int] = []
        for place, p in enumerate(params):
            check_parameter(self.optimizer, p, partial(label, group, number, place))
            (matrices if self.takes(p, group) else rest).append(place)
        places = rest + matrices
        known = _Split(group["orthogonalize"], list(params), [params[i] for i in places], places, len(rest))
        self._splits[number] = known
        return known

    @staticmethod
    def _of(split: _Split, number: int, group: Group) -> Batch:
        grads = list(map(_grad, split.order))
        live = [g is not None for g in grads]
        if all(live):
            return Batch(group, number, split.order, grads, split.places, split.cut, [])
        params, grads, places = (
            [x for x, k in zip(items, live, strict=True) if k] for items in (split.order, grads, split.places)
        )
        return Batch(group, number, params, grads, places, sum(live[: split.cut]), [])
