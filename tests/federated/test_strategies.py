"""What the server makes of the replies, against naive loops; and which replies it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from yolo_musgd.federated.client import record
from yolo_musgd.federated.compression import Compression
from yolo_musgd.federated.strategies import FIGURES, Receiver, build, turned

START = {
    "w": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": np.ones(4, np.float32),
    "bn.running_var": np.full(4, 2.0, np.float32),
}
PARAMETERS = ("w", "b")


@pytest.fixture(autouse=True)
def a_run(monkeypatch):
    """Flower's messages carry who sends them."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)


class Nodes:
    """A grid with nodes that are asked for by number alone."""

    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return list(range(1, self.count + 1))


def reply(node, arrays, images=1, packed=False, **more):
    question = Message(RecordDict(), node, "train")
    question.metadata.__dict__["_message_id"] = f"q{node}"
    metrics = MetricRecord({**dict.fromkeys(FIGURES, 1.0), "num-examples": images, **more})
    packed = arrays if packed else Compression().encode(arrays)
    return Message(RecordDict({"arrays": record(packed), "metrics": metrics}), reply_to=question)


def error(node, reason):
    question = Message(RecordDict(), node, "train")
    question.metadata.__dict__["_message_id"] = f"q{node}"
    return Message(Error(1, reason), reply_to=question)


def models(count, seed=0, scale=0.1):
    random = np.random.default_rng(seed)
    return [{k: v + scale * random.random(v.shape).astype(np.float32) for k, v in START.items()} for _ in range(count)]


def strategy(name="fedavg", compress="none", **settings):
    receiver = Receiver(Compression.parse(compress), lambda node: f"client {node}")
    made = build(name, receiver, PARAMETERS, **settings)
    receiver.expect(START)
    list(made.configure_train(1, record(START), ConfigRecord({}), Nodes(3)))
    return made


def averaged(made, replies, number=1):
    arrays, metrics = made.aggregate_train(number, replies)
    return None if arrays is None else {k: a.numpy() for k, a in arrays.items()}, metrics


def mean_of(found, images):
    """The weighted mean, a loop at a time."""
    result = {}
    for name in START:
        total = np.zeros_like(START[name], np.float64)
        for arrays, count in zip(found, images, strict=True):
            total += arrays[name].astype(np.float64) * count
        result[name] = total / sum(images)
    return result


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_the_aggregate_is_the_mean_weighted_by_images(name):
    found, images = models(3), [10, 1, 4]
    got, metrics = averaged(
        strategy(name, proximal_mu=0.1), [reply(i, m, n) for i, (m, n) in enumerate(zip(found, images, strict=True), 1)]
    )
    for key, value in mean_of(found, images).items():
        np.testing.assert_allclose(got[key], value, rtol=1e-6)
    assert metrics["train/loss"] == 1.0


def test_fedadam_follows_its_paper_and_leaves_statistics_alone():
    """Two rounds of Reddi et al. (arXiv 2003.00295) with Flower's bias correction; running_var is averaged."""
    made, eta, tau = strategy("fedadam", server_lr=0.01), 0.01, 1e-3
    where = {k: v.astype(np.float64) for k, v in START.items()}
    m, v = dict.fromkeys(START, 0.0), dict.fromkeys(START, 0.0)
    for number in (1, 2):
        found = models(2, seed=number)
        made.receiver.expect({k: x.astype(np.float32) for k, x in where.items()})
        list(
            made.configure_train(
                number, record({k: x.astype(np.float32) for k, x in where.items()}), ConfigRecord({}), Nodes(2)
            )
        )
        got, _ = averaged(made, [reply(1, found[0], 3), reply(2, found[1], 1)], number)
        mean = mean_of(found, [3, 1])
        for name in PARAMETERS:
            d = mean[name] - where[name]
            m[name] = 0.9 * m[name] + 0.1 * d
            v[name] = 0.99 * v[name] + 0.01 * d**2
            rate = eta * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
            where[name] = where[name] + rate * m[name] / (np.sqrt(v[name]) + tau)
        where["bn.running_var"] = mean["bn.running_var"]
        for name, value in where.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4)


def test_a_longer_step_with_momentum_is_fedavgm():
    """Two rounds of Hsu et al. (arXiv 1909.06335), a loop at a time; running_var is averaged."""
    made, rate, beta = strategy("fedavg", server_lr=1.5, momentum=0.6), 1.5, 0.6
    where, m = {k: v.astype(np.float64) for k, v in START.items()}, dict.fromkeys(START, 0.0)
    for number in (1, 2):
        found, sent = models(2, seed=number), {k: x.astype(np.float32) for k, x in where.items()}
        made.receiver.expect(sent)
        list(made.configure_train(number, record(sent), ConfigRecord({}), Nodes(2)))
        got, _ = averaged(made, [reply(1, found[0], 3), reply(2, found[1], 1)], number)
        mean = mean_of(found, [3, 1])
        for name in PARAMETERS:
            m[name] = beta * m[name] + mean[name] - where[name]
            where[name] = where[name] + rate * m[name]
        where["bn.running_var"] = mean["bn.running_var"]
        for name, value in where.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5)


