"""Which channels matter: the measures against their formulas.

Covers training_images.py.
"""

import random

import pytest
import torch

from yolo_musgd.data.reader import NO_RULES, check
from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.importance import score
from yolo_musgd.prune.training_images import Images, check_classes, recalibrate


@pytest.fixture(scope="module")
def images(tiny_data):
    return Images(check(str(tiny_data)), NO_RULES, 64, 16, 8)


@pytest.fixture
def model(built):
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolo26n.yaml", nc=3, verbose=False).eval()
    model.task = "detect"  # as a loaded checkpoint has it
    return model


@pytest.mark.parametrize("kind", ["taylor", "magnitude", "bn"])
def test_a_dead_channel_matters_least(model, images, kind):
    """Channel 5 of model.3 is cut off from both sides, its BatchNorm is zero: every importance must see that."""
    conv, bn, reader = model.model[3].conv, model.model[3].bn, model.model[4].cv1.conv
    conv.weight.data[5] = 0
    bn.weight.data[5] = bn.bias.data[5] = 0
    reader.weight.data[:, 5] = 0
    graph = PruneGraph(model, 64)
    number = next(i for i, g in enumerate(graph.groups) if g.name == "model.3.conv")
    scores = score(graph, kind, images)
    assert [len(s) for s in scores] == [g.channels for g in graph.groups]
    assert scores[number].argmin() == 5
    assert scores[number][5] == 0
    assert scores[number].sort().values[1] > 0


def test_taylor_is_the_mean_over_layers_of_weight_times_gradient(model, images):
    """A naive loop over one group: the outputs of model.3.conv and the inputs of model.4.cv1."""
    from ultralytics.cfg import get_cfg

    graph = PruneGraph(model, 64)
    number = next(i for i, g in enumerate(graph.groups) if g.name == "model.3.conv")
    found = score(graph, "taylor", images)[number]
    model.args = get_cfg()
    model.train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    total = torch.zeros(64)
    for batch in images:
        model.zero_grad()
        model.loss(batch)[0].sum().backward()
        out, into = model.model[3].conv.weight, model.model[4].cv1.conv.weight
        halves = [(into * into.grad).abs()[:32].sum((0, 2, 3)), (into * into.grad).abs()[32:].sum((0, 2, 3))]
        total += ((out * out.grad).abs().sum((1, 2, 3)) + sum(halves)) / 3  # the split layer counts as two
    torch.testing.assert_close(found, total.detach() / len(images), rtol=1e-3, atol=1e-6)


def test_random_is_reproducible_and_follows_the_seed(model):
    graph = PruneGraph(model, 64)
    one, same, other = (score(graph, "random", seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_recalibration_is_the_average_of_the_batches(model, images):
    seen = []
    first = model.model[0]
    recalibrate(model, images)
    for batch in images:
        out = first.conv(batch["img"])
        seen.append((out.mean((0, 2, 3)), out.var((0, 2, 3))))
    torch.testing.assert_close(first.bn.running_mean, torch.stack([m for m, _ in seen]).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.bn.running_var, torch.stack([v for _, v in seen]).mean(0), rtol=1e-4, atol=1e-5)
    assert not any(m.training for m in model.modules())
    assert first.bn.momentum == pytest.approx(0.03)


def test_augmented_images_follow_the_seed_and_leave_the_callers_chance_alone(tiny_data, images):
    data = check(str(tiny_data))
    made = [Images(data, NO_RULES, 64, 16, 8, seed, augment=True) for seed in (0, 1)]
    before = random.getstate(), torch.get_rng_state()
    one, same, other = (torch.cat([b["img"] for b in made[k]]) for k in (0, 0, 1))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    plain = torch.cat([b["img"] for b in images])
    assert one.shape == plain.shape
    assert one.min() >= 0
    assert one.max() <= 1
    assert not torch.equal(one, plain)


def test_too_few_images_are_refused(tmp_path, tiny_data):
    data = check(str(tiny_data))
    few = tmp_path / "few.txt"
    lines = sorted(str(p) for p in (tiny_data.parent / "images" / "train").glob("*"))[:5]
    few.write_text("\n".join(lines))
    with pytest.raises(UserError, match="at least 16 training images, got 5"):
        Images({**data, "train": str(few)}, NO_RULES, 64, 64)


def test_other_classes_are_refused(model, tiny_data):
    data = check(str(tiny_data))
    check_classes(model, data, "x", NO_RULES)
    with pytest.raises(UserError, match="3 classes, data=x has 7"):
        check_classes(model, {**data, "names": dict.fromkeys(range(7), "x")}, "x", NO_RULES)
    with pytest.raises(UserError, match=r"data=nowhere\.yaml"):
        check("nowhere.yaml")
