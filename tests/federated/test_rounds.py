"""The server's rounds, with clients in this process whose training is a sum: every bit is known beforehand.

Covers client.py and history.py.
"""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("flwr", reason="the extra federated is not installed")

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated import client, judge, local, rounds
from yolo_musgd.federated.arrays import float_names, read_arrays, take
from yolo_musgd.federated.client import Home, client_app
from yolo_musgd.federated.federation_report import write_report
from yolo_musgd.federated.history import Progress
from yolo_musgd.federated.local import Trained
from yolo_musgd.federated.settings import FederateSettings

CLASSES = {0: "a", 1: "b"}


class Tiny(nn.Module):
    """Three layers with the names and the YAML of a YOLO."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [
            nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 2, 1),
        ]
        self.model = nn.Sequential(*layers)
        self.yaml = {"backbone": [0], "head": [1, 2]}


class Grid:
    """Flower's grid, answered at once by apps in this process."""

    def __init__(self, homes):
        self.apps = {node: client_app(lambda _, home=home: home) for node, home in enumerate(homes, 1)}
        self.silent, self.replies, self.sent = set(), {}, []

    def get_node_ids(self):
        return list(self.apps)

    def push_messages(self, messages):
        names = []
        for message in messages:
            name = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            self.sent.append(message)
            names.append(name)
            node = message.metadata.dst_node_id
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            if (message.metadata.message_type, node) not in self.silent:
                reply = self.apps[node](message, context)
                reply.metadata.__dict__["_src_node_id"] = node
                self.replies[name] = reply
        return names

    def pull_messages(self, names):
        return [self.replies.pop(name) for name in names if name in self.replies]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Training adds what the client's number and the round say; judging measures the first weight."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)

    def train(work, arrays, kept=None):
        number = int(work.data.rpartition("-")[2])
        full = {**take(Tiny(), float_names(Tiny())), **arrays}
        random = np.random.default_rng([number, work.start])
        moved = {k: v + 0.01 * random.standard_normal(v.shape).astype(np.float32) for k, v in full.items()}
        return Trained(moved, number, float(number), {"kept": torch.tensor(float(work.start))})

    def judged(model, data, arguments, folder):
        return {key: float(next(model.parameters()).detach().abs().sum()) for key in judge.METRICS}

    monkeypatch.setattr(local, "train", train)
    monkeypatch.setattr(rounds, "judge", judged)
    monkeypatch.setattr(rounds, "save_checkpoint", lambda file, *_: file.parent.mkdir(exist_ok=True))
    monkeypatch.setattr(client, "describe", lambda home, content: RecordDict({"config": ConfigRecord(facts(home))}))


def facts(home, **changes):
    import ultralytics

    from yolo_musgd import __version__

    given = {"name": home.name, "images": 3, "classes": json.dumps(CLASSES), "yolo-musgd": __version__}
    return {**given, "ultralytics": ultralytics.__version__, **changes}


def homes(folder, count):
    return [
        Home(f"client {n}", folder / f"data-{n}", folder / str(n), "yolo26n.yaml", {}, folder / "data-9")
        for n in range(1, count + 1)
    ]


def plan(folder, count=2, **settings):
    chosen = FederateSettings(clients=count, **settings)
    folder.mkdir(exist_ok=True)
    model = Tiny()
    Progress(folder).begin(take(model, float_names(model)))
    return rounds.ServerPlan(
        chosen, {"optimizer": "SGD", "batch": 8}, model, False, False, CLASSES, count, "val.yaml", folder, poll=0.001
    )


def federate(folder, count=2, grid=None, **settings):
    grid = grid or Grid(homes(folder, count))
    rounds.Federation(grid, plan(folder, count, **settings)).run()
    return grid


def model_of(folder):
    return {k.removeprefix("model/"): v for k, v in read_arrays(folder / "state.npz").items() if k.startswith("model/")}


