"""Which parameters Muon leaves alone: found by what a module is and where it stands, never by a name fragment."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import Parameter

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def muon_exclusions(
    model: nn.Module, stem: bool = True, head: bool = True, depthwise: bool = True, embeddings: bool = True
) -> set[Parameter]:
    """Parameters that should go to the standard optimizer although they are matrices or filters.

    Args:
        model: an Ultralytics model (its last layer is the head) or any module, wrapped or not.
        stem: exclude the input layer: the first convolution or linear layer.
        head: exclude the output: the whole last layer of an Ultralytics model; of any other module the last
            convolution or linear layer.
        depthwise: exclude convolutions with one input channel per group, whose flattened filters are no map between
            channels.
        embeddings: exclude embedding tables, whose rows are looked up rather than multiplied.

    Returns:
        A set of parameters (compared by identity, as tensors are).
    """
    model = unwrap(model)
    excluded: set[Parameter] = set()
    mixers = [m for m in model.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    if stem and mixers:
        excluded.update(mixers[0].parameters(recurse=False))
    if head and mixers:
        excluded.update(_head(model, mixers[-1]).parameters())
    for module in model.modules():
        is_depthwise = isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels
        is_table = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        if (depthwise and is_depthwise) or (embeddings and is_table):
            excluded.update(module.parameters(recurse=False))
    return excluded


def _head(model: nn.Module, last_mixer: nn.Module) -> nn.Module:
    """The output module: Ultralytics keeps its layers in ``model.model``, the head last."""
    layers = getattr(getattr(model, "student_model", model), "model", None)
    if isinstance(layers, nn.Sequential) and len(layers) > 1:
        return layers[-1]
    return last_mixer


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter can be orthogonalised: two to five dimensions and more than one row and column."""
    if not 2 <= parameter.ndim <= 5 or not parameter.is_floating_point():
        return False
    rows = parameter.shape[0]
    return rows > 1 and parameter.numel() > rows