def test_fedmuon_goes_as_far_as_fedavg_with_equal_singular_values():
    found = models(2)
    got, _ = averaged(strategy("fedmuon"), [reply(1, found[0]), reply(2, found[1])])
    mean = mean_of(found, [1, 1])
    step, plain = got["w"] - START["w"], mean["w"] - START["w"]
    np.testing.assert_allclose(np.linalg.norm(step), np.linalg.norm(plain), rtol=1e-4)
    values = np.linalg.svd(step, compute_uv=False)
    assert values.max() / values.min() < 1.1 < np.linalg.svd(plain, compute_uv=False).max() / values.min()
    np.testing.assert_allclose(got["b"], mean["b"], rtol=1e-6)
    np.testing.assert_allclose(got["bn.running_var"], mean["bn.running_var"], rtol=1e-6)


def test_fedmuon_turns_towards_the_exact_polar_factor():
    d = np.random.default_rng(3).standard_normal((6, 2, 3, 3)).astype(np.float32)
    u, _, v = np.linalg.svd(d.reshape(6, -1), full_matrices=False)
    exact = (u @ v).reshape(d.shape) * (5.0 / np.sqrt(6))
    np.testing.assert_allclose(turned(d, 5.0), exact, atol=0.02)
    assert not turned(np.zeros((3, 4), np.float32), 1.0).any()


def test_a_strategy_goes_on_from_its_state():
    """Resumed after a round, it gives the bits that it would have given."""
    for name in ("fedavg", "fedadam", "fedmuon"):
        whole, first = strategy(name, momentum=0.5), strategy(name, momentum=0.5)
        one = [reply(i, m) for i, m in enumerate(models(2), 1)]
        averaged(whole, one)
        averaged(first, [reply(i, m) for i, m in enumerate(models(2), 1)])
        second = strategy(name, momentum=0.5)
        second.restore(first.state())
        results = [averaged(s, [reply(i, m) for i, m in enumerate(models(2, 7), 1)], 2)[0] for s in (whole, second)]
        for key in START:
            np.testing.assert_array_equal(results[0][key], results[1][key])


def spoiled(**changes):
    return {**models(1)[0], **changes}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda: error(2, "out of\nmemory"), "out of memory"),
        (lambda: reply(2, spoiled(b=np.array([1, np.nan, 1, 1], np.float32))), "b holds NaN or infinity"),
        (lambda: reply(2, spoiled(w=np.zeros((3, 5), np.float32))), "a foreign model: 23 values where 20 belong"),
        (lambda: reply(2, spoiled(other=np.zeros(1, np.float32))), "a foreign model: 21 values where 20 belong"),
        (lambda: reply(2, {"w": START["w"]}), "a foreign model: 12 values where 20 belong"),
        (lambda: reply(2, models(1)[0], packed=True), "a foreign model: the arrays are not packed as compress= says"),
        (lambda: reply(2, spoiled(w=np.zeros((3, 4), np.float32))), "a foreign model: as many values, but its tensors"),
        (lambda: reply(2, {"dense": np.zeros(20)}, packed=True), "a foreign model: the arrays are not packed"),
        (lambda: reply(2, models(1)[0], images=0), "num-examples is 0"),
        (lambda: reply(2, models(1)[0], images=-5.0), "num-examples is -5"),
        (lambda: reply(2, models(1)[0], images=float("nan")), "num-examples is nan"),
        (lambda: reply(2, models(1)[0], images=[1, 2]), "not an answer"),
    ],
)
def test_a_bad_reply_is_left_out_and_named(bad, why):
    """The others count as if it had not come."""
    import re

    found = models(2)
    made = strategy()
    got, _ = averaged(made, [reply(1, found[0], 2), bad(), reply(3, found[1], 1)])
    for key, value in mean_of(found, [2, 1]).items():
        np.testing.assert_allclose(got[key], value, rtol=1e-6)
    assert list(made.receiver.left_out) == ["client 2"]
    assert re.search(why, made.receiver.left_out["client 2"])
    assert made.receiver.answered == [1, 3]


def test_a_round_of_bad_replies_leaves_the_model_as_it_is():
    made = strategy()
    assert averaged(made, [error(1, "a"), error(2, "b")]) == (None, None)
    assert made.receiver.left_out == {"client 1": "a", "client 2": "b"}


def test_compressed_replies_are_unpacked_and_counted():
    half, found = Compression.parse("half"), models(2)
    packed = [half.encode({k: m[k] - START[k] for k in m}) for m in found]
    made = strategy(compress="half")
    got, _ = averaged(made, [reply(1, packed[0], packed=True), reply(2, packed[1], packed=True)])
    for key, value in mean_of(found, [1, 1]).items():
        np.testing.assert_allclose(got[key], value, atol=1e-3)
    values = sum(v.size for v in START.values())
    assert 2 * 2 * values <= made.receiver.bytes < 2 * 2 * values + 600  # two replies, two bytes a value, two headers
