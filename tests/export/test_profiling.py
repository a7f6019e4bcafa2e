"""Where the time goes, as the runtimes' profilers say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.export import profiling


@pytest.mark.parametrize("runtime", list(profiling.PROFILERS))
def test_most_of_a_detectors_time_is_in_convolutions(runtime: str, graphs: dict[str, Path]) -> None:
    pytest.importorskip(runtime, reason="not installed")
    blob = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    kinds = profiling.PROFILERS[runtime](open_artifact(str(graphs["raw"])), blob, 1)
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert all(ms >= 0 for ms in kinds.values())
    convolutions = sum(ms for kind, ms in kinds.items() if "conv" in kind.lower())
    assert convolutions > 0.25 * sum(kinds.values())


def test_the_table_adds_up_and_small_kinds_stand_together(tmp_path: Path) -> None:
    profiles = {"a": {"Conv": 8.0, "Mul": 1.9, "Add": 0.06, "Sub": 0.04}, "b": {"QLinearConv": 4.0, "Add": 0.02}}
    lines = profiling.to_markdown(profiles)[4].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["Conv", "8.00", ""],
        ["QLinearConv", "", "4.00"],
        ["Mul", "1.90", ""],
        ["others", "0.10", "0.02"],
        ["**all**", "**10.00**", "**4.02**"],
    ]
    profiling.draw(profiles, tmp_path / "profile.png")
    assert (tmp_path / "profile.png").stat().st_size > 5_000
