"""``yolo-musgd federate``: many clients, one model, simulated on this machine by Flower's simulation engine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.result import Result
from yolo_musgd.federated.arrays import parse_share
from yolo_musgd.federated.compression import Compression
from yolo_musgd.federated.partition import Images, divide, own_folders, parse_split, write_client
from yolo_musgd.federated.settings import FederateSettings, by_recipe, others, training_arguments
from yolo_musgd.places import check_parent
from yolo_musgd.resources import install, read_recipe
from yolo_musgd.settings import bare_device

FREE = ("rounds", "jobs", "threads", "timeout", "project", "baselines")
"""Settings that may change when a federation goes on."""
TAKEN_BY = {
    "server_lr": ("fedavg", "fedadam", "fedmuon"),
    "server_momentum": ("fedavg", "fedmuon"),
    "proximal_mu": ("fedprox",),
}
"""Settings that only some strategies know."""


def require_flower() -> None:
    """Refuse to begin without Flower and Ray, and keep both from reporting to their makers.

    Raises:
        UserError: one of them is not installed.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr is imported
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if missing := [name for name in ("flwr", "ray") if find_spec(name) is None]:
        raise UserError(f"{missing[0]} is not installed: {install('federated')} (Python 3.11 or newer)")


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Returns:
        The last round's figures; results.csv, weights/ and the report are in project/name.

    Raises:
        UserError: bad arguments or data, or a round in which no client answered.
    """
    settings = FederateSettings.read(args)
    settings.require("data")
    require_flower()
    check_words(settings)  # before PyTorch is loaded
    arguments = training_arguments(others(args, FederateSettings))
    settings = by_recipe(settings, args, arguments)
    plugin.register()
    check_parent(settings.project, settings.name)
    from yolo_musgd.federated.federation_report import write_report
    from yolo_musgd.federated.judge import MAIN

    folder = Path(settings.project) / settings.name
    with contextlib.ExitStack() as held:
        plan, data = prepare(settings, arguments, folder, held)
        counted = dataclasses.replace(settings, clients=len(data))
        simulate(plan, data)
        files, figures = write_report(folder, counted, arguments)
    last = figures["rounds"][-1]
    reached = "nobody could judge" if last[MAIN] is None else f"mAP50-95 {last[MAIN]:.4f}"
    said = f"{reached} after {last['round']} rounds of {len(data)} clients"
    words = ("yolo", "val", f"model={files['weights']}", f"data={plan.val}")
    following = shlex.join(words) if plan.judges else ""
    return Result("federate", said, str(folder), files, figures, following)


def prepare(
    settings: FederateSettings, arguments: dict[str, Any], folder: Path, held: contextlib.ExitStack
) -> tuple[Any, list[Path]]:
    """Check everything, divide the data and write down what the federation begins with.

    Args:
        settings: of the command.
        arguments: of ``yolo train``.
        folder: of the results.
        held: gets the folder's lock.

    Returns:
        The server's plan, and each client's data YAML.

    Raises:
        UserError: something in it cannot be.
    """
    from yolo_musgd.federated.local import task_of

    arguments = _checked(settings, arguments, folder)
    task = task_of(settings.model)
    content, parts = _divided(settings, arguments, task)
    if settings.baselines != "none" and content is None and settings.val is None:
        raise UserError(f"baselines={settings.baselines} with split=folders needs val=, a data YAML to judge on")
    val = settings.val or (settings.data if content is not None else None)
    held.enter_context(_alone(folder))
    whole = str(parts[0]) if content is None else settings.require("data")
    plan = _plan(settings, arguments, folder, whole, len(parts), val)
    plan.waves = math.ceil(len(parts) / settings.jobs)
    return plan, [_client(folder, number, part, content, task) for number, part in enumerate(parts)]


def prepare_server(settings: FederateSettings, arguments: dict[str, Any]) -> Any:
    """The plan of a server whose clients are other machines: it has only ``val``, whose classes are everybody's.

    Raises:
        UserError: something in it cannot be.
    """
    folder = Path(settings.project).expanduser() / settings.name
    arguments = _checked(settings, arguments, folder)
    val = str(Path(settings.val or "").expanduser())
    return _plan(settings, arguments, folder, val, settings.clients, val)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: two federations in it would train each other's rounds.

    Raises:
        UserError: another one holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another federation is at work in {folder}; wait for it, or choose another name=") from None
    try:
        yield
    finally:
        lock.release()


def check_words(settings: FederateSettings) -> None:
    """Refuse words that are none, and those that the strategy would pass over.

    Raises:
        UserError: the first one.
    """
    for name, strategies in TAKEN_BY.items():
        if getattr(settings, name) != settings.defaults()[name] and settings.strategy not in strategies:
            raise UserError(f"{name}= is for strategy={' or '.join(strategies)}, not for {settings.strategy}")
    parse_split(settings.split)
    parse_share(settings.share)
    Compression.parse(settings.compress)


def _checked(settings: FederateSettings, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The training arguments with the optimizer, when all that can be known without the data is in order."""
    from yolo_musgd.train.trainer import check_arguments

    arguments = {**arguments, "optimizer": settings.optimizer}
    check_arguments(arguments)
    check_words(settings)
    _check_folder(folder, settings, arguments)
    return arguments


