"""The estimate behind target_fps: an oracle of plain arithmetic, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.pipeline.choose import SIZES, choose, count_gflops, find_anchor
from yolo_musgd.pipeline.settings import PipelineSettings

GFLOPS = {"yolo26n.yaml": 6.0, "yolo26s.yaml": 22.0, "yolo26m.yaml": 75.0, "yolo26l.yaml": 93.0, "yolo26x.yaml": 200.0}


def ask(**arguments):
    return PipelineSettings(data="d.yaml", **{"target": "raspberry-pi-5", "flops": 0.0, **arguments})


def fps(model, imgsz, anchor_ms, cut=0.0):
    return 1000 / anchor_ms * GFLOPS["yolo26n.yaml"] / (GFLOPS[model] * (1 + cut)) * (640 / imgsz) ** 2


@given(goal=st.floats(1, 200), ms=st.floats(5, 500), cut=st.sampled_from([0.0, -0.4, -0.8]))
@settings(max_examples=200, deadline=None)
def test_it_meets_the_goal_and_nothing_larger_does(goal, ms, cut):
    request = ask(target_fps=goal, anchor=f"[yolo26n.yaml,640,{ms!r}]", flops=cut)
    if fps("yolo26n.yaml", SIZES[0], ms, cut) < goal * (1 - 1e-9):
        with pytest.raises(UserError, match="out of reach"):
            choose(request, GFLOPS.__getitem__)
        return
    found = choose(request, GFLOPS.__getitem__)
    model = found.model.replace(".pt", ".yaml")
    assert found.estimated_fps >= goal
    assert found.estimated_fps == pytest.approx(fps(model, found.imgsz, ms, cut))
    if found.imgsz < SIZES[-1]:
        assert fps(model, found.imgsz + 32, ms, cut) < goal * (1 + 1e-9)


def test_the_width_grows_only_when_the_input_is_at_its_largest():
    slow = choose(ask(target_fps=30, anchor="[yolo26n.pt,640,67]"), GFLOPS.__getitem__)
    assert (slow.model, slow.imgsz) == ("yolo26n.pt", 448)
    fast = choose(ask(target_fps=30, anchor="[yolo26n.pt,640,5]"), GFLOPS.__getitem__)
    assert (fast.model, fast.imgsz) == ("yolo26s.pt", 640)


def test_a_fixed_size_is_kept():
    found = choose(ask(target_fps=10, imgsz=320, anchor="[yolo26n.yaml,640,67]"), GFLOPS.__getitem__)
    assert found.imgsz == 320


def test_a_published_figure_says_so():
    anchor = find_anchor(ask(target_fps=30))
    assert (anchor.model, anchor.imgsz, anchor.ms) == ("yolo26n.yaml", 640, 67)
    assert "published" in anchor.how


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "x86"}, "needs a speed to scale from: add anchor="),
        ({"anchor": "yolo26n.yaml"}, r"anchor must be \[model,imgsz,milliseconds\]"),
        ({"anchor": "[yolo26n.yaml,640,nan]"}, "anchor must be"),
        ({"anchor": "[yolo26n.yaml,640,-3]"}, "anchor must be"),
    ],
)
def test_bad_anchors(arguments, message):
    with pytest.raises(UserError, match=message):
        choose(ask(target_fps=30, **arguments), GFLOPS.__getitem__)


def test_the_host_counts_flops():
    assert count_gflops("yolo26s.yaml") > 2.5 * count_gflops("yolo26n.yaml") > 10
    with pytest.raises(UserError, match="cannot be counted"):
        count_gflops("no-such-model.yaml")


def test_a_model_of_ones_own_stays_as_it_is(tmp_path, monkeypatch):
    """Its name may end as if it had wider sisters, and YOLOv9 has no size l."""
    monkeypatch.chdir(tmp_path)
    Path("yolo-birds.pt").touch()
    counted = []
    slow, fast = 500.0, 0.1
    for anchor in (slow, fast):
        request = ask(model="yolo-birds.pt", target_fps=1, anchor=f"[yolo26n.yaml,640,{anchor}]")
        assert choose(request, lambda name: counted.append(name) or 6.0).model == "yolo-birds.pt"
    assert set(counted) == {"yolo26n.yaml", "yolo-birds.pt"}
    request = ask(model="yolov9s.pt", target_fps=1, anchor="[yolo26n.yaml,640,0.1]")
    assert choose(request, {**GFLOPS, "yolov9s.yaml": 27.0, "yolov9m.yaml": 77.0}.__getitem__).model == "yolov9m.pt"