def table(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def by_hand(rounds, clients, compressed=lambda difference, _: difference):
    """What the rounds come to, in a loop of sums: each client moves, the mean weighted by images is the next start."""
    where = take(Tiny(), float_names(Tiny()))
    for number in range(rounds):
        total = {k: np.zeros_like(v) for k, v in where.items()}
        for c in range(1, clients + 1):
            random = np.random.default_rng([c, number])
            for k, v in where.items():
                total[k] += (v + 0.01 * random.standard_normal(v.shape).astype(np.float32)) * np.float32(c)
        where = {k: v / np.float32(clients * (clients + 1) / 2) for k, v in total.items()}
    return where


def test_rounds_are_weighted_means_one_after_the_other(tmp_path):
    federate(tmp_path, 3, rounds=4)
    for name, value in by_hand(4, 3).items():
        np.testing.assert_allclose(model_of(tmp_path)[name], value, atol=1e-6)
    rows = table(tmp_path)
    assert [(r["round"], r["clients"], r["left_out"]) for r in rows] == [(str(n), "3", "") for n in (1, 2, 3, 4)]
    assert float(rows[0]["train/loss"]) == pytest.approx((1 + 4 + 9) / 6, rel=1e-4)


def test_seeds_and_schedule_differ_by_round_and_client(tmp_path):
    grid = federate(tmp_path, 2, rounds=3, local_epochs=2)
    asked = [dict(m.content["config"]) for m in grid.sent if m.metadata.message_type == "train"]
    assert [(c["start"], c["epochs"], c["total"]) for c in asked] == [(0, 2, 6)] * 2 + [(2, 2, 6)] * 2 + [(4, 2, 6)] * 2
    assert [c["seed"] for c in asked] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "settings",
    [{}, {"strategy": "fedadam"}, {"strategy": "fedmuon", "server_momentum": 0.5}, {"share": "backbone"}],
)
def test_a_federation_that_was_stopped_goes_on_to_the_same_bits(tmp_path, settings):
    federate(tmp_path / "whole", rounds=4, **settings)
    first = plan(tmp_path / "parts", rounds=4, **settings)
    started = rounds.Federation(Grid(homes(tmp_path / "parts", 2)), first)
    started._meet(2)
    started._round(1)
    started._round(2)
    federate(tmp_path / "parts", rounds=4, **settings)
    assert [r["round"] for r in table(tmp_path / "parts")] == ["1", "2", "3", "4"]
    for name, value in model_of(tmp_path / "whole").items():
        np.testing.assert_array_equal(model_of(tmp_path / "parts")[name], value)