def _plan(
    settings: FederateSettings, arguments: dict[str, Any], folder: Path, data: str, clients: int, val: str | None
) -> Any:
    """The server's plan, with the model that the federation begins with; it is made first, and then written down."""
    from yolo_musgd.federated.arrays import float_names, take
    from yolo_musgd.federated.history import Progress
    from yolo_musgd.federated.local import Work, initial_model
    from yolo_musgd.federated.rounds import ServerPlan

    with tempfile.TemporaryDirectory(prefix="yolo-musgd-") as scratch:
        seed = int(arguments.get("seed", 0))
        work = Work(settings.model, data, Path(scratch) / "run", arguments, 0, 1, 1, seed)
        model, fine_tunes, new_classes = initial_model(work)
    _record(folder, settings, arguments)
    Progress(folder).begin(take(model, float_names(model)))
    names: Any = model.names
    return ServerPlan(settings, arguments, model, fine_tunes, new_classes, dict(names), clients, val, folder)


def _divided(
    settings: FederateSettings, arguments: Mapping[str, Any], task: str
) -> tuple[dict[str, Any] | None, Sequence[Images | str]]:
    """The description of the data set and the images of each client; None and their own YAMLs with split=folders."""
    from yolo_musgd.data.reader import Rules, check, read_split

    data = settings.require("data")
    if settings.val is not None:
        read_split(check(settings.val, task=task), "val", Rules(task))
    if settings.split == "folders":
        if settings.baselines in ("central", "all"):
            raise UserError(f"baselines={settings.baselines} with split=folders: only alone can be trained beside it")
        return None, own_folders(data, task)
    content = check(data, task=task)
    seed = int(arguments.get("seed", 0))
    images = read_split(content, "train", Rules(task)).images
    read_split(content, "val", Rules(task))
    return content, divide(images, settings.clients, settings.split, seed)


def _client(folder: Path, number: int, part: Images | str, content: Mapping[str, Any] | None, task: str) -> Path:
    """A client's data YAML; its folder is made unless it brings its own data."""
    from yolo_musgd.data.reader import Rules

    place = folder / "clients" / str(number)
    place.mkdir(parents=True, exist_ok=True)
    for mark in place.glob("training-*"):  # of a federation that was killed: its clients did not die by themselves
        mark.unlink()
    return Path(part) if isinstance(part, str) else write_client(place / "data", part, content or {}, Rules(task))


def _identity(settings: FederateSettings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings.to_dict(), "train": dict(arguments)}


