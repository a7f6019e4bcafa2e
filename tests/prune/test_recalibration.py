"""BatchNorm is set anew only where val is better for it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from yolo_musgd.data.reader import Rules, check
from yolo_musgd.prune import run as runs
from yolo_musgd.prune.channel_graph import Cost
from yolo_musgd.prune.run import PruningPlan, Run
from yolo_musgd.prune.training_images import Images, recalibrate


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(("after", "taken"), [(0.5, True), (0.4, True), (0.3, False)])
def test_whichever_state_judges_better_is_kept(monkeypatch, tmp_path, split, after, taken):
    """The model without recalibration has .4 on val and .9 on test, which may not decide."""
    asked = []

    def judged(self, model, folder, split):
        asked.append(split)
        fresh = float(model.running_mean[0]) == 7.0
        return {"map50_95": {"val": after if fresh else 0.4, "test": 0.1 if fresh else 0.9}[split]}

    monkeypatch.setattr(Run, "_judged", judged)
    monkeypatch.setattr(runs, "recalibrate", lambda model, images: model.running_mean.fill_(7.0))
    model, cost = nn.BatchNorm2d(2), Cost(1, 1)
    plan = PruningPlan(model, cost, cost, [])
    run = object.__new__(Run)
    run.__dict__.update(split=split, augmented=(), settings=SimpleNamespace())
    run._recalibrate(plan, tmp_path, {"map50_95": 0.4 if split == "val" else 0.9})
    assert plan.recalibrated is taken
    assert (float(plan.model.running_mean[0]) == 7.0) is taken
    assert float(model.running_mean[0]) == 0.0, "the given one is not changed"
    assert asked == (["val"] if split == "val" else ["val", "val"])
    assert plan.log == ([] if taken else ["BatchNorm stays: 0.4000 on val as it is, 0.3000 recalibrated"])


@pytest.mark.parametrize("batch", [1, 7])
def test_no_batch_is_of_one_image(built, tiny_data, batch):
    """At 32 px the last map is a pixel, and the variance of one value does not exist."""
    images = Images(check(str(tiny_data)), Rules(), 32, 15, batch, augment=True)
    assert min(len(b["img"]) for b in images) > 1
    model = built("yolo26n.yaml")
    recalibrate(model, images)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
