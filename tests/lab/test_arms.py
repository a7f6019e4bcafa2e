"""What comes next follows from what is finished: nothing is forgotten, nothing is done twice."""

import random

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.analysis import analyse
from yolo_musgd.lab.arms import _check_values
from yolo_musgd.lab.store import Store


def drain(arms, bench, curve_of, rng):
    """Do runs in random order until none is left; returns the specs in the order in which they were done."""
    done = []
    while True:
        store = bench.store()
        ready = [(a, s) for a in arms for s in a.next_runs(store.find, lambda s: False)]
        if not ready:
            return done
        arm, spec = rng.choice(ready)
        assert spec.key not in {s.key for s in done}
        done.append(spec)
        bench.write(spec, curve_of(arm, spec))


@pytest.mark.parametrize("seed", range(3))
def test_tuning_comes_first_and_its_best_is_evaluated(bench, make, seed):
    arms = make.arms(tune={"lr0": [0.01, 0.02, 0.04], "seed": 7, "epochs": 2})
    best = {"SGD": 0.04, "MuSGD": 0.01}

    def curve(arm, spec):
        return [0.5 if spec.args["lr0"] == best[arm.contender.label] else 0.3] * spec.epochs

    done = drain(arms, bench, curve, random.Random(seed))
    assert len(done) == sum(a.total_runs() for a in arms) == 2 * (3 + 2)
    assert sum(s.epochs for s in done) == sum(a.total_epochs() for a in arms)
    evaluated = {(s.args["optimizer"], s.args["seed"], s.args["lr0"]) for s in done if s.args["seed"] != 7}
    assert evaluated == {("SGD", 0, 0.04), ("SGD", 1, 0.04), ("MuSGD", 0, 0.01), ("MuSGD", 1, 0.01)}


def test_the_baseline_and_others_share_what_is_equal(make):
    arms = make.arms(
        train={"imgsz": 64}, data=[{"label": "a", "data": "a.yaml", "train": {"imgsz": 96}}, "b.yaml"],
        starts=[{"label": "s", "model": "m.yaml", "train": {"batch": 4}}],
    )  # fmt: skip
    sgd_a, musgd_a, sgd_b, _ = arms
    assert sgd_a.spec({}, 0).args["imgsz"] == 96
    assert sgd_b.spec({}, 0).args["imgsz"] == 64
    assert sgd_a.spec({}, 0).args["batch"] == 4
    one, other = (dict(a.spec({}, 0).args) for a in (sgd_a, musgd_a))
    assert one.pop("optimizer") != other.pop("optimizer")
    assert one == other
    assert one["patience"] == 0


