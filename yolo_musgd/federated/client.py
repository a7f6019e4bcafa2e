"""The ClientApp: answers the server's three questions (who are you, train, how good is this model) from its own data.

What comes over the wire is arrays, numbers and JSON. It names no file: data, model and the place for its files are the
client's own (:class:`Home`), and of the training arguments it takes none that could name one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from yolo_musgd import __version__
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.federated.arrays import Arrays, flaw, put, read_arrays, take, under, with_prefix, write_arrays
from yolo_musgd.federated.compression import Compression, from_layout

OF_THE_CLIENT = frozenset(
    {"data", "model", "device", "workers", "project", "name", "cache", "pretrained", "cfg", "source"}
)
"""Arguments of ``yolo train`` that a server may not choose for a client."""


@dataclasses.dataclass(frozen=True)
class Home:
    """Where a client has its things.

    Attributes:
        name: for messages.
        data: its data YAML.
        folder: for its state from round to round.
        model: YAML or checkpoint that gives the architecture.
        own: arguments of ``yolo train`` that it chose for itself, of `OF_THE_CLIENT`.
        central: data YAML of the undivided set, in a simulation.
    """

    name: str
    data: Path
    folder: Path
    model: str
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    central: Path | None = None

    def state(self, before: int) -> Arrays:
        """What was kept after the last round before this one; empty in the first."""
        kept = [number for number in _rounds(self.folder) if number < before]
        return read_arrays(self.folder / f"state-{max(kept)}.npz") if kept else {}

    def keep(self, number: int, arrays: Arrays) -> None:
        """Keep a round's state. The one before stays: a server that was killed may ask for this round again."""
        write_arrays(self.folder / f"state-{number}.npz", arrays)
        for old in sorted(_rounds(self.folder))[:-2]:
            for file in (f"state-{old}.npz", f"optimizer-{old}.pt"):
                (self.folder / file).unlink(missing_ok=True)


def _rounds(folder: Path) -> list[int]:
    found = (re.fullmatch(r"state-(\d+)\.npz", file.name) for file in folder.glob("state-*.npz"))
    return [int(match.group(1)) for match in found if match]


def client_app(home_of: Callable[[Context], Home]) -> ClientApp:
    """The app of one client.

    Args:
        home_of: its things, from Flower's context; the node config says which client it is.
    """
    app = ClientApp()
    for kind, answer in (("query", describe), ("train", train_round), ("evaluate", evaluate)):
        getattr(app, kind)()(functools.partial(_answered, answer, home_of))
    return app


def _answered(
    answer: Callable[[Home, RecordDict], RecordDict],
    home_of: Callable[[Context], Home],
    message: Message,
    context: Context,
) -> Message:
    """The reply; an error goes to the server as one line and ends nothing here."""
    try:
        content = message.content
        config = content.get("config", {})
        with _watched(float(config.get("timeout", 0))):
            return Message(answer(home_of(context), content), reply_to=message)
    except Exception as error:
        reason = first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


@contextmanager
def _watched(seconds: float) -> Iterator[None]:
    """End this process when the work takes longer: a training that hangs cannot be told to stop."""
    timer = threading.Timer(seconds, os._exit, (75,))
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def describe(home: Home, content: RecordDict) -> RecordDict:
    """Who this client is: images, classes, versions."""
    import ultralytics

    from yolo_musgd.data.reader import check, class_names
    from yolo_musgd.federated.local import task_of

    facts: dict[str, Any] = {
        "name": home.name,
        "images": _images(home.model, home.data, "train"),
        "classes": json.dumps(class_names(check(str(home.data), task=task_of(home.model)))),
        "yolo-musgd": __version__,
        "ultralytics": ultralytics.__version__,
    }
    return RecordDict({"config": ConfigRecord(facts)})


def train_round(home: Home, content: RecordDict) -> RecordDict:
    """Train a round from the arrays received and return what `Trained` holds of their names."""
    from yolo_musgd.federated.local import Work, load_kept, save_kept, train

    config, began = content["config"], time.monotonic()
    number = int(config["round"])
    with _attempt(home.folder / f"training-{number}"):
        state = home.state(number)
        start = received(content, state)
        data = home.central if config["central"] and home.central else home.data
        asked = _own_arguments(json.loads(str(config["arguments"])), home)
        work = Work(
            model=home.model,
            data=str(data),
            folder=home.folder / "run",
            arguments=with_batch(asked, 0 if "batch" in asked else _images(home.model, data, "train")),
            start=int(config["start"]),
            epochs=int(config["epochs"]),
            total=int(config["total"]),
            seed=int(config["seed"]),
            proximal=float(config["proximal-mu"]),
            average=str(config["average"]),
            fine_tunes=bool(config["fine-tunes"]),
            new_classes=bool(config["new-classes"]),
        )
        kept = load_kept(home.folder / f"optimizer-{number - 1}.pt") if config["keep"] else None
        done = train(work, start | under("private", state), kept)
        if wrong := flaw(done.arrays, done.arrays):  # before it is kept for the next round, or clipped on its way
            raise UserError(wrong)
        compression = Compression.parse(str(config["compress"]))
        sent, residual = _sent(done.arrays, start, under("residual", state), compression)
        if config["stateful"]:
            private = {name: value for name, value in done.arrays.items() if name not in start}
            shadow = start if compression.kind != "none" else {}
            kinds = {"private": private, "residual": residual, "shadow": shadow}
            if config["keep"]:
                save_kept(home.folder / f"optimizer-{number}.pt", done.optimizer)
            merged = {k: v for kind, arrays in kinds.items() for k, v in with_prefix(kind, arrays).items()}
            home.keep(number, merged)
    metrics = {"num-examples": done.images, "train/loss": done.loss, "seconds": time.monotonic() - began}
    return RecordDict({"arrays": record(sent), "metrics": MetricRecord(metrics)})


