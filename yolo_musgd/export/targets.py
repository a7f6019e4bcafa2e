"""The boards: what each can run, what it cannot and why; read from ``cfg/target/*.yaml``."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import nearest

NAMES = tuple(name.removesuffix(".yaml") for name in resources.recipe_names("target"))
PRECISIONS = ("fp32", "fp16", "int8")


@dataclasses.dataclass(frozen=True)
class Target:
    """One board.

    Attributes:
        name: file name of its YAML.
        title: in words, with its article.
        runtimes: runtime -> precisions that it computes on this board.
        precision: taken when none is asked for.
        heads: ``raw`` and ``nms_free`` as far as they run; the first is the default.
        opset: newest ONNX opset that every runtime of the board reads.
        layout: order of the input's axes.
        variant: kind of quantized graph, see :mod:`yolo_musgd.export.quantize`.
        impossible: "precision", "head", "precision head" or "runtime precision" -> why.
        requirements: packages for the board, from the index.
        setup: commands for a fresh board, in order.
        bench: extra words of the bench command.
        power: where watts come from.
        tensorrt: version whose operator list holds, or None without TensorRT.
        compute_capability: of the GPU, or None.
        machine: x86_64 or aarch64.
        topk: anchors that a raw head's graph for TensorRT gives, best first; 0 for all.
        on_request: "runtime precision" that is made only where that runtime is asked for.
    """

    name: str
    title: str
    runtimes: dict[str, list[str]]
    precision: str
    heads: list[str]
    opset: int
    layout: str
    variant: str
    impossible: dict[str, str]
    requirements: list[str]
    setup: list[str]
    bench: str
    power: str
    tensorrt: str | None = None
    compute_capability: float | None = None
    machine: str = "aarch64"
    topk: int = 0
    on_request: list[str] = dataclasses.field(default_factory=list)

    def precisions(self) -> list[str]:
        """Precisions that at least one runtime computes, in the order of PRECISIONS."""
        return [p for p in PRECISIONS if any(p in known for known in self.runtimes.values())]

    def check(self, precision: str, head: str, runtime: str | None = None) -> None:
        """Refuse what this board cannot do.

        Raises:
            UserError: with the reason, and what to ask for instead.
        """
        pairs = [precision, head, f"{precision} {head}"] + ([f"{runtime} {precision}"] if runtime else [])
        for key in pairs:
            if key in self.impossible:
                raise UserError(
                    f"target={self.name} cannot run {self._as_words(key)}: {self.impossible[key]}; "
                    f"{self._instead(key, precision)}"
                )
        if runtime and runtime not in self.runtimes:
            raise UserError(f"runtime={runtime} is none of target={self.name}: it has {', '.join(self.runtimes)}")
        known = self.runtimes[runtime] if runtime else self.precisions()
        if precision not in known:
            raise UserError(
                f"precision={precision} is not computed by {runtime or 'any runtime'} of target={self.name}; "
                f"use precision={' or precision='.join(known)}"
            )
        if head not in self.heads:
            raise UserError(f"head={head} is not possible on target={self.name}; use head={self.heads[0]}")

    def _as_words(self, key: str) -> str:
        """``int8 nms_free`` as the user typed it: ``precision=int8 head=nms_free``."""
        kinds = {**dict.fromkeys(PRECISIONS, "precision"), "raw": "head", "nms_free": "head"}
        return " ".join(f"{kinds.get(word, 'runtime')}={word}" for word in key.split())

    def _instead(self, key: str, precision: str) -> str:
        if "nms_free" in key:
            return f"use head={self.heads[0]}"
        others = [p for p in self.precisions() if p != precision]
        return f"use precision={'fp16' if 'fp16' in others and precision == 'int8' else others[0]}"

    def runtimes_for(self, precision: str) -> list[str]:
        """Runtimes of this board that are made for ``precision`` unasked, in the order of its file."""
        able = [name for name, known in self.runtimes.items() if precision in known]
        return [name for name in able if f"{name} {precision}" not in self.on_request]


@cache
def load_target(name: str) -> Target:
    """The board of this name.

    Raises:
        UserError: no such board, or a file with a key too many or too few.
    """
    import yaml

    if name not in NAMES:
        guess = nearest(name, NAMES)
        raise UserError(f"target must be one of {', '.join(NAMES)}, got {name!r}" + (f"; try {guess}" if guess else ""))
    path = resources.folder("cfg") / "target" / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = [key for key in content if key not in {field.name for field in dataclasses.fields(Target)}]
    if unknown:
        guess = nearest(unknown[0], [field.name for field in dataclasses.fields(Target)])
        raise UserError(f"{path}: unknown key {unknown[0]!r}" + (f"; did you mean {guess}?" if guess else ""))
    needed = [f.name for f in dataclasses.fields(Target) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [key for key in needed if key not in {*content, "name"}]:
        raise UserError(f"{path} lacks {', '.join(missing)}; start from the nearest board beside it")
    return Target(name=name, **content)