def test_the_checkpoint_of_a_round_that_was_interrupted_is_written_by_the_next_command(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("no space left on device")

    first = plan(tmp_path, rounds=1)
    monkeypatch.setattr(rounds, "save_checkpoint", full)
    with pytest.raises(UserError, match="no space left"):
        rounds.Federation(Grid(homes(tmp_path, 2)), first).run()
    saved = []
    monkeypatch.setattr(rounds, "save_checkpoint", lambda file, *_: saved.append(file.name))
    federate(tmp_path, rounds=1)
    assert saved == ["last.pt", "best.pt"]


def test_compression_goes_both_ways_and_loses_little(tmp_path):
    """Half precision everywhere: the clients' models and the server's stay together to float16's rounding."""
    grid = federate(tmp_path, 2, rounds=5, compress="half")
    for name, value in by_hand(5, 2).items():
        np.testing.assert_allclose(model_of(tmp_path)[name], value, atol=2e-4)
    bases = [m.content["config"]["base"] for m in grid.sent if m.metadata.message_type == "train"]
    assert bases == [-1, -1, 1, 1, 2, 2, 3, 3, 4, 4]
    first, later = table(tmp_path)[0], table(tmp_path)[3]
    assert int(later["bytes_down"]) < 0.55 * int(first["bytes_down"])
    assert int(first["bytes_up"]) == int(later["bytes_up"]) < 0.55 * int(first["bytes_down"])


def test_top_k_sends_a_tenth_and_catches_up(tmp_path):
    """The error that is carried over keeps the model near the one of full messages; without it the rest is lost."""
    federate(tmp_path / "full", 2, rounds=12)
    federate(tmp_path / "top", 2, rounds=12, compress="topk:0.2")
    full, top, begin = model_of(tmp_path / "full"), model_of(tmp_path / "top"), take(Tiny(), float_names(Tiny()))
    name = "model.1.weight"
    way = np.linalg.norm(full[name] - begin[name])
    assert np.linalg.norm(full[name] - top[name]) < 0.75 * way


def test_parts_that_stay_at_home_are_kept_and_judged_by_each_client(tmp_path, monkeypatch):
    def evaluate(home, content):
        assert "private/model.2.weight" in home.state(int(content["config"]["round"]) + 1)
        number = int(home.name[-1])
        return RecordDict(
            {"metrics": MetricRecord({"num-examples": number, **dict.fromkeys(judge.METRICS, number / 10)})}
        )

    monkeypatch.setattr(client, "evaluate", evaluate)
    federate(tmp_path, 2, rounds=2, share="backbone")
    assert all(name.startswith("model.0.") for name in model_of(tmp_path))
    kept = [read_arrays(tmp_path / c / "state-2.npz")["private/model.2.weight"] for c in "12"]
    assert (kept[0] != kept[1]).any()
    assert [float(row[judge.MAIN]) for row in table(tmp_path)] == pytest.approx([(0.1 + 2 * 0.2) / 3] * 2, rel=1e-4)


def test_clients_that_cannot_take_part_are_named_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    wrong = {
        "client 2": {"classes": json.dumps({0: "a", 1: "c"})}, "client 3": {"yolo-musgd": "0.0.1"},
        "client 4": {"images": 0}, "client 5": {"classes": "[["},
    }  # fmt: skip
    tell = lambda home, content: RecordDict({"config": ConfigRecord(facts(home, **wrong.get(home.name, {})))})  # noqa: E731
    monkeypatch.setattr(client, "describe", tell)
    said = []
    monkeypatch.setattr(rounds.LOGGER, "warning", said.append)
    federate(tmp_path, 5, rounds=1)
    assert [r["clients"] for r in table(tmp_path)] == ["1"]
    text = "\n".join(said)
    for part in (
        "client 2 cannot take part: its classes are ['a', 'c'], the server's ['a', 'b']",
        "client 3 cannot take part: it has yolo-musgd 0.0.1, the server",
        "client 4 cannot take part: it has no images",
        "client 5 cannot take part: it is no client of this kind",
    ):
        assert part in text


def test_a_client_that_does_not_answer_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "GRACE", 0.2)
    grid = Grid(homes(tmp_path, 2))
    grid.silent.add(("train", 2))
    federate(tmp_path, 2, grid=grid, rounds=1, timeout=1.0)
    assert [(r["clients"], r["left_out"]) for r in table(tmp_path)] == [("1", "client 2")]
    assert Progress(tmp_path).left_out[0]["why"] == "no answer within 1 s"


