"""In which order channels go, and how far along that order a target is met.

A schedule is a list of removals, each of which narrows one unit to its next width. The first n of them are a choice of
widths, and more of them cost less: every target is a search for n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_musgd.prune.channel_graph import PruneGraph


@dataclass(frozen=True)
class Removal:
    """Unit number ``unit`` goes down to ``width`` channels; ``order`` is when, ``loss`` the importance that goes."""

    unit: int
    width: int
    order: tuple[float, float]
    loss: float


def schedule(graph: PruneGraph, scores: Sequence[Tensor], allocation: str = "uniform") -> list[Removal]:
    """Every possible removal, in order.

    Args:
        graph: units and their widths.
        scores: importance of every group's channels.
        allocation: ``uniform`` cuts every unit by the same share, rounded to the nearest width; ``global`` takes next
            what costs the least importance for the FLOPs that it saves, wherever that is.
    """
    whole = [unit.channels for unit in graph.units]
    base = graph.cost().flops
    removals = []
    for number, unit in enumerate(graph.units):
        sums = [torch.cat([torch.zeros(1), scores[i].sort().values.double().cumsum(0)]) for i in unit.groups]
        size = sum(float(s[-1]) for s in sums)
        price = 0.0
        for width, narrower in zip(unit.levels, unit.levels[1:], strict=False):
            loss = sum(float(s[unit.channels - narrower] - s[unit.channels - width]) for s in sums)
            share = 1 - (width + narrower) / 2 / unit.channels
            if allocation == "uniform":
                order = (share, loss / size if size else 0.0)
            else:
                saved = (
                    base - graph.cost([*whole[:number], unit.channels - width + narrower, *whole[number + 1 :]]).flops
                )
                price = max(price, loss / max(saved, base * 1e-6))  # a unit's widths go in their order
                order = (price, share)
            removals.append(Removal(number, narrower, order, loss))
    return sorted(removals, key=lambda r: (r.order, -r.width))


def widths(graph: PruneGraph, removals: Sequence[Removal]) -> list[int]:
    """Channels kept in every unit after these removals."""
    kept = [unit.channels for unit in graph.units]
    for removal in removals:
        kept[removal.unit] = min(kept[removal.unit], removal.width)
    return kept


def meet(
    graph: PruneGraph, removals: Sequence[Removal], measure: Callable[[list[int]], float], target: float
) -> list[int]:
    """Widths whose ``measure`` comes closest to ``target``: the schedule, and smaller steps where one oversteps.

    Args:
        graph: units and their widths.
        removals: the schedule.
        measure: a cost of widths that falls with every removal and is quick to compute.
        target: the cost wanted.
    """
    low, high = 0, len(removals)  # the first `low` are too few, or exactly enough
    while low < high:
        middle = (low + high + 1) // 2
        if measure(widths(graph, removals[:middle])) >= target:
            low = middle
        else:
            high = middle - 1
    kept = widths(graph, removals[:low])
    best, distance = kept, abs(measure(kept) - target)
    for removal in removals[low:]:
        unit = graph.units[removal.unit]
        if unit.levels[unit.levels.index(removal.width) - 1] != kept[removal.unit]:
            continue  # its wider step was left out
        trial = list(kept)
        trial[removal.unit] = removal.width
        cost = measure(trial)
        if abs(cost - target) < distance:
            best, distance = trial, abs(cost - target)
        if cost >= target:
            kept = trial
        if distance <= 0.002 * target:
            break
    return best
