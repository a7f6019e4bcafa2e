"""Which parameters Muon takes and which it leaves alone.

Found by what a module is and where it stands, never by a fragment of its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

MATRICES = "matrices and filters"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = tuple(cls for name, cls in vars(nn).items() if "Norm" in name and isinstance(cls, type))


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def muon_exclusions(model: nn.Module, **kinds: bool) -> set[Parameter]:
    """Parameters that should go to the standard optimizer although they are matrices or filters.

    Args:
        model: any module, as :func:`exclusion_reasons` takes it.
        kinds: ``stem``, ``head``, ``depthwise`` and ``embeddings``, as there.

    Returns:
        A set of parameters (compared by identity, as tensors are).
    """
    return set(exclusion_reasons(model, **kinds))


def exclusion_reasons(
    model: nn.Module, stem: bool = True, head: bool = True, depthwise: bool = True, embeddings: bool = True
) -> dict[Parameter, str]:
    """Parameters that should go to the standard optimizer although they may be matrices or filters, and why.

    Args:
        model: an Ultralytics model (its last layer is the head) or any module, wrapped or not.
        stem: exclude the input layer: the first convolution or linear layer.
        head: exclude the output: the whole last layer of an Ultralytics model; of any other module the last
            convolution or linear layer.
        depthwise: exclude convolutions with one input channel per group, whose flattened filters are no map between
            channels.
        embeddings: exclude embedding tables, whose rows are looked up rather than multiplied.

    Returns:
        Parameter -> reason. The parameters are compared by identity, as tensors are.
    """
    model = unwrap(model)
    excluded: dict[Parameter, str] = {}

    def exclude(parameters: Iterable[Parameter], reason: str) -> None:
        for p in parameters:
            excluded.setdefault(p, reason)

    mixers = [m for m in _student(model).modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    if stem and mixers:
        exclude(mixers[0].parameters(recurse=False), "input layer")
    if head and mixers:
        exclude(_head(model, mixers[-1]).parameters(), "output layer")
    for module in model.modules():
        own = module.parameters(recurse=False)
        if isinstance(module, _NORMS):
            exclude((p for p in own if p.ndim > 1), "normalisation")
        elif depthwise and isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels:
            exclude(own, "depthwise")
        elif embeddings and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            exclude(own, "embedding")
    return excluded


class ParamGroups(list[dict[str, Any]]):
    """Param groups of an optimizer that print as a table of what they hold."""

    def __repr__(self) -> str:
        rows = [("group", "tensors", "parameters", "orthogonalised")]
        for group in self:
            params, reason = group["params"], group["name"]
            answer = "yes" if group["orthogonalize"] else f"no: {reason}"
            rows.append((reason, str(len(params)), f"{sum(p.numel() for p in params):,}", answer))
        a, b, c = (max(len(row[i]) for row in rows) for i in range(3))
        return "\n".join(f"{w:<{a}}  {x:>{b}}  {y:>{c}}  {z}" for w, x, y, z in rows)


def param_groups(model: nn.Module, stem: bool = False, head: bool = False, depthwise: bool = False) -> ParamGroups:
    """Param groups of any PyTorch model, for MuSGD, MuonSGD or MuonAdamW: which tensors are orthogonalised.

    Not orthogonalised are the input layer, the output layers, depthwise filters, embeddings, normalisation and vectors;
    the last two get no weight decay. The optimizer's ``weight_decay`` is that of all others. ``print`` shows a table.

    Args:
        model: any module, wrapped or not; of an Ultralytics model the output is its whole last layer.
        stem: orthogonalise the input layer too.
        head: orthogonalise the output layers too.
        depthwise: orthogonalise depthwise filters too.

    Returns:
        Groups with the keys ``params``, ``name``, ``orthogonalize`` and, where there is none, ``weight_decay``; each
        tensor once, in the model's order.
    """
    excluded = exclusion_reasons(model, not stem, not head, not depthwise)
    members: dict[str, list[Parameter]] = {MATRICES: []}
    for p in unwrap(model).parameters():
        reason = "vector" if p.ndim < 2 else excluded.get(p, MATRICES if is_matrix(p) else "no matrix")
        members.setdefault(reason, []).append(p)
    return ParamGroups(
        {"params": params, "name": name, "orthogonalize": name == MATRICES}
        | ({"weight_decay": 0.0} if name in ("vector", "normalisation") else {})
        for name, params in members.items()
        if params
    )


def with_rates(groups: list[dict[str, Any]], model: nn.Module, body: float, head: float) -> list[dict[str, Any]]:
    """Param groups in which the head's classification branches and all the rest have learning rates of their own.

    The branches are new when the number of classes is, and are found by module: ``cv3`` and ``one2one_cv3`` of an
    Ultralytics model's last layer. A model without them keeps its groups, and so it does where both factors are 1.

    Args:
        groups: with ``params`` and ``lr``; not changed.
        model: wrapped or not.
        body: what ``lr`` is multiplied by.
        head: the same for the classification branches.

    Returns:
        each group, followed by one with its classification branches where it holds some; every other key is the same.
        ``body_lr`` and ``head_lr`` say the factors.
    """
    layers = _layers(unwrap(model))
    branches = [getattr(layers[-1], name, None) for name in ("cv3", "one2one_cv3")] if layers else []
    chosen = {p for branch in branches if isinstance(branch, nn.Module) for p in branch.parameters()}
    if not chosen:
        body = head = 1.0
    found = []
    for group in ({**g, "body_lr": body, "head_lr": head} for g in groups):
        mine = [p for p in group["params"] if p in chosen] if body != head else []
        rest = [p for p in group["params"] if p not in chosen] if mine else group["params"]
        found.append({**group, "params": rest, "lr": group["lr"] * body})
        if mine:
            found.append({**group, "params": mine, "lr": group["lr"] * head})
    return found


def _head(model: nn.Module, last_mixer: nn.Module) -> nn.Module:
    """The output module: Ultralytics keeps its layers in ``model.model``, the head last."""
    layers = _layers(model)
    return layers[-1] if layers and len(layers) > 1 else last_mixer


def _student(model: nn.Module) -> nn.Module:
    """The model that trains in Ultralytics' distillation, which holds its teacher first; any other module itself."""
    student: nn.Module = getattr(model, "student_model", model)
    return student


def _layers(model: nn.Module) -> nn.Sequential | None:
    """The layers of an Ultralytics model, the head last; None for any other module."""
    layers = getattr(_student(model), "model", None)
    return layers if isinstance(layers, nn.Sequential) and len(layers) else None


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter can be orthogonalised: two to five dimensions and more than one row and column."""
    if not 2 <= parameter.ndim <= 5 or not parameter.is_floating_point():
        return False
    rows = parameter.shape[0]
    return rows > 1 and parameter.numel() > rows
