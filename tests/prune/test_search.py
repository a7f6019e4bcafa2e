"""The latency search with the clock replaced: what a model takes is a known function of its FLOPs."""

import pytest
import torch

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune import search
from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.schedule import schedule


def find(model, target, log):
    graph = PruneGraph(model, 64)
    whole = graph.cost().flops
    scores = [torch.rand(g.channels, generator=torch.Generator().manual_seed(1)) for g in graph.groups]

    def times(cut):  # a fifth of the time does not depend on the FLOPs
        return {"base": 100.0, "pruned": 20 + 80 * PruneGraph(cut, 64).cost().flops / whole}

    kept = search.by_latency(
        lambda: PruneGraph(model, 64), scores, schedule(graph, scores), times, target, 0.05, log.append
    )
    return graph.cost(kept).flops / whole


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5])
def test_the_search_meets_the_target_in_few_measurements(built, target):
    log = []
    flops = find(built("yolo26n.yaml"), target, log)
    assert 0.2 + 0.8 * flops == pytest.approx(target, rel=0.05)
    assert len(log) <= 6
    assert "of the FLOPs take" in log[-1]


def test_a_latency_that_cannot_be_met_names_the_nearest(built):
    with pytest.raises(UserError, match=r"latency=0\.1 cannot be met .* nearest measured is 0\.\d+"):
        find(built("yolo26n.yaml"), 0.1, [])
