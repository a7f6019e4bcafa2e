"""Zeros inside the weights that are left. A sparsity, never a speed: no runtime here skips a zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yolo_musgd.edge.errors import UserError


def mask_2_4(weight: Tensor) -> Tensor:
    """Keep the two largest of every four input weights, as NVIDIA's sparse tensor cores want them.

    Args:
        weight: (outputs, inputs, height, width); the inputs of one output and one tap are taken four by four.

    Returns:
        Boolean mask of the same shape; inputs beyond the last multiple of four are kept.
    """
    outputs, inputs = weight.shape[:2]
    whole = inputs - inputs % 4
    flat = weight.detach().abs().flatten(2).transpose(1, 2)  # outputs, taps, inputs
    fours = flat[..., :whole].reshape(outputs, -1, whole // 4, 4)
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, fours.topk(2, dim=-1).indices, True)
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask[..., :whole] = kept.reshape(outputs, -1, whole)
    return mask.transpose(1, 2).reshape(weight.shape)


def masks(model: nn.Module, kind: str, sparsity: float) -> dict[str, Tensor]:
    """Which weights stay, by parameter name: magnitude decides, in dense convolutions with at least four inputs.

    Args:
        model: any module.
        kind: ``2:4``, or ``unstructured``: the smallest ``sparsity`` of all those weights together.
        sparsity: share of zeros of ``unstructured``.

    Returns:
        bool tensors of the weights' shapes, True where a weight stays.

    Raises:
        UserError: no such convolution.
    """
    layers = {
        f"{name}.weight": m.weight.detach()
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels >= 4 and ".dfl." not in f"{name}."
    }
    if not layers:
        raise UserError("no convolution of this model can be made sparse; use sparse=none")
    if kind == "2:4":
        return {name: mask_2_4(weight) for name, weight in layers.items()}
    every = torch.cat([w.abs().flatten() for w in layers.values()])
    count = max(1, int(sparsity * len(every)))
    threshold = every.kthvalue(count).values
    return {name: w.abs() > threshold for name, w in layers.items()}


def sparsify(model: nn.Module, kind: str, sparsity: float) -> dict[str, Any]:
    """Set weights to zero in place.

    Returns:
        ``kind``, ``total`` (zeros over all parameters) and ``layers``: parameter name -> share of zeros.
    """
    chosen = masks(model, kind, sparsity)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in chosen.items():
            parameters[name].mul_(mask)
    zeros = sum(int((p == 0).sum()) for p in parameters.values())
    return {
        "kind": kind,
        "total": zeros / sum(p.numel() for p in parameters.values()),
        "layers": {name: round(1 - float(mask.float().mean()), 4) for name, mask in chosen.items()},
    }


def hold(trainer: Any) -> None:
    """Callback for ``on_train_start``: weights that are zero now stay zero through every step of the optimizer."""
    from ultralytics.utils.torch_utils import unwrap_model

    model = unwrap_model(trainer.model)
    held = [(p, p.detach() != 0) for p in model.parameters() if p.ndim == 4 and bool((p == 0).any())]

    def zero(*_: Any) -> None:
        with torch.no_grad():
            for parameter, mask in held:
                parameter.mul_(mask)

    trainer.optimizer.register_step_post_hook(zero)