def test_files_beside_the_protocol_are_found_from_a_runs_own_folder(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.pt").touch()
    (arm, *_) = make.arms(train={"pretrained": "first.pt"})
    assert arm.spec({}, 0).args["pretrained"] == str(tmp_path / "first.pt")
    (arm, *_) = make.arms(train={"pretrained": False})
    assert arm.spec({}, 0).args["pretrained"] is False


def test_a_grid_is_run_for_every_seed(make):
    (arm,) = make.arms(optimizers=[{"optimizer": "MuSGD", "grid": {"lr0": [0.1, 0.2], "adapt_factor": [0.0, 0.1]}}])
    specs = arm.next_runs(lambda s: None, lambda s: False)
    assert {(s.args["lr0"], s.args["adapt_factor"], s.args["seed"]) for s in specs} == {
        (x, y, s) for x in (0.1, 0.2) for y in (0.0, 0.1) for s in (0, 1)
    }


def test_failed_runs_are_left_alone_until_the_next_call(make):
    (arm,) = make.arms(optimizers=["SGD"])
    first, second = arm.next_runs(lambda s: None, lambda s: False)
    assert [s.key for s in arm.next_runs(lambda s: None, lambda s: s.key == first.key)] == [second.key]


def test_when_every_trial_fails_nothing_is_evaluated(make):
    (arm,) = make.arms(optimizers=["SGD"], tune={"lr0": [0.1, 0.2]})
    assert len(arm.next_runs(lambda s: None, lambda s: False)) == 2
    assert arm.next_runs(lambda s: None, lambda s: True) == []


def test_runs_are_found_again_under_another_label(bench, make):
    (arm,) = make.arms(optimizers=["SGD"], seeds=[0])
    bench.add(arm, 0, [0.1] * 4)
    (renamed,) = make.arms(
        optimizers=[{"label": "plain", "optimizer": "sgd", "lr0": 0.01}], seeds=[0], baseline="plain"
    )
    assert renamed.next_runs(bench.store().find, lambda s: False) == []


GOOD, BASE = [0.1, 0.42, 0.5, 0.6], [0.1, 0.2, 0.3, 0.4]


def figures(bench, arms, failures=None):
    return analyse(arms, Store(bench.folder), "test", failures or {})


def test_known_figures(bench, make):
    sgd, musgd = arms = make.arms()
    for seed, shift in ((0, 0.0), (1, 0.02)):
        bench.add(sgd, seed, [x + shift for x in BASE], state_bytes=800, parameter_bytes=400, step_ms_p50=4.0)
        bench.add(musgd, seed, [x + shift for x in GOOD], state_bytes=400, parameter_bytes=400, step_ms_p50=2.0)
    (group,) = figures(bench, arms)["groups"]
    assert group["targets"] == pytest.approx({0: 0.4, 1: 0.42})
    base, mine = group["arms"]
    assert base["final"]["value"] == pytest.approx(0.41)
    assert mine["difference"]["value"] == pytest.approx(0.2)
    assert (mine["difference"]["low"], mine["difference"]["high"]) == pytest.approx((0.2, 0.2))
    assert mine["reach"]["seeds"] == {0: "2", 1: "2"}
    assert mine["reach"]["epochs_ratio"]["value"] == pytest.approx(2 / 4)
    assert mine["reach"]["budget_share"] == pytest.approx(2 / 4)
    assert mine["reach"]["seconds_ratio"]["value"] == pytest.approx(20 / 40)
    assert mine["reach"]["cpu_ratio"] is None  # nothing measured it
    assert [c["value"] for c in mine["curve"]] == pytest.approx([x + 0.01 for x in GOOD])
    assert (base["cost"]["state_per_parameter"], mine["cost"]["step_ms"]) == (2.0, 2.0)


def test_a_run_that_never_gets_there_is_censored_not_dropped(bench, make):
    sgd, musgd = arms = make.arms()
    for seed in (0, 1):
        bench.add(sgd, seed, BASE)
    bench.add(musgd, 0, GOOD)
    bench.add(musgd, 1, [0.1, 0.2, 0.3, 0.35])
    reach = figures(bench, arms)["groups"][0]["arms"][1]["reach"]
    assert reach["seeds"] == {0: "2", 1: ">4"}
    assert (reach["reached"], reach["of"], reach["mean_epochs"], reach["median_epochs"]) == (1, 2, 3.0, 2.0)
    assert (reach["epochs_ratio"]["value"], reach["epochs_ratio"]["bound"]) == (pytest.approx(6 / 8), ">=")


def test_a_target_of_the_protocol(bench, make):
    sgd, musgd = arms = make.arms(goal=0.3)
    bench.add(sgd, 0, BASE)
    bench.add(musgd, 0, GOOD)
    base, mine = figures(bench, arms)["groups"][0]["arms"]
    assert base["reach"]["seeds"] == {0: "3"}
    assert mine["reach"]["seeds"] == {0: "2"}


def test_divergence_is_a_result(bench, make):
    sgd, musgd = arms = make.arms(seeds=[0])
    bench.add(sgd, 0, BASE)
    bench.add(musgd, 0, [0.1, 0.3], status="diverged")
    mine = figures(bench, arms)["groups"][0]["arms"][1]
    assert mine["diverged"] == 1
    assert mine["final"]["value"] == 0
    assert mine["difference"]["value"] == pytest.approx(-0.4)
    assert mine["reach"]["seeds"] == {0: ">4"}, "it had its whole budget and did not get there"


def test_missing_seeds_are_counted_and_not_paired(bench, make):
    sgd, musgd = arms = make.arms()
    bench.add(sgd, 0, BASE)
    bench.add(sgd, 1, BASE)
    bench.add(musgd, 1, GOOD)
    mine = figures(bench, arms)["groups"][0]["arms"][1]
    assert (mine["missing"], mine["seeds"], list(mine["difference"]["seeds"])) == (1, [1], [1])
    assert mine["final"]["low"] is None


def test_the_share_of_a_grid_near_the_best(bench, make):
    sgd, musgd = arms = make.arms(
        seeds=[0], optimizers=[{"optimizer": "SGD", "grid": {"lr0": [0.1, 0.2]}},
                               {"optimizer": "MuSGD", "grid": {"lr0": [0.1, 0.2], "adapt_factor": [0.0, 0.1]}}],
    )  # fmt: skip
    for point, final in zip(sgd.points(), (0.30, 0.10), strict=True):
        bench.add(sgd, 0, [0.0, final], point)
    for point, final in zip(musgd.points(), (0.50, 0.46, 0.10, 0.44), strict=True):
        bench.add(musgd, 0, [0.0, final], point)
    one, two = figures(bench, arms)["groups"][0]["maps"]
    assert (one["near_own_best"], one["near_overall_best"]) == (0.5, 0.0)
    assert (two["near_own_best"], two["near_overall_best"], two["best"]) == (0.5, 0.5, 0.5)


def test_unequal_conditions_are_named(bench, make):
    sgd, _ = arms = make.arms()
    bench.add(sgd, 0, BASE, machine={"threads": 1, "board": "a"})
    bench.add(sgd, 1, BASE, machine={"threads": 4, "board": "a"})
    assert figures(bench, arms)["conditions"]["warnings"] == ["threads differs between runs: 1, 4"]


def test_a_range_of_a_setting_of_whole_numbers_is_refused_before_the_first_run(make):
    """Its ends are whole, and what lies between them is not."""
    (arm,) = make.arms(optimizers=["MuSGD"], tune={"muon_steps": {"low": 3, "high": 7}})
    with pytest.raises(UserError, match="MuSGD: muon_steps must be in"):
        _check_values(arm)
