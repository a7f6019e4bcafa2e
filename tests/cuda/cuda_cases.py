"""Optimizers, parameters and gradients of the device tests."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
from yolo_musgd.optim.musgd import MuSGD

FP32 = {"muon_precision": "float32"}
OPTIMIZERS = {  # name -> (class, settings)
    "MuSGD": (MuSGD, FP32),
    "MuSGD bf16": (MuSGD, {"muon_precision": "bfloat16"}),
    "MuSGD fine-tuning": (MuSGD, {**FP32, "second_moment": 0.99, "muon_lr": 0.3}),
    "MuSGD global": (MuSGD, {**FP32, "norm_scope": "global"}),
    "MuSGD relative": (MuSGD, {**FP32, "norm_mode": "relative", "nesterov": False, "muon_nesterov": False}),
    "MuSGD shared": (MuSGD, {**FP32, "muon_share": 0.5, "muon_decay": 1.0}),
    "MuSGD every second": (MuSGD, {**FP32, "muon_every": 2}),
    "MuSGD polar": (MuSGD, {**FP32, "muon_method": "polar-express", "muon_steps": 4}),
    "MuSGD graph": (MuSGD, {**FP32, "muon_graph": True}),
    "MuSGD cubic": (MuSGD, {**FP32, "muon_method": "cubic"}),
    "MuSGD svd": (MuSGD, {**FP32, "muon_method": "svd"}),
    "article": (MuSGD, {"orthogonalize": False}),
    "article single": (MuSGD, {"orthogonalize": False, "backend": "single"}),
    "article foreach": (MuSGD, {"orthogonalize": False, "backend": "foreach", "lr_in_velocity": True}),
    "article decoupled": (MuSGD, {"orthogonalize": False, "decoupled_decay": True, "norm_source": "decayed"}),
    "MuonSGD": (MuonSGD, {**FP32, "muon_scale": "keller"}),
    "MuonSGD native": (MuonSGD, {**FP32, "muon_scale": "native", "muon_share": 1 / 6}),
    "MuonSGD rows": (MuonSGD, {**FP32, "muon_rows": 0.95}),
    "MuonSGD half state": (MuonSGD, {**FP32, "muon_state": "bfloat16"}),
    "MuonAdamW": (MuonAdamW, FP32),
}
SHAPES = [(16, 8, 3, 3), (8, 16, 1, 1), (16, 8, 1, 1), (32, 16), (16, 8, 3, 3), (16, 1, 3, 3), (16,), (8,), (16,)]


@dataclass(frozen=True)
class Place:
    """A device and what may be asked of it."""

    device: str

    @contextlib.contextmanager
    def never_waited_for(self) -> Iterator[None]:
        """Whatever waits for the device in this block raises; a CPU is not waited for."""
        if self.device == "cpu":
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def parameters(device, dtype=torch.float32, nhwc=False):
    """The same small set of filters, matrices and vectors wherever it is made."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator).to(dtype) for s in SHAPES]
    if nhwc:
        made = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in made]
    return [nn.Parameter(t.to(device)) for t in made]


def give_gradients(params, step, poison=None):
    """Gradients that depend on the number of the step alone; one element of the first may be poisoned."""
    generator = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        if poison is not None and i == 0:
            grad[0, 0] = poison
        p.grad = torch.empty_like(p).copy_(grad)


def build(name, params):
    """An optimizer of the table over two param groups, the second without decay, as a trainer makes them."""
    cls, settings = OPTIMIZERS[name]
    cut = next(i for i, p in enumerate(params) if p.ndim == 1)
    groups = [{"params": params[:cut], "weight_decay": 0.01}, {"params": params[cut:], "weight_decay": 0.0}]
    return cls(groups, lr=0.02, momentum=0.9, **settings)


def trained(name, device, steps=4, **kind):
    """Parameters after some steps, on the CPU, and the optimizer."""
    params = parameters(device, **kind)
    optimizer = build(name, params)
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return [p.detach().cpu().float() for p in params], optimizer


def saved(optimizer):
    """A state dict as a checkpoint holds it: on the CPU, in memory of its own."""
    return copy.deepcopy(_to_cpu(optimizer.state_dict()))


def _to_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {k: _to_cpu(v) for k, v in value.items()}
    return type(value)(map(_to_cpu, value)) if isinstance(value, (list, tuple)) else value
