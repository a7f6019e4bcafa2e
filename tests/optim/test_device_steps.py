"""Few launches on a device: one vector of many tensors, padded batches, and the count of what a step starts.

Covers yolo_musgd/optim/flat.py and stacks.py too.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_musgd.optim import device_steps, stacks
from yolo_musgd.optim.device_steps import orthogonalize_block, orthogonalized
from yolo_musgd.optim.flat import flatten, is_nhwc, spread, unflatten, zero_unless
from yolo_musgd.optim.kernel_plan import iteration_flops
from yolo_musgd.optim.musgd import MuSGD
from yolo_musgd.optim.orthogonalize import Kernel, few_launches, ns_coefficients, orthogonalize
from yolo_musgd.optim.settings import MuonSettings
from yolo_musgd.optim.stacks import Stack, blocks, join, lying, plan_stacks

SHAPES = [(16, 8, 3, 3), (8, 16, 1, 1), (32, 8), (16, 8, 3, 3), (40, 3), (64, 64), (8, 16, 1, 1), (5, 7, 3)]
STARTS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
VIEWS = {
    *(
        "view",
        "unbind",
        "split",
        "split_with_sizes",
        "transpose",
        "permute",
        "slice",
        "select",
        "expand",
        "t",
        "detach",
    ),
    *("as_strided", "_unsafe_view", "alias", "unsqueeze", "squeeze", "reshape", "lift_fresh", "device"),
}


def tensors(nhwc=()):
    torch.manual_seed(0)
    made = [torch.randn(s) for s in SHAPES]
    return [t.contiguous(memory_format=torch.channels_last) if i in nhwc else t for i, t in enumerate(made)]


@pytest.mark.parametrize("nhwc", [(), (0,), (0, 3)])
def test_a_vector_and_back(nhwc):
    made = tensors(nhwc)
    flat = flatten(made)
    back = unflatten(flat, made)
    assert [is_nhwc(t) for t in made] == [i in nhwc for i in range(len(made))]
    for a, b in zip(made, back, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    flat.zero_()
    assert not any(b.any() for b in back), "they are views"
    assert all(a.any() for a in made), "the vector is a copy"
    assert flatten(made[:1]).data_ptr() != made[0].data_ptr()


def test_zero_unless_takes_nan_away():
    made = tensors()
    made[0][0] = float("nan")
    assert torch.equal(zero_unless(torch.tensor(1.0), made)[1], made[1])
    assert not any(t.any() for t in zero_unless(torch.tensor(0.0), made))


def test_spread_repeats_each_value():
    sizes = torch.tensor([2, 1, 3])
    assert spread(torch.tensor([1.0, 2.0, 3.0]), sizes, 6).tolist() == [1, 1, 2, 3, 3, 3]
    assert spread(torch.tensor(0.9), sizes, 6).ndim == 0


@pytest.mark.parametrize("method", ["quintic", "polar-express"])
def test_three_products_a_step_are_the_same_iteration(method):
    torch.manual_seed(0)
    batch = torch.randn(3, 12, 40)
    batch[1] = 0
    found = few_launches(batch.clone(), ns_coefficients(method))
    torch.testing.assert_close(found, orthogonalize(batch, method), rtol=1e-4, atol=1e-4)
    assert not found[1].any()
    for size in (1e-15, 1e30):  # squares of either leave fp32
        torch.testing.assert_close(few_launches(batch * size, ns_coefficients(method)), found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["quintic", "cubic", "svd"])
def test_padding_changes_no_result(method):
    chosen = MuonSettings(muon_method=method, muon_precision="float32")
    params = tensors()
    index = tuple(range(len(params)))
    parts = plan_stacks([nn.Parameter(p) for p in params], chosen)
    if method != "svd":  # all in one batch, however wasteful
        found = [part for stack in parts for part in stack.parts]
        parts = [Stack(tuple(found), Kernel(), 0, side=64, width=80)]
    assert sorted(i for b in parts for i in b.index) == list(index)
    for stack in parts:
        vector = flatten([params[i] for i in stack.index])
        result = orthogonalized(stack, vector, 0, chosen)
        assert result.shape == (len(stack.index), stack.side, stack.width)
        for part, slot in zip(stack.parts, stack.slots(result), strict=True):
            for i, matrix in zip(part.index, slot, strict=True):
                wanted = orthogonalize(params[i].flatten(1), method)
                torch.testing.assert_close(matrix, wanted, rtol=2e-3, atol=2e-3)


def test_a_graph_is_recorded_once_and_replayed_with_new_gradients(monkeypatch):
    """What a CUDA graph does, on the CPU: the same work on the same memory."""
    made = []

    def recorded(work):
        result = torch.empty_like(work())
        made.append(work)
        return lambda: result.copy_(work()), result

    monkeypatch.setattr("yolo_musgd.optim.hybrid.runs_ahead", lambda device: True)
    monkeypatch.setattr("yolo_musgd.optim.kernel_plan.runs_ahead", lambda device: True)
    monkeypatch.setattr(device_steps, "can_record", lambda device: True)
    monkeypatch.setattr(device_steps, "recorded", recorded)
    ends = []
    for graph in (False, True):
        params = [nn.Parameter(t) for t in tensors()]
        optimizer = MuSGD(params, muon_graph=graph)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        ends.append(params)
        assert len(made) == (len(optimizer.matrices._plans[0]) if graph else 0)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def cost(group, counts, steps):
    """What ``join`` minimises, written out: a launch each, and products of the largest sides."""
    side, width = (max(s) for s in zip(*group, strict=True))
    peak, half = stacks.RATE[torch.float32]
    flops = sum(counts[s] for s in group) * iteration_flops(side, width, steps)
    return stacks.LAUNCH * (5 + 3 * len(steps)) + flops / (peak * side / (side + half))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 600), st.integers(1, 5000)), min_size=1, max_size=8))
def test_joining_loses_no_shape_and_never_costs_time(shapes):
    counts, steps = Counter(lying(s) for s in shapes), ns_coefficients()
    groups = join(counts, steps, Kernel())
    assert sorted(s for g in groups for s in g) == sorted(counts)
    assert sum(cost(g, counts, steps) for g in groups) <= sum(cost([s], counts, steps) for s in counts) * 1.000001


def test_small_matrices_share_a_batch_and_large_ones_do_not():
    steps, kernel = ns_coefficients(), Kernel(torch.bfloat16)
    assert len(join({(16, 16): 3, (16, 144): 2, (8, 32): 1}, steps, kernel)) == 1
    assert len(join({(1024, 9216): 20, (64, 576): 20}, steps, kernel)) == 2


def test_blocks_and_batches_are_bounded(monkeypatch):
    monkeypatch.setattr("yolo_musgd.optim.stacks.LIMIT", 4000)
    params = [nn.Parameter(t) for t in tensors()]
    stacks = plan_stacks(params, MuonSettings())
    for stack in stacks:
        assert len(stack.index) * stack.side * stack.width <= 4000 or len(stack.index) == 1
    assert [b for block in blocks(stacks) for b in block] == stacks
    assert len(blocks(stacks)) > 1


@torch.no_grad()
def test_two_ranks_share_the_stacks_and_end_alike(monkeypatch):
    """Each orthogonalises its own and gets the other's; the exchange is played by a dictionary."""
    chosen = MuonSettings(muon_precision="float32")
    monkeypatch.setattr("yolo_musgd.optim.stacks.LIMIT", 4000)  # or all would be one stack
    params = [nn.Parameter(t) for t in tensors()]
    sent, rank, calls = {}, [0], []

    def broadcast(result, owner):
        key = len(calls)  # every rank broadcasts in the same order
        calls.append(owner)
        if owner == rank[0]:
            sent[key] = result.clone()
        elif key in sent:
            result.copy_(sent[key])

    monkeypatch.setattr(device_steps.dist, "get_rank", lambda: rank[0])
    monkeypatch.setattr(device_steps.dist, "broadcast", broadcast)
    stacks = plan_stacks(params, chosen, ranks=2)
    assert {stack.owner for stack in stacks} == {0, 1}
    ends = []
    for number in (0, 1, 0, 1, None):  # the first round fills the dictionary; None is one process alone
        rank[0] = number
        calls.clear()
        vector = flatten([params[i] for stack in stacks for i in stack.index])
        due = orthogonalize_block(stacks, vector, chosen, 1, 1 if number is None else 2)
        assert due == list(range(len(params)))
        ends.append(vector)
    assert torch.equal(ends[2], ends[3])
    assert torch.equal(ends[2], ends[4])


