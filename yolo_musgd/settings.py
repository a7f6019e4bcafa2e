"""Settings: frozen dataclasses whose fields know their range; key=value and YAML in, one clear line out.

This module imports neither torch nor ultralytics, so that the plugin can read its keys at no cost.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

S = TypeVar("S", bound="Settings")


class UserError(ValueError):
    """Something the user can put right; the message is one line with value, allowed range and fix."""


class SettingsError(UserError):
    """A setting with an unknown name, a wrong type or a value out of range."""


def setting(
    default: Any,
    help: str,
    *,
    kind: type | None = None,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its documentation and range.

    Args:
        default: default value; None means "decided by the program", and is then allowed.
        help: one line for people.
        kind: bool, int, float or str; the type of the default unless given.
        low: smallest allowed number.
        high: largest allowed number.
        below: exclusive upper bound.
        choices: allowed strings, in lower case.
    """
    meta = {"help": help, "kind": kind or type(default), "low": low, "high": high, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=meta)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The entry of ``names`` that ``name`` most likely stands for, or None; letter case does not count."""
    by_lower = {n.lower(): n for n in names}
    hits = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[hits[0]] if hits else None


def _range_text(meta: Mapping[str, Any]) -> str:
    low, high, below = meta["low"], meta["high"], meta["below"]
    if below is not None:
        return f"in [{low:g}, {below:g})"
    if high is not None:
        return f"in [{low:g}, {high:g}]"
    return f">= {low:g}" if low is not None else "a number"


def check_value(name: str, value: Any, default: Any, meta: Mapping[str, Any]) -> Any:
    """Return ``value`` in the setting's type, or raise SettingsError with value, range and fix.

    Args:
        name: the setting's name, for the message.
        value: what the user gave.
        default: the default; where it is None, None is allowed.
        meta: kind, range and choices as `setting` wrote them.
    """
    kind = meta["kind"]
    if value is None and default is None:
        return None
    if kind is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{name} must be True or False, got {value!r}; the default is {default}")
        return value
    if kind in (int, float):
        if hasattr(value, "item"):  # a 0-d tensor or a NumPy number
            value = value.item()
        low, high, below = meta["low"], meta["high"], meta["below"]
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not math.isfinite(value)
            or (low is not None and value < low)
            or (high is not None and value > high)
            or (below is not None and value >= below)
            or (kind is int and value != int(value))
        ):
            raise SettingsError(f"{name} must be {_range_text(meta)}, got {value!r}; the default is {default}")
        return kind(value)
    if meta["choices"] is not None:
        text = str(value).lower()
        if text not in meta["choices"]:
            guess = nearest(text, meta["choices"])
            hint = f"; did you mean {guess}?" if guess else ""
            raise SettingsError(f"{name} must be one of {', '.join(meta['choices'])}, got {value!r}{hint}")
        return text
    return str(value)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings: checks every field when it is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = check_value(field.name, getattr(self, field.name), field.default, field.metadata)
            object.__setattr__(self, field.name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The settings' names, in order."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Name -> default value."""
        return {f.name: f.default for f in dataclasses.fields(cls)}

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any], ignore_unknown: bool = False) -> S:
        """Settings from a mapping such as a parsed YAML file.

        Args:
            values: name -> value.
            ignore_unknown: take what belongs here and leave the rest (the host's own arguments, say).

        Raises:
            SettingsError: unknown name (with the nearest known one), wrong type or value out of range.
        """
        known = cls.names()
        for name in values:
            if name not in known and not ignore_unknown:
                guess = nearest(name, known)
                raise SettingsError(f"unknown setting {name!r}" + (f"; did you mean {guess}?" if guess else ""))
        return cls(**{k: v for k, v in values.items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        """Name -> value."""
        return dataclasses.asdict(self)


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
    muon_shard: bool = setting(True, "under DDP, each process orthogonalises its share of the matrices")

    @classmethod
    def native(cls) -> MuonSettings:
        """Ultralytics' MuSGD: 0.2 of Muon's step beside one of SGD, scaled by the kernel's height and width."""
        return cls(muon_scale="native", muon_lr=1.2, muon_share=1 / 6)


@dataclasses.dataclass(frozen=True)
class ExclusionSettings(Settings):
    """Which filters Muon leaves to the standard optimizer."""

    orthogonalize: bool = setting(
        True, "MuSGD: orthogonalised steps on filters; False is the article's rule, an SGD step on every parameter"
    )
    muon_stem: bool = setting(False, "Muon on the input layer too")
    muon_head: bool = setting(False, "Muon on the head too")
    muon_depthwise: bool = setting(False, "Muon on depthwise filters too")


@dataclasses.dataclass(frozen=True)
class TelemetrySettings(Settings):
    """What is recorded about the optimizer while a model trains."""

    telemetry: bool | None = setting(
        None, "record gradient norms and beta_t; by default with this plugin's optimizers only", kind=bool
    )
    telemetry_layers: bool = setting(False, "also record the mean beta_t of every layer and plot the lowest")
    telemetry_entropy: str | None = setting(
        None, "also record the singular-value entropy of these layers' weights: model.2,model.8 or all", kind=str
    )


PLUGIN_SETTINGS: tuple[type[Settings], ...] = (
    MuSGDSettings,
    MuonSettings,
    ExclusionSettings,
    TelemetrySettings,
)


def plugin_keys() -> dict[str, tuple[type, Any]]:
    """Every key that the plugin adds to Ultralytics' configuration: name -> (type, default)."""
    fields = [f for cls in PLUGIN_SETTINGS for f in dataclasses.fields(cls)]
    return {f.name: (f.metadata["kind"], f.default) for f in fields}