def _check_folder(folder: Path, settings: FederateSettings, arguments: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than this federation.

    Raises:
        UserError: another one, or no federation at all.
    """
    file = folder / "args.yaml"
    if not file.is_file():
        if folder.exists() and any(file.name != ".lock" for file in folder.iterdir()):
            raise UserError(f"{folder} holds something else than a federation; choose another name=")
        return
    before, now = read_recipe(file), _identity(settings, arguments)
    fixed = set(FREE) - ({"rounds"} if before.get("rounds", 0) > settings.rounds else set())
    changed = [k for k in now if before.get(k) != now[k] and k not in fixed]
    if changed:
        raise UserError(f"{folder} holds another federation ({', '.join(changed)} differ); choose another name=")


def _record(folder: Path, settings: FederateSettings, arguments: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(str(folder / "args.yaml"), yaml.safe_dump(_identity(settings, arguments), sort_keys=False))


def home_of(
    data: Sequence[Path], folder: Path, model: str, central: str | None, own: Mapping[str, Any], context: Any
) -> Any:
    """A simulated client's things, by the number that Flower gives it."""
    from yolo_musgd.federated.client import Home

    number = int(context.node_config["partition-id"])
    name = f"client {number:0{len(str(len(data) - 1))}d}"
    whole = None if central is None else Path(central)
    return Home(name, data[number], folder / "clients" / str(number), model, own, whole)


def own_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a simulated client chooses as the user did for all; it trains in one process, so on one GPU."""
    own = {key: arguments[key] for key in ("device", "workers", "cache") if arguments.get(key) is not None}
    if "," in bare_device(own.get("device", "")):
        del own["device"]
    return own


def simulate(plan: Any, data: Sequence[Path]) -> None:
    """Run server and clients on this machine.

    Args:
        plan: the server's.
        data: each client's data YAML.

    Raises:
        UserError: no client answered in a round, or the engine did not start.
        KeyboardInterrupt: it was interrupted; the same command goes on.
    """
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from yolo_musgd.federated.client import client_app
    from yolo_musgd.federated.rounds import Federation, Stopped

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    folder, settings = plan.folder.resolve(), plan.settings
    central = None if settings.split == "folders" else settings.data
    places = [path.resolve() for path in data]
    model = str(Path(settings.model).resolve()) if Path(settings.model).exists() else settings.model
    own = own_arguments(plan.arguments)
    clients = client_app(functools.partial(home_of, places, folder, model, central, own))
    server, failed = ServerApp(), []

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Any, context: Any) -> None:
        try:
            Federation(grid, plan).run()
        except BaseException as error:  # Flower would print it and go on with another
            failed.append(error)

    try:
        with _threads(settings):
            run_simulation(server, clients, len(data), backend_config=_backend(settings, plan.arguments))
    except (KeyboardInterrupt, SystemExit):  # Ray answers SIGTERM with the latter
        plan.stop.set()
        logging.getLogger("ultralytics").info("finished rounds are kept: the same command goes on from here")
        raise KeyboardInterrupt from None
    except RuntimeError as error:  # of the engine; Ray that does not start in time, say
        if not failed:
            cause = first_line(error.__context__ or error)
            raise UserError(f"the simulation ended ({cause}); the same command goes on from here") from error
    if failed and not isinstance(failed[0], Stopped):
        raise failed[0]


def _backend(settings: FederateSettings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ray, small and quiet; a client that dies is started again, and what the others were doing is not lost with it."""
    gpus = 0.0
    if str(arguments.get("device", "")) != "cpu":
        import torch

        count = torch.cuda.device_count()
        gpus = count // settings.jobs if count > settings.jobs else count / settings.jobs  # Ray knows no 1.5 GPUs
    start = {
        "num_cpus": settings.jobs, "include_dashboard": False, "object_store_memory": 2**28,
        "logging_level": "ERROR", "log_to_driver": False,
    }  # fmt: skip
    return {
        "init_args": start,
        "client_resources": {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 1},
    }


@contextlib.contextmanager
def _threads(settings: FederateSettings) -> Any:
    """The environment of the clients' processes: their share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = str(settings.threads or max(1, cores // settings.jobs))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, count))
    try:
        yield
    finally:
        for name, value in before.items():
            _restore(name, value, os.environ.__setitem__)


def _restore(name: str, value: str | None, put: Callable[[str, str], None]) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        put(name, value)
