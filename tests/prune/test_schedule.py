"""How much each unit gives: narrowed in order, cheaper step by step, as close to the budget as can be."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.prune.channel_graph import Cost, Unit
from yolo_musgd.prune.schedule import meet, schedule, widths


class FakeGraph:
    """Units of plain channels that cost a fixed price each."""

    def __init__(self, sizes, prices, step=4):
        self.units = [
            Unit(f"u{i}", (i,), n, (n, *(w for w in range(n - 1, 0, -1) if w % step == 0))) for i, n in enumerate(sizes)
        ]
        self.prices = prices

    def cost(self, kept=None):
        kept = [u.channels for u in self.units] if kept is None else kept
        return Cost(sum(k * p for k, p in zip(kept, self.prices, strict=True)), 0)


GRAPHS = st.lists(st.tuples(st.integers(1, 96), st.floats(0.1, 10)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(GRAPHS, st.sampled_from(["uniform", "global"]), st.integers(0, 99))
def test_every_prefix_narrows_units_in_their_order_and_costs_less(units, allocation, seed):
    graph = FakeGraph(*zip(*units, strict=True))
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(u.channels, generator=generator) for u in graph.units]
    removals = schedule(graph, scores, allocation)
    assert len(removals) == sum(len(u.levels) - 1 for u in graph.units)
    for unit in range(len(graph.units)):
        chain = [r.width for r in removals if r.unit == unit]
        assert chain == list(graph.units[unit].levels[1:])
    costs = [graph.cost(widths(graph, removals[:n])).flops for n in range(len(removals) + 1)]
    assert all(b < a for a, b in itertools.pairwise(costs))


@settings(max_examples=60, deadline=None)
@given(GRAPHS, st.floats(0.1, 1), st.integers(0, 99))
def test_meet_is_at_least_as_close_as_the_best_prefix(units, share, seed):
    graph = FakeGraph(*zip(*units, strict=True))
    generator = torch.Generator().manual_seed(seed)
    removals = schedule(graph, [torch.rand(u.channels, generator=generator) for u in graph.units], "uniform")
    target = share * graph.cost().flops
    found = graph.cost(meet(graph, removals, lambda k: graph.cost(k).flops, target)).flops
    prefixes = [graph.cost(widths(graph, removals[:n])).flops for n in range(len(removals) + 1)]
    above = [c for c in prefixes if c >= target]
    assert abs(found - target) <= abs(min(above, default=prefixes[0]) - target) + 1e-9


def test_uniform_takes_the_same_share_everywhere():
    graph = FakeGraph([64, 64, 32, 128], [1, 5, 2, 0.5])
    removals = schedule(graph, [torch.rand(u.channels) for u in graph.units], "uniform")
    kept = meet(graph, removals, lambda k: graph.cost(k).flops, 0.5 * graph.cost().flops)
    assert [k / u.channels for k, u in zip(kept, graph.units, strict=True)] == pytest.approx([0.5] * 4, abs=0.07)


def test_global_takes_the_cheap_and_unimportant_first():
    graph = FakeGraph([16, 16], [1.0, 1.0])
    removals = schedule(graph, [torch.full((16,), 1.0), torch.full((16,), 0.01)], "global")
    assert [r.unit for r in removals[:3]] == [1, 1, 1]
    dear = FakeGraph([16, 16], [1.0, 1000.0])  # the same importance saves a thousand times as much in the second
    assert schedule(dear, [torch.ones(16), torch.ones(16)], "global")[0].unit == 1
