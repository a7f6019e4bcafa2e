"""Input size and width for a goal of frames a second: an estimate by FLOPs from one speed that somebody measured.

A detector's time on a board is taken as proportional to its FLOPs, from an anchor: a model, a size, its milliseconds.
That is good to perhaps a third: memory, small layers and the runtime all matter. So what comes out is called an
estimate wherever it is shown, and the bundle's ``bench`` is how to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import items
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.settings import SettingsError

SIZES = range(160, 672, 32)
WIDTHS = "nsmlx"


@dataclass(frozen=True)
class Anchor:
    """A speed that was measured by somebody on the board.

    Attributes:
        model: an Ultralytics model YAML.
        imgsz: side of its input, pixels.
        ms: milliseconds a frame.
        how: where the figure comes from.
    """

    model: str
    imgsz: int
    ms: float
    how: str


@dataclass(frozen=True)
class SizeChoice:
    """What was chosen, and from what.

    Attributes:
        model: to train.
        imgsz: side of its input, pixels.
        gflops: of the pruned model at that size, by what pruning is asked to take away.
        estimated_fps: on the board, scaled from the anchor.
        anchor: the speed it was scaled from.
    """

    model: str
    imgsz: int
    gflops: float
    estimated_fps: float
    anchor: Anchor

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_anchor(settings: PipelineSettings) -> Anchor:
    """The user's own figure, or the published one of the board.

    Raises:
        UserError: neither is there, or the user's cannot be read.
    """
    if settings.anchor:
        words = items(settings.anchor)
        try:
            model, imgsz, ms = words[0], int(words[1]), float(words[2])
            if len(words) != 3 or imgsz < 32 or not 0 < ms < float("inf"):
                raise ValueError
        except (ValueError, IndexError):
            raise SettingsError(
                f"anchor must be [model,imgsz,milliseconds] such as [yolo26n.yaml,640,67], got {settings.anchor!r}"
            ) from None
        return Anchor(_as_yaml(model), imgsz, ms, "measured by the user (anchor=)")
    boards = yaml.safe_load((resources.folder("cfg") / "pipeline" / "boards.yaml").read_text(encoding="utf-8"))
    if settings.target not in boards:
        raise UserError(
            f"target_fps on target={settings.target} needs a speed to scale from: add anchor=[yolo26n.yaml,640,80] "
            "with the milliseconds that you measured there"
        )
    return Anchor(**boards[settings.target])


def choose(settings: PipelineSettings, gflops: Callable[[str], float] | None = None) -> SizeChoice:
    """The largest input, and then the next width if there is room for it, that should reach ``target_fps``.

    Args:
        settings: target_fps, target, anchor, flops, model, and imgsz where the user fixed it.
        gflops: model YAML -> GFLOPs at 640 pixels; Ultralytics counts by default.

    Raises:
        UserError: even the smallest input is too slow by this estimate.
    """
    count, anchor, goal = gflops or count_gflops, find_anchor(settings), settings.target_fps or 0.0
    rate = count(anchor.model) * (anchor.imgsz / 640) ** 2 / anchor.ms * 1000  # GFLOP a second
    sizes = [settings.imgsz] if settings.imgsz else list(SIZES)
    best: SizeChoice | None = None
    for model in _widths(settings.model):
        fitting = []
        for imgsz in sizes:
            cost = count(_as_yaml(model)) * (imgsz / 640) ** 2 * (1 + settings.flops)
            if rate / cost >= goal:
                fitting.append(SizeChoice(model, imgsz, cost, rate / cost, anchor))
        if not fitting or (best is not None and fitting[-1].imgsz < sizes[-1]):
            break  # a wider model is worth it only when the input need not shrink for it
        best = fitting[-1]
    if best is None:
        cost = count(_as_yaml(settings.model)) * (sizes[0] / 640) ** 2 * (1 + settings.flops)
        raise UserError(
            f"target_fps={goal:g} is out of reach of {settings.model} on target={settings.target}: at {sizes[0]} px "
            f"the estimate is {rate / cost:.0f} FPS; ask for less, or prune more (flops=-0.6)"
        )
    return best


@cache
def count_gflops(model: str) -> float:
    """GFLOPs of an Ultralytics model YAML at 640 pixels, as its own counter has them.

    Raises:
        UserError: no such model, or the counter's package is missing.
    """
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import get_flops

    from yolo_musgd.host import quiet_host

    try:
        with quiet_host():
            found = float(get_flops(YOLO(model, task="detect").model, 640))
    except Exception as error:  # no such file, or a YAML that is none
        raise UserError(f"the FLOPs of {model} cannot be counted: {error}") from error
    if not found:
        raise UserError("the FLOPs cannot be counted: pip install ultralytics-thop")
    return found


def _as_yaml(model: str) -> str:
    """``yolo26n.pt`` -> ``yolo26n.yaml``: equal FLOPs, and nothing to download; a file that is here stays."""
    there = "/" in model or Path(model).is_file()
    return model[:-3] + ".yaml" if model.endswith(".pt") and not there else model


def _widths(model: str) -> list[str]:
    """The model and its wider sisters, for names such as ``yolo26n.pt``; a model of one's own stays alone."""
    stem, dot, suffix = model.rpartition(".")
    if "/" in model or not stem.startswith("yolo") or stem[-1:] not in WIDTHS:
        return [model]
    wider = [f"{stem[:-1]}{w}" for w in WIDTHS[WIDTHS.index(stem[-1]) + 1 :]]
    return [model, *(f"{name}{dot}{suffix}" for name in wider if resources.host_describes(f"{name}.yaml"))]
