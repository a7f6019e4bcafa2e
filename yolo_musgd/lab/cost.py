"""What a comparison will cost in core hours, told before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from yolo_musgd.lab import identify
from yolo_musgd.lab.arms import Arm, none_failed
from yolo_musgd.lab.store import Store

CORE_SECONDS_PER_MEGAPIXEL = 1.4
"""Of yolo26n on one core of a present x86 server (measured: 135 to 150 s for 12 epochs of BCCD at 192 px), for want of
finished runs. Other models take more, a GPU less."""
_VALIDATION = 1 / 3  # of a training image: forward without backward


def megapixels(arm: Arm, counts: Mapping[str, int]) -> float:
    """Pixels that one epoch of an arm works through, a validated image counted as a third of a trained one.

    Args:
        arm: of the protocol.
        counts: split -> images.
    """
    side = arm.spec({}, 0).resolved["imgsz"]
    height, width = (side, side) if isinstance(side, (int, float)) else (side[0], side[-1])
    return (counts["train"] + _VALIDATION * counts["val"]) * height * width / 1e6


def core_hours(plan: Sequence[Arm], store: Store) -> tuple[float, str]:
    """CPU time that the missing runs will take, and what the estimate rests on.

    Args:
        plan: the arms of the protocol.
        store: the finished runs; those of the same start say what a pixel costs.
    """
    work = {id(a): megapixels(a, identify.image_counts(identify.locate(a.data.data))) for a in plan}
    seen: dict[str, list[float]] = {}
    missing: dict[str, float] = {}
    for arm in plan:
        finished = arm.finished(store.find, none_failed)
        for spec in finished:
            record = store.find(spec)
            if record is not None and record.facts.get("cpu_seconds"):
                pace = record.facts["cpu_seconds"] / (spec.epochs * work[id(arm)])
                seen.setdefault(arm.start.label, []).append(pace)
        epochs = arm.total_epochs() - sum(s.epochs for s in finished)
        missing[arm.start.label] = missing.get(arm.start.label, 0.0) + epochs * work[id(arm)]
    everything = [pace for paces in seen.values() for pace in paces]
    usual = float(np.median(everything)) if everything else CORE_SECONDS_PER_MEGAPIXEL
    seconds = sum(pixels * float(np.median(seen.get(start) or [usual])) for start, pixels in missing.items())
    return seconds / 3600, "from the finished runs" if everything else "at the pace of yolo26n on an x86 core"
