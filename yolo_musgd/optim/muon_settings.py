"""Settings of the Muon hybrids, without torch: the plugin reads them as keys of the ``yolo`` command."""

from __future__ import annotations

import dataclasses

from yolo_musgd.settings import Settings, setting

SCALES = ("rms", "keller", "native")


@dataclasses.dataclass(frozen=True)
class MuonSettings(Settings):
    """How Muon updates matrices and flattened convolution filters; the defaults are the recipe for small YOLOs."""

    muon_scale: str = setting(
        "rms",
        "length of an update: rms 0.2*sqrt(max(rows, columns)), like AdamW's; keller sqrt(max(1, rows/columns)); "
        "native the same on kernel height and width, as Ultralytics' optimizer has it",
        choices=SCALES,
    )
    muon_lr: float = setting(1.0, "learning rate of matrices as a multiple of the group's", low=0.0)
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
    muon_shard: bool = setting(True, "under DDP, each process orthogonalises its share of the matrices")

    @classmethod
    def native(cls) -> MuonSettings:
        """Ultralytics' MuSGD: 0.2 of Muon's step beside one of SGD, scaled by the kernel's height and width."""
        return cls(muon_scale="native", muon_lr=1.2, muon_share=1 / 6)


@dataclasses.dataclass(frozen=True)
class ExclusionSettings(Settings):
    """Which filters Muon leaves to the standard optimizer."""

    muon_stem: bool = setting(False, "Muon on the input layer too")
    muon_head: bool = setting(False, "Muon on the head too")
    muon_depthwise: bool = setting(False, "Muon on depthwise filters too")
