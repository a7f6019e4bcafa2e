"""The latency search with the clock replaced: what a model takes is a known function of its FLOPs."""

import pytest
import torch

from yolo_musgd.prune import search
from yolo_musgd.prune.graph import PruneGraph
from yolo_musgd.prune.schedule import schedule
from yolo_musgd.settings import UserError


@pytest.fixture
def clock(monkeypatch):
    """Replace export and timing; returns the list of models that were timed."""
    timed = []

    class Exported:
        def __init__(self, model, runtime, imgsz, data):
            self.runtime = PruneGraph(model, imgsz, round_to=1).cost().flops
            timed.append(self)

        def close(self):
            self.closed = True

    def race(runtimes, **_):  # a fifth of the time does not depend on the FLOPs
        return {name: 20 + 80 * flops / runtimes["base"] for name, flops in runtimes.items()}

    monkeypatch.setattr(search, "Exported", Exported)
    monkeypatch.setattr(search, "race", race)
    return timed


def find(model, share, log, **options):
    graph = PruneGraph(model, 64, **options)
    scores = [torch.rand(g.channels, generator=torch.Generator().manual_seed(1)) for g in graph.groups]
    kept = search.by_latency(
        model, lambda: PruneGraph(model, 64, **options), scores, schedule(graph, scores), "onnx-fp32", 64, "data.yaml",
        share, 0.05, log.append,
    )  # fmt: skip
    return graph.cost(kept).flops / graph.cost().flops


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_the_search_meets_the_target_in_few_measurements(built, clock, share):
    log = []
    flops = find(built("yolo26n.yaml"), share, log)
    assert 0.2 + 0.8 * flops == pytest.approx(share, rel=0.05)
    assert len(log) <= 6
    assert "of the FLOPs take" in log[-1]
    assert all(x.closed for x in clock)


def test_a_latency_that_cannot_be_met_names_the_nearest(built, clock):
    with pytest.raises(UserError, match=r"latency=0\.1 on onnx-fp32 cannot be met .* nearest measured is 0\.\d+"):
        find(built("yolo26n.yaml"), 0.1, [])
    assert all(x.closed for x in clock)