class Superlink(Grid):
    """Flower's server: it answers in its own name, node 1, for a node of which it has heard nothing for a while."""

    def push_messages(self, messages):
        names = super().push_messages(messages)
        for name, message in zip(names, messages, strict=True):
            if (message.metadata.message_type, message.metadata.dst_node_id) in self.silent:
                reply = Message(Error(5, "Node Unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
                self.replies[name] = reply
        return names


def test_a_client_for_which_flower_answers_is_the_one_that_is_named(tmp_path):
    grid = Superlink(homes(tmp_path, 2))
    grid.silent.add(("train", 2))
    federate(tmp_path, 2, grid=grid, rounds=1)
    assert [(r["clients"], r["left_out"]) for r in table(tmp_path)] == [("1", "client 2")]
    assert Progress(tmp_path).left_out[0]["why"] == "Node Unavailable"


def test_a_round_without_any_answer_ends_it_and_the_next_command_goes_on(tmp_path, monkeypatch):
    works = local.train

    def fails(work, arrays, kept=None):
        if work.start == 1:
            raise RuntimeError("CUDA is out of memory")
        return works(work, arrays, kept)

    monkeypatch.setattr(local, "train", fails)
    with pytest.raises(
        UserError, match="round 2: no client answered, RuntimeError: CUDA is out of memory; the same command"
    ):
        federate(tmp_path, 2, rounds=3)
    monkeypatch.setattr(local, "train", works)
    federate(tmp_path, 2, rounds=3)
    for name, value in by_hand(3, 2).items():
        np.testing.assert_allclose(model_of(tmp_path)[name], value, atol=1e-6)


def test_a_client_whose_process_died_says_so_and_does_not_try_again(tmp_path):
    home = homes(tmp_path, 1)[0]
    home.folder.mkdir()
    (home.folder / "training-1").touch()
    with (
        pytest.raises(UserError, match="its process ended while it trained"),
        client._attempt(home.folder / "training-1"),
    ):
        pytest.fail("tried again")
    with client._attempt(home.folder / "training-1"):
        assert (home.folder / "training-1").exists()
    assert not (home.folder / "training-1").exists()


def test_the_optimizers_state_stays_with_the_client_unless_told(tmp_path, monkeypatch):
    seen, works = [], local.train

    def train(work, arrays, kept=None):
        seen.append(None if kept is None else float(kept["kept"]))
        return works(work, arrays, kept)

    monkeypatch.setattr(local, "train", train)
    federate(tmp_path / "keep", 1, rounds=3)
    federate(tmp_path / "restart", 1, rounds=2, optimizer_state="restart")
    assert seen == [None, 0.0, 1.0, None, None]


@pytest.mark.parametrize(
    ("asked", "images", "batch", "nbs"),
    [
        ({}, 51, 2, 2), ({}, 100, 4, 4), ({}, 5, 2, 2), ({}, 5000, 16, 16), ({"batch": 8}, 51, 8, 8),
        ({"batch": 4, "nbs": 16}, 51, 4, 16),
        ({"nbs": 64}, 24, 2, 64), ({"batch": -1}, 51, -1, None), ({"batch": 0.7}, 51, 0.7, None),
    ],
)  # fmt: skip
def test_a_client_makes_two_dozen_steps_unless_told(asked, images, batch, nbs):
    got = client.with_batch({"lr0": 0.1, **asked}, images)
    assert (got["batch"], got.get("nbs"), got["lr0"]) == (batch, nbs, 0.1)


def test_a_server_names_no_file_of_a_client():
    home = SimpleNamespace(own={})
    asked = {
        "data": "/etc/passwd",
        "project": "/",
        "name": "x",
        "model": "evil.pt",
        "device": "0",
        "pretrained": "x",
        "lr0": 0.1,
    }
    assert client._own_arguments(asked, home) == {"lr0": 0.1}
    assert client._own_arguments(asked, SimpleNamespace(own={"device": "cpu"})) == {"lr0": 0.1, "device": "cpu"}


def test_the_baselines_are_trained_once(tmp_path):
    grid = federate(tmp_path, 2, rounds=2, baselines="all")
    again = federate(tmp_path, 2, rounds=2, baselines="all")
    asked = [
        dict(m.content["config"])
        for m in grid.sent
        if m.metadata.message_type == "train" and m.content["config"]["round"] == 0
    ]
    assert [(c["central"], c["epochs"], c["start"]) for c in asked] == [(True, 2, 0), (False, 2, 0), (False, 2, 0)]
    assert Progress(tmp_path).baselines.keys() == {"central", "client 1 alone", "client 2 alone"}
    assert not [m for m in again.sent if m.metadata.message_type == "train"]


def test_baselines_of_fewer_rounds_are_trained_again(tmp_path):
    federate(tmp_path, 2, rounds=2, baselines="central")
    again = federate(tmp_path, 2, rounds=3, baselines="central")
    asked = [dict(m.content["config"]) for m in again.sent if m.metadata.message_type == "train"]
    assert [c["epochs"] for c in asked if c["central"]] == [3]
    assert Progress(tmp_path).baselines["central"]["epochs"] == 3


def test_a_client_whose_weights_are_not_finite_is_left_out_of_that_round_only(tmp_path, monkeypatch):
    """Neither is infinity clipped to what float16 holds, nor is what was not sent kept for the next round."""
    whole = local.train

    def train(work, arrays, kept=None):
        done = whole(work, arrays, kept)
        if work.start == 1 and work.data.endswith("-1"):
            done.arrays["model.0.0.weight"][0, 0, 0, 0] = np.inf
        return done

    monkeypatch.setattr(local, "train", train)
    for compress in ("half", "bits:2", "topk:0.1"):
        federate(tmp_path / compress, 2, rounds=3, compress=compress)
        assert [row["left_out"] for row in table(tmp_path / compress)] == ["", "client 1", ""]


def test_single_cls_takes_clients_of_any_classes(tmp_path):
    asked = plan(tmp_path, 2, rounds=1)
    asked.arguments["single_cls"] = True
    asked.classes = {0: "item"}
    rounds.Federation(Grid(homes(tmp_path, 2)), asked).run()
    assert table(tmp_path)[0]["clients"] == "2"


def test_a_round_that_nobody_could_judge_is_neither_best_nor_a_number(tmp_path, monkeypatch):
    values = iter([0.5, float("nan"), 0.4])
    monkeypatch.setattr(rounds, "judge", lambda *_: dict.fromkeys(judge.METRICS, next(values)))
    written = []
    monkeypatch.setattr(rounds, "save_checkpoint", lambda file, *_: written.append(file.name))
    federate(tmp_path, 2, rounds=3)
    assert written == ["last.pt", "best.pt", "last.pt", "last.pt"]
    _, figures = write_report(tmp_path, FederateSettings(), {})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse) == figures
    assert [row[judge.MAIN] for row in figures["rounds"]] == [0.5, None, 0.4]
    assert "0.5000 at best (round 1)" in (tmp_path / "report.md").read_text()


def test_the_first_round_is_no_best_when_nobody_could_judge_it(tmp_path, monkeypatch):
    values = iter([float("nan"), 0.4])
    monkeypatch.setattr(rounds, "judge", lambda *_: dict.fromkeys(judge.METRICS, next(values)))
    federate(tmp_path, 2, rounds=2)
    write_report(tmp_path, FederateSettings(), {})
    assert "0.4000 at best (round 2)" in (tmp_path / "report.md").read_text()


def test_the_report_brings_a_table_that_an_interruption_left_out(tmp_path):
    federate(tmp_path, 2, rounds=2)
    before = table(tmp_path)
    (tmp_path / "results.csv").unlink()
    write_report(tmp_path, FederateSettings(), {})
    assert table(tmp_path) == before


def test_clients_have_their_turns_to_say_who_they_are(tmp_path, monkeypatch):
    asked = plan(tmp_path, 2, rounds=1)
    asked.waves = 3
    federation, waited = rounds.Federation(Grid(homes(tmp_path, 2)), asked), []
    monkeypatch.setattr(federation, "_exchange", lambda messages, timeout: waited.append(timeout) or ([], []))
    federation._meet(2)
    assert waited == [3 * rounds.PATIENCE]


def test_a_message_lives_as_long_as_its_answer_is_waited_for(tmp_path):
    grid = Grid(homes(tmp_path, 2))
    rounds.Federation(grid, plan(tmp_path, 2, rounds=2, timeout=50000.0, baselines="central")).run()
    lives = {(m.metadata.message_type, m.content["config"].get("round")): m.metadata.ttl for m in grid.sent}
    assert lives["train", 1] >= 50000
    assert lives["train", 0] >= 2 * 50000


def test_messages_hold_no_more_than_arrays_numbers_and_json(tmp_path):
    grid = federate(tmp_path, 1, rounds=1)
    for message in grid.sent:
        assert isinstance(message, Message)
        for value in message.content["config"].values():
            assert isinstance(value, (bool, int, float, str))
