"""The ServerApp: rounds of training on whoever is there, each judged, recorded and written down before the next."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn
from ultralytics.utils import LOGGER

from yolo_musgd import __version__
from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.arrays import Arrays, put, shared_names, take, under, with_prefix
from yolo_musgd.federated.client import record
from yolo_musgd.federated.compression import Compression, layout
from yolo_musgd.federated.history import Progress
from yolo_musgd.federated.judge import MAIN, METRICS, judge, save_checkpoint, score
from yolo_musgd.federated.settings import FederateSettings
from yolo_musgd.federated.strategies import Receiver, build

PATIENCE = 300.0  # seconds that clients have to say who they are
GRACE = 30.0  # seconds beyond a timeout: the way there and back
LIFE = 43200.0  # seconds after which Flower throws a message away, unless told


class Stopped(Exception):  # noqa: N818 - it reads as what happened
    """The federation is to end; what is finished is written down."""


@dataclasses.dataclass
class ServerPlan:
    """What a server needs to know.

    Attributes:
        settings: of the command.
        arguments: of ``yolo train``.
        model: the initial model, whose tensors are overwritten.
        fine_tunes: whether its weights were trained.
        new_classes: whether for other classes.
        classes: names by index, as every client must have them.
        clients: how many are waited for at the start.
        val: data YAML whose val split judges; None where the server has none.
        folder: of the results.
        waves: how often ``timeout`` passes until every client has had its turn.
        stop: set from outside to end it.
        poll: seconds between looks for replies.
    """

    settings: FederateSettings
    arguments: dict[str, Any]
    model: nn.Module
    fine_tunes: bool
    new_classes: bool
    classes: Mapping[int, str]
    clients: int
    val: str | None
    folder: Path
    waves: int = 1
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    poll: float = 0.1

    @property
    def judges(self) -> bool:
        """Whether the server judges; with parts that never leave the clients it has no whole model."""
        return self.val is not None and self.settings.share == "all"

    @property
    def patience(self) -> float:
        """Seconds that the server waits for a round."""
        return self.settings.timeout * self.waves + GRACE


class Federation:
    """One federation, from the first round that is not finished to the last.

    Args:
        grid: Flower's way to the clients.
        plan: what to do.
    """

    def __init__(self, grid: Grid, plan: ServerPlan):
        self.grid, self.plan, s = grid, plan, plan.settings
        self.names: dict[int, str] = {}
        self.refused: dict[int, str] = {}
        self.asked: dict[str, int] = {}  # message -> node, of the last exchange
        self.compression = Compression.parse(s.compress)
        self.receiver = Receiver(self.compression, lambda node: self.names.get(node, f"node {node}"), self._node_of)
        parameters = [name for name, _ in plan.model.named_parameters()]
        knobs = {"server_lr": s.server_lr, "momentum": s.server_momentum, "proximal_mu": s.proximal_mu}
        self.strategy = build(s.strategy, self.receiver, parameters, **knobs)
        self.progress = Progress(plan.folder)
        self.shared = shared_names(plan.model, s.share)
        self.arrays = take(plan.model, self.shared)
        self.holders: list[int] = []  # nodes that keep what was sent in the last round
        self.shadow: Arrays = {}
        if stored := self.progress.load():
            self.arrays = under("model", stored)
            self.strategy.restore(under("strategy", stored))

    def run(self) -> None:
        """All rounds that are missing, then the trainings beside it.

        Raises:
            UserError: no client answered in a round.
        """
        LOGGER.info(f"waiting for {self.plan.clients} clients")
        self._meet(self.plan.clients)
        for number in range(self.progress.round + 1, self.plan.settings.rounds + 1):
            self._round(number)
        self._baselines()

    def _exchange(self, messages: Sequence[Message], timeout: float) -> tuple[list[Message], list[int]]:
        """Send, and wait for replies; also returns the nodes of which none came."""
        self.asked = dict(
            zip(self.grid.push_messages(messages), (m.metadata.dst_node_id for m in messages), strict=True)
        )
        waiting = dict(self.asked)
        replies: list[Message] = []
        end = time.monotonic() + timeout
        while waiting and time.monotonic() < end:
            if self.plan.stop.wait(self.plan.poll):
                raise Stopped
            for reply in self.grid.pull_messages(list(waiting)):
                replies.append(reply)
                waiting.pop(reply.metadata.reply_to_message_id, None)
        return replies, list(waiting.values())

    def _node_of(self, reply: Message) -> int:
        """Whom the question was for: Flower's server itself answers for a node that is gone."""
        return self.asked.get(reply.metadata.reply_to_message_id, int(reply.metadata.src_node_id))

    def _meet(self, wanted: int) -> None:
        """Wait for clients and ask the new ones who they are; those that cannot take part are named once."""
        while len(new := [n for n in self.grid.get_node_ids() if n not in self.names]) < wanted:
            if self.plan.stop.wait(self.plan.poll):
                raise Stopped
        if not new:
            return
        question = RecordDict({"config": ConfigRecord({"timeout": PATIENCE})})
        patience = PATIENCE * self.plan.waves
        replies, silent = self._exchange([Message(question, node, "query") for node in new], patience)
        for reply in replies:
            node = self._node_of(reply)
            facts: Any = {} if reply.has_error() else dict(reply.content["config"])
            self.names[node] = str(facts.get("name", f"node {node}"))[:80]
            wrong = reply.error.reason if reply.has_error() else self._unfit(facts)
            if wrong:
                self.refused[node] = wrong
                LOGGER.warning(f"{self.names[node]} cannot take part: {wrong}")
        for node in silent:
            LOGGER.warning(f"node {node} does not say who it is; it is asked again in the next round")

    def _unfit(self, facts: Mapping[str, Any]) -> str:
        """Why a client cannot take part; empty if it can."""
        try:
            classes = {int(k): str(v) for k, v in json.loads(facts["classes"]).items()}
            if facts["images"] < 1:
                return "it has no images"
            if facts["yolo-musgd"] != __version__:
                return f"it has yolo-musgd {facts['yolo-musgd']}, the server {__version__}; install the same"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return f"it is no client of this kind: {type(error).__name__}: {error}"
        one = self.plan.arguments.get("single_cls")  # which calls all of them item
        if not one and classes != dict(self.plan.classes):
            return f"its classes are {list(classes.values())}, the server's {list(self.plan.classes.values())}"
        return ""

    def _config(self, number: int, **more: Any) -> ConfigRecord:
        s = self.plan.settings
        common = {
            "arguments": json.dumps(self.plan.arguments), "round": number, "base": -1, "compress": s.compress,
            "average": s.average, "keep": s.optimizer_state == "keep", "timeout": s.timeout, "proximal-mu": 0.0,
            "fine-tunes": self.plan.fine_tunes, "new-classes": self.plan.new_classes, "central": False,
            "stateful": True,
            "start": (number - 1) * s.local_epochs, "epochs": s.local_epochs, "total": s.rounds * s.local_epochs,
            "seed": int(self.plan.arguments.get("seed", 0)),
        }  # fmt: skip
        return ConfigRecord({**common, **more})

    def _round(self, number: int) -> None:
        began = time.monotonic()
        self._meet(0)
        sent = self._send(number)
        if not sent:
            raise UserError(f"round {number}: no client is there that can take part{self._first_reason()}")
        replies, silent = self._exchange(sent, self.plan.patience)
        mean, metrics = self.strategy.aggregate_train(number, replies)
        left_out = self.receiver.left_out
        for node in silent:
            left_out[self.names[node]] = f"no answer within {self.plan.settings.timeout:g} s"
        for name, why in left_out.items():
            LOGGER.warning(f"round {number}: {name} is left out: {why}")
        if mean is None or metrics is None:
            raise UserError(
                f"round {number}: no client answered, {next(iter(left_out.items()), ('', ''))[1]}; "
                "the same command goes on from this round"
            )
        self.holders = list(self.receiver.answered)
        self.arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in mean.items()}
        down = sum(len(a.data) for message in sent for a in message.content["arrays"].values())
        row: dict[str, Any] = {
            "round": number, "clients": len(self.holders), "left_out": "; ".join(left_out),
            "train/loss": float(metrics["train/loss"]), **self._judge(number),
            "bytes_down": down, "bytes_up": self.receiver.bytes, "seconds": time.monotonic() - began,
        }  # fmt: skip
        stored = with_prefix("model", self.arrays) | with_prefix("strategy", self.strategy.state())
        self._keep_checkpoints(row)  # before the round counts as finished: it is not done again then
        self.progress.add(row, stored, left_out)
        LOGGER.info(
            f"round {number}/{self.plan.settings.rounds}: {row['clients']} of {len(sent)} clients, "
            f"loss {row['train/loss']:.3f}, mAP50-95 {row[MAIN]:.4f}, {_mb(down)} down, {_mb(self.receiver.bytes)} up, "
            f"{row['seconds']:.0f} s"
        )

    def _send(self, number: int) -> list[Message]:
        """The round's messages: the model for clients that have none, a difference for those that keep the last one."""
        self.receiver.expect(self.arrays)
        arrays, packed = self.arrays, {}
        if self.compression.kind != "none" and self.shadow:
            difference = {name: value - self.shadow[name] for name, value in self.arrays.items()}
            packed = self.compression.encode(difference)
            seen = self.compression.decode(packed, self.shadow)
            arrays = {name: value + seen[name] for name, value in self.shadow.items()}
            self.receiver.expect(arrays)
        self.shadow = arrays
        messages: Iterable[Message] = self.strategy.configure_train(
            number, record(arrays), self._config(number), self.grid
        )
        chosen: list[Message] = []
        for message in sorted(messages, key=lambda m: self.names.get(m.metadata.dst_node_id, "")):
            node, place = message.metadata.dst_node_id, len(chosen)
            if node not in self.names or node in self.refused:
                continue
            seed = int(self.plan.arguments.get("seed", 0)) + (number - 1) * self.plan.clients + place
            config: dict[str, Any] = {**message.content["config"], "seed": seed}
            if packed and node in self.holders:
                content = RecordDict({"arrays": record(packed), "config": ConfigRecord({**config, "base": number - 1})})
            else:
                content = _whole(arrays, config)
            chosen.append(Message(content, node, "train", ttl=max(LIFE, self.plan.patience)))
        return chosen

    def _first_reason(self) -> str:
        node, why = next(iter(self.refused.items()), (0, ""))
        return f": {self.names[node]}: {why}" if why else ""

    def _judge(self, number: int) -> dict[str, float]:
        """The global model on the server's val split, or the clients' mean where the server cannot judge."""
        put(self.plan.model, self.arrays)
        if self.plan.judges:
            return judge(self.plan.model, str(self.plan.val), self.plan.arguments, self.plan.folder / "judged")
        content = _whole(self.arrays, self._config(number))
        patience = self.plan.patience
        asked = [Message(content, node, "evaluate", ttl=max(LIFE, patience)) for node in self.holders]
        replies, _ = self._exchange(asked, patience)
        found = [dict(reply.content["metrics"]) for reply in replies if not reply.has_error()]
        total = sum(float(m["num-examples"]) for m in found)
        if not total:
            reasons = [reply.error.reason for reply in replies if reply.has_error()]
            LOGGER.warning(f"round {number}: no client could judge: {reasons[:1] or 'no answer'}")
            return dict.fromkeys(METRICS, float("nan"))
        return {key: sum(float(m[key]) * float(m["num-examples"]) for m in found) / total for key in METRICS}

    def _keep_checkpoints(self, row: Mapping[str, Any]) -> None:
        weights = self.plan.folder / "weights"
        save_checkpoint(weights / "last.pt", self.plan.model, self.plan.arguments)
        if not any(score(r) > score(row) for r in self.progress.rows):
            save_checkpoint(weights / "best.pt", self.plan.model, self.plan.arguments)

    def _baselines(self) -> None:
        """Train on all data in one place, and every client alone, with the same epochs; each is done once."""
        wanted, s = self.plan.settings.baselines, self.plan.settings
        nodes = sorted((n for n in self.names if n not in self.refused), key=lambda n: self.names[n])
        tasks = [("central", nodes[0], True)] if wanted in ("central", "all") else []
        tasks += [(f"{self.names[n]} alone", n, False) for n in nodes] if wanted in ("alone", "all") else []
        total = s.rounds * s.local_epochs
        begin = self.progress.initial()
        for name, node, central in tasks:
            if self.progress.baselines.get(name, {}).get("epochs") == total:  # rounds= may have been raised since
                continue
            LOGGER.info(f"beside it: {name}, {total} epochs")
            more = {
                "central": central,
                "stateful": False,
                "keep": False,
                "compress": "none",
                "average": "ema",
                "epochs": total,
            }
            patience = s.timeout * s.rounds
            config = self._config(0, **more, timeout=patience, start=0)
            message = Message(_whole(begin, config), node, "train", ttl=max(LIFE, patience))
            replies, _ = self._exchange([message], patience)
            if not replies or replies[0].has_error():
                why = replies[0].error.reason if replies else "no answer"
                LOGGER.warning(f"{name} could not be trained: {why}")
                continue
            came = {k: a.numpy() for k, a in replies[0].content["arrays"].items()}
            put(self.plan.model, Compression().decode(came, begin))
            found = judge(self.plan.model, str(self.plan.val), self.plan.arguments, self.plan.folder / "judged")
            self.progress.add_baseline(name, {**found, "epochs": total})
            LOGGER.info(f"{name}: mAP50-95 {found[MAIN]:.4f}")


def _whole(arrays: Arrays, config: Mapping[str, Any]) -> RecordDict:
    """A message's content with all arrays, and their names and shapes."""
    return RecordDict(
        {"arrays": record(Compression().encode(arrays)), "config": ConfigRecord({**config, "layout": layout(arrays)})}
    )


def _mb(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
