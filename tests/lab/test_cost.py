"""The cost that is told before a comparison begins."""

import pytest

from yolo_musgd.lab import identify
from yolo_musgd.lab.arms import arms
from yolo_musgd.lab.comparison import overview
from yolo_musgd.lab.cost import CORE_SECONDS_PER_MEGAPIXEL, core_hours, megapixels


@pytest.fixture
def counted(monkeypatch):
    counts = {"a.yaml": {"train": 100, "val": 30}, "b.yaml": {"train": 10, "val": 0}}
    monkeypatch.setattr(identify, "image_counts", lambda file: counts[file])


def test_the_cost_of_runs_that_nobody_has_done_yet(make, counted, bench):
    plan = make.arms(data=["a.yaml", "b.yaml"], train={"imgsz": 1000}, seeds=2, epochs=5)
    assert megapixels(plan[0], {"train": 100, "val": 30}) == pytest.approx(110)
    hours, basis = core_hours(plan, bench.store())
    assert hours == pytest.approx(2 * 2 * 5 * (110 + 10) * CORE_SECONDS_PER_MEGAPIXEL / 3600)
    assert "yolo26n" in basis


def test_finished_runs_say_what_a_pixel_costs_and_are_not_done_again(make, counted, bench):
    plan = make.arms(data="a.yaml", train={"imgsz": 1000}, seeds=2, epochs=5)
    bench.add(plan[0], 0, [0.1] * 5, cpu_seconds=5 * 110 * 3.0)
    hours, basis = core_hours(plan, bench.store())
    assert hours == pytest.approx(3 * 5 * 110 * 3.0 / 3600)
    assert basis == "from the finished runs"
    assert (
        overview(plan, bench.store()).splitlines()[-1]
        == "15 epochs to train, about 1.4 core hours (from the finished runs)"
    )


def test_a_start_may_be_tried_on_some_of_the_data_sets(make, monkeypatch):
    protocol = make.protocol(
        data=["a.yaml", "b.yaml"], starts=["m.pt", {"label": "s", "model": "n.yaml", "data": ["b"]}]
    )
    for name in ("data_id", "model_id"):
        monkeypatch.setattr(identify, name, lambda file: "x")
    found = {(a.data.label, a.start.label) for a in arms(protocol)}
    assert found == {("a", "m pretrained"), ("b", "m pretrained"), ("b", "s")}