@contextmanager
def _attempt(mark: Path) -> Iterator[None]:
    """Leave a mark while a round is trained: where it is found at the start, the process died in the attempt before.

    Raises:
        UserError: so it was; the engine must not try a round that kills its process again and again.
    """
    mark.parent.mkdir(parents=True, exist_ok=True)
    if mark.exists():
        mark.unlink()
        raise UserError("its process ended while it trained: out of memory, over its timeout, or killed")
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _own_arguments(asked: Mapping[str, Any], home: Home) -> dict[str, Any]:
    return {k: v for k, v in asked.items() if k not in OF_THE_CLIENT} | dict(home.own)


def with_batch(arguments: Mapping[str, Any], images: int) -> dict[str, Any]:
    """The arguments with ``batch`` and ``nbs``, where nobody chose them: two dozen steps an epoch, a batch each.

    Ultralytics' 16 and 64 are for sets of thousands. Of the fifty images of a board they make one step a round, after
    which the server averages; small batches' noise is averaged away there (docs/research.md: .548, .542 and .469 of
    mAP50-95 with 26, 13 and 7 steps a round).
    """
    batch = arguments.get("batch", min(16, max(2, images // 24)))
    follows = {"nbs": batch} if isinstance(batch, int) and batch > 0 else {}  # a share of a GPU's memory says nothing
    return {"batch": batch, **follows, **arguments}


def received(content: RecordDict, state: Arrays) -> Arrays:
    """The global model's arrays: as they are, or as a difference to those of an earlier round that this client keeps.

    Raises:
        UserError: it does not keep them any more.
    """
    arrays = {name: array.numpy() for name, array in content["arrays"].items()}
    config = content["config"]
    if config["base"] < 0:
        return Compression().decode(arrays, from_layout(str(config["layout"])))
    base = under("shadow", state)
    if not base:
        raise UserError("it has lost the model of the round before, to which a difference came")
    difference = Compression.parse(str(config["compress"])).decode(arrays, base)
    return {name: value + difference[name] for name, value in base.items()}


def _sent(done: Arrays, start: Arrays, residual: Arrays, compression: Compression) -> tuple[Arrays, Arrays]:
    """What is sent back, and what of it is owed to the next round."""
    if compression.kind == "none":
        return compression.encode({name: done[name] for name in start}), {}
    wanted = {name: done[name] - value + residual.get(name, 0) for name, value in start.items()}
    packed = compression.encode(wanted)
    seen = compression.decode(packed, start)
    return packed, {name: wanted[name] - seen[name] for name in start}


def evaluate(home: Home, content: RecordDict) -> RecordDict:
    """How good the global model is on this client's val split, with the parts that are its own.

    Raises:
        UserError: the arrays are not of this client's model.
    """
    from yolo_musgd.federated.judge import judge
    from yolo_musgd.federated.local import Work, initial_model

    config = content["config"]
    arguments = _own_arguments(json.loads(str(config["arguments"])), home)
    work = Work(home.model, str(home.data), home.folder / "run", arguments, 0, 1, 1, int(config["seed"]))
    model, _, _ = initial_model(work)
    arrays = received(content, {})
    arrays |= under("private", home.state(int(config["round"]) + 1))
    if wrong := flaw(arrays, take(model, arrays.keys() & model.state_dict().keys())):
        raise UserError(wrong)
    put(model, arrays)
    metrics = judge(model, str(home.data), arguments, home.folder / "judged")
    images = _images(home.model, home.data, "val")
    return RecordDict({"metrics": MetricRecord({"num-examples": images, **metrics})})


def _images(model: str, data: Path, split: str) -> int:
    from yolo_musgd.data.reader import Rules, check, read_split
    from yolo_musgd.federated.local import task_of

    rules = Rules(task_of(model))
    return len(read_split(check(str(data), task=rules.task), split, rules).images)


def record(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Arrays for a message."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
