"""Zeros in 2:4 patterns or anywhere, which training keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolo_musgd.prune import sparse


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(4, 33), st.sampled_from([1, 3]), st.integers(0, 99))
def test_2_4_keeps_the_two_largest_of_every_four_inputs(outputs, inputs, kernel, seed):
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=torch.Generator().manual_seed(seed))
    mask = sparse.mask_2_4(weight)
    for o in range(outputs):
        for y in range(kernel):
            for x in range(kernel):
                for start in range(0, inputs - inputs % 4, 4):
                    four = weight[o, start : start + 4, y, x].abs()
                    kept = mask[o, start : start + 4, y, x]
                    assert kept.sum() == 2
                    assert four[kept].min() >= four[~kept].max()
    assert mask[:, inputs - inputs % 4 :].all()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_unstructured_zeros_the_smallest_of_all_layers_together(share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=16))
    model[1].weight.data *= 10
    found = sparse.sparsify(model, "unstructured", share)
    assert found["layers"] == {"1.weight": pytest.approx(share, abs=0.01)}, "3 inputs and depthwise stay dense"
    small = model[1].weight.abs()
    assert (small == 0).float().mean() == pytest.approx(share, abs=0.01)
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert found["total"] == pytest.approx(zeros / sum(p.numel() for p in model.parameters()))


def test_zeros_stay_zero_through_the_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    sparse.sparsify(model, "2:4", 0.5)
    zero = [(p == 0) for p in model.parameters() if p.ndim == 4]

    class Trainer:
        pass

    trainer = Trainer()
    trainer.model, trainer.optimizer = model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse.hold(trainer)
    before = model[0].weight.detach().clone()
    for _ in range(3):
        model(torch.randn(2, 8, 8, 8)).square().mean().backward()
        trainer.optimizer.step()
    after = [p for p in model.parameters() if p.ndim == 4]
    assert all(bool((p[z] == 0).all()) for p, z in zip(after, zero, strict=True))
    assert not torch.equal(before, model[0].weight)
