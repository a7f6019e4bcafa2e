"""Settings of the optimizers: the rule of beta_t, Muon's step on filters, and which filters take it.

This module imports neither torch nor ultralytics, so that the plugin can read its keys at no cost.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from yolo_musgd.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class MuSGDSettings(Settings):
    """The rule of momentum-adaptive SGD (article "MuSGD optimizer", 2026-02-12) and its variants."""

    adapt_factor: float = setting(0.01, "strength of the adaptation in beta_max / (1 + adapt_factor*||g||^2)", low=0.0)
    beta_min: float = setting(0.0, "lower bound of beta_t", low=0.0, below=1.0)
    norm_scope: str = setting(
        "tensor", "norm of each parameter tensor, or one over all parameters", choices=("tensor", "global")
    )
    norm_source: str = setting(
        "raw", "norm of the gradient itself, or of gradient + weight_decay*parameter", choices=("raw", "decayed")
    )
    norm_mode: str = setting(
        "absolute", "the norm as it is, or relative to its own running mean (scale-free)",
        choices=("absolute", "relative"),
    )  # fmt: skip
    norm_decay: float = setting(0.99, "decay of the running mean that norm_mode=relative uses", low=0.0, below=1.0)
    nesterov: bool = setting(True, "look ahead along the velocity, as Ultralytics' SGD does")
    lr_in_velocity: bool = setting(False, "v = beta*v + lr*g, as in the article's formula, not p -= lr*v")
    decoupled_decay: bool = setting(False, "p *= 1 - lr*weight_decay (AdamW style) instead of g += weight_decay*p")
    second_moment: float | None = setting(
        None,
        "divide the gradient by its root mean square, as RMSProp: decay of the mean; 0 is off; "
        "None is 0.99 where MuSGD fine-tunes what it does not orthogonalise, else 0",
        kind=float, low=0.0, below=1.0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MuonSettings(Settings):
    """How Muon updates matrices and flattened convolution filters; the defaults are the recipe for small YOLOs."""

    muon_scale: str = setting(
        "rms",
        "length of an update: rms 0.2*sqrt(max(rows, columns)), like AdamW's; keller sqrt(max(1, rows/columns)); "
        "native the same on kernel height and width, as Ultralytics' optimizer has it",
        choices=("rms", "keller", "native"),
    )
    muon_lr: float | None = setting(
        None, "learning rate of matrices as a multiple of the group's; None is 2 from scratch, 0.3 from a checkpoint",
        kind=float, low=0.0,
    )  # fmt: skip
    muon_share: float = setting(
        1.0, "Muon's share of a matrix' step; the rest, 1 - muon_share, is an SGD step on it", low=0.0, high=1.0
    )
    muon_momentum: float = setting(0.0, "momentum of matrices; 0 follows Ultralytics' warmed one", low=0.0, below=1.0)
    muon_nesterov: bool = setting(True, "look ahead along the momentum of matrices")
    muon_decay: float = setting(0.0, "decoupled decay of matrices as a multiple of weight_decay", low=0.0)
    muon_method: str = setting(
        "quintic", "orthogonalisation", choices=("quintic", "polar-express", "cubic", "svd")
    )  # fmt: skip
    muon_steps: int = setting(5, "iterations of the orthogonalisation", low=1, high=100)
    muon_precision: str = setting(
        "auto", "of the orthogonalisation; auto takes bf16 where the hardware has it",
        choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    muon_rows: float = setting(
        0.0, "NorMuon: decay of the running mean square of each row, e.g. 0.95; 0 is off", low=0.0, below=1.0
    )
    muon_state: str = setting(
        "float32", "momentum of matrices; bfloat16 halves it (rounded stochastically)", choices=("float32", "bfloat16")
    )
    muon_every: int = setting(1, "orthogonalise a matrix every so many steps, by a step as many times as long", low=1)
    muon_rest: str = setting(
        "sgd", "what updates the rest in MuonSGD: sgd, or musgd with its beta_t", choices=("sgd", "musgd")
    )
    muon_adapt: bool = setting(False, "beta_t on the momentum of matrices too, see adapt_factor")
    muon_graph: bool = setting(
        False, "on a CUDA device, replay the orthogonalisation as a CUDA graph: one launch a batch of matrices"
    )
    muon_shard: bool = setting(True, "under DDP, each process orthogonalises its share of the matrices")

    @classmethod
    def native(cls) -> MuonSettings:
        """Ultralytics' MuSGD: 0.2 of Muon's step beside one of SGD, scaled by the kernel's height and width."""
        return cls(muon_scale="native", muon_lr=1.2, muon_share=1 / 6)


@dataclasses.dataclass(frozen=True)
class ExclusionSettings(Settings):
    """Which filters Muon leaves to the standard optimizer, and the rates of the head and of the rest."""

    orthogonalize: bool = setting(
        True, "orthogonalised steps on filters; False is the rest's rule for every parameter, with MuSGD the article's"
    )
    muon_stem: bool = setting(False, "Muon on the input layer too")
    muon_head: bool = setting(False, "Muon on the head too")
    muon_depthwise: bool = setting(False, "Muon on depthwise filters too")
    body_lr: float | None = setting(
        None, "learning rate of all but the head's classification branches as a multiple of lr0; "
        "None is 0.5 where MuSGD fine-tunes for another number of classes, else 1",
        kind=float, low=0.0,
    )  # fmt: skip
    head_lr: float | None = setting(
        None, "learning rate of the head's classification branches as a multiple of lr0; "
        "None is 1.5 where MuSGD fine-tunes for another number of classes, else 1; Ultralytics' own MuSGD has 3",
        kind=float, low=0.0,
    )  # fmt: skip


def flat(muon: MuonSettings | None) -> dict[str, Any]:
    """Muon's settings as arguments of the classes; ``muon_rest`` is the command line's word for ``adapt_factor``."""
    return {k: v for k, v in muon.to_dict().items() if k != "muon_rest"} if muon else {}