class Launches(TorchDispatchMode):
    """Counts the operators that start work; each is a kernel or, on lists of tensors, a few."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += not (name in VIEWS or name in STARTS or name.startswith("_record"))
        return function(*args, **(kwargs or {}))


def launches_of(make, model):
    """Launches of the second step of the optimizers that ``make`` builds, on fake gradients on a GPU."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, device="cuda"))
                module._parameters[name].grad = torch.empty(p.shape, device="cuda")
    optimizers = make(model)
    for optimizer in optimizers:
        optimizer.step()
    with Launches() as counted:
        for optimizer in optimizers:
            optimizer.step()
    return counted.count


def test_a_step_of_yolo26n_starts_two_thirds_of_natives_kernels(fake_gpu, monkeypatch):
    from ultralytics.nn.tasks import DetectionModel

    from yolo_musgd.lab.contenders import contenders

    monkeypatch.setattr("yolo_musgd.optim.kernel_plan.has_fast_bf16", lambda device: True)
    found = {}
    for name in ("MuSGD", "MuSGD-native"):
        model = DetectionModel("yolo26n.yaml", verbose=False)
        with fake_gpu(allow_non_fake_inputs=True):
            found[name] = launches_of(contenders()[name], model)
    assert found["MuSGD"] < 300  # 1800 when every tensor had a launch of its own
    assert found["MuSGD"] < 0.66 * max(found["MuSGD-native"], 455)  # an older native one starts many more


def test_launches_do_not_grow_with_the_number_of_tensors(fake_gpu, monkeypatch):
    monkeypatch.setattr("yolo_musgd.optim.kernel_plan.has_fast_bf16", lambda device: True)

    def count(copies):
        with fake_gpu():
            params = [nn.Parameter(torch.empty(s, device="cuda")) for s in [(16, 8, 3, 3), (16,)] * copies]
            for p in params:
                p.grad = torch.empty_like(p)
            optimizer = MuSGD(params, weight_decay=0.1)
            optimizer.step()
            with Launches() as counted:
                optimizer.step()
        return counted.count

    assert count(20) == count(2)
