"""``yolo-musgd steptime``: what one ``optimizer.step()`` costs, side by side.

Every optimizer gets its own copy of the model and the same real gradients. The optimizers take turns in one process, so
that a busy machine slows all of them alike; the figure to trust is the ratio of medians, not the milliseconds. The same
code times a CPU and a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import platform
import random
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import items
from yolo_musgd.edge.result import Result
from yolo_musgd.lab.clock import device_name, launches, median_seconds, timed, transient_bytes, warm_up
from yolo_musgd.lab.contenders import contenders, ultralytics_groups
from yolo_musgd.lab.settings import StepTimeSettings, check_steps
from yolo_musgd.optim.state import state_bytes
from yolo_musgd.places import check_place, make_place
from yolo_musgd.settings import parse
from yolo_musgd.tables import markdown_table


@dataclasses.dataclass(frozen=True)
class StepTime:
    """One row of the table; None is what could not be measured."""

    model: str
    optimizer: str
    median_ms: float
    min_ms: float
    vs_sgd: float | None
    vs_native: float | None
    state_per_parameter: float
    transient_per_parameter: float | None
    launches: int | None = None
    share_of_iteration: float | None = None


def real_gradients(name: str = "yolo26n", imgsz: int = 192, batch: int = 4, seed: int = 0) -> nn.Module:
    """A model with random weights and the gradients of its own loss on random images and boxes.

    Args:
        name: an Ultralytics model YAML, with or without the suffix.
        imgsz: side of the square images, pixels.
        batch: images.
        seed: of weights, images and boxes.

    Raises:
        UserError: Ultralytics has no such model, or it is no detector.
    """
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    torch.manual_seed(seed)
    try:
        model: Any = YOLO(name if name.endswith(".yaml") else f"{name}.yaml").model
        if imgsz % (stride := int(max(model.stride))):
            raise UserError(f"imgsz must be a multiple of {stride}, got {imgsz}")
        model.args = get_cfg()
        model.train()
        loss, _ = model.loss(random_batch(imgsz, batch, seed))
        loss.sum().backward()
    except UserError:
        raise
    except OSError as error:  # no such file, or no such name
        raise UserError(f"models={name} is not a model of this Ultralytics; try yolo26n, yolo26s or yolo26m") from error
    except Exception as error:  # whatever another task's loss or loader misses
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"models={name} cannot be timed, only detectors can: {reason}") from error
    result: nn.Module = model
    return result


def random_batch(imgsz: int, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Noise with six boxes an image, in the form that the loss of an Ultralytics detector takes.

    Returns:
        ``img`` (batch, 3, imgsz, imgsz) in [0, 1]; of all n boxes ``batch_idx`` (n,), ``cls`` (n, 1) and ``bboxes``
        (n, 4), centre and size in [0, 1].
    """
    random = torch.Generator().manual_seed(seed)
    boxes = batch * 6
    centre = torch.rand(boxes, 2, generator=random) * 0.6 + 0.2
    size = torch.rand(boxes, 2, generator=random) * 0.3 + 0.05
    return {
        "img": torch.rand(batch, 3, imgsz, imgsz, generator=random),
        "batch_idx": torch.arange(boxes) // 6,
        "cls": torch.randint(0, 80, (boxes, 1), generator=random).float(),
        "bboxes": torch.cat([centre, size], 1),
    }


def measure(
    model_name: str, names: list[str], steps: int = 15, imgsz: int = 192, device: str = "cpu", batch: int = 0
) -> list[StepTime]:
    """Time ``step()`` of the named contenders on one model, in turns.

    Args:
        model_name: see :func:`real_gradients`.
        names: keys of :func:`contenders`.
        steps: timed steps of each, after the untimed ones.
        imgsz: side of the images behind the gradients.
        device: where the optimizers run.
        batch: images of an iteration to compare the steps with, see :func:`iteration_seconds`; 0 leaves it out.
    """
    from ultralytics.utils import TQDM

    source = real_gradients(model_name, imgsz).to(device)
    parameters = sum(p.numel() for p in source.parameters())
    builders = contenders()
    runs = {}
    for name in names:
        model = copy.deepcopy(source)
        for p, q in zip(model.parameters(), source.parameters(), strict=True):
            p.grad = None if q.grad is None else q.grad.clone()  # torch's SGD writes to the gradient
        runs[name] = builders[name](model)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    untimed = warm_up(device)
    for round_ in TQDM(range(steps + untimed), desc=model_name):
        # In turns, in an order of its own each time: what ran just before decides what the caches hold.
        for name in order.sample(names, len(names)):
            seconds = timed(partial(_step, runs[name]), device)
            if round_ >= untimed:
                times[name].append(seconds)
    median = {name: statistics.median(t) * 1e3 for name, t in times.items()}
    sgd, native = median.get("torch SGD foreach"), median.get("MuSGD-native")
    iteration = iteration_seconds(source, imgsz, batch, device, min(steps, 5)) * 1e3 if batch else None
    rows = []
    for name, optimizers in runs.items():
        step = partial(_step, optimizers)
        peak = transient_bytes(step, device)
        rows.append(
            StepTime(
                model_name,
                name,
                median[name],
                min(times[name]) * 1e3,
                median[name] / sgd if sgd else None,
                median[name] / native if native else None,
                sum(map(state_bytes, optimizers)) / (4 * parameters),
                None if peak is None else peak / (4 * parameters),
                launches(step, device),
                median[name] / (median[name] + iteration) if iteration else None,
            )
        )
    return rows


def _step(optimizers: list[Any]) -> None:
    for optimizer in optimizers:
        optimizer.step()


def iteration_seconds(model: nn.Module, imgsz: int, batch: int, device: str, times: int = 5) -> float:
    """Median seconds of forward pass, loss and backward pass on random images, as a trainer with AMP does them.

    Args:
        model: from :func:`real_gradients`, on ``device``; its gradients are overwritten.
        imgsz: side of the square images, pixels.
        batch: images.
        device: a GPU computes in autocast and channels_last, a CPU in fp32.
        times: timed passes.
    """
    on_gpu = device.startswith("cuda")
    twin: Any = copy.deepcopy(model)
    twin.criterion = None  # holds tensors of the device on which the loss was last computed
    twin = twin.to(memory_format=torch.channels_last) if on_gpu else twin
    images = {k: v.to(device) for k, v in random_batch(imgsz, batch).items()}
    scaler = torch.amp.GradScaler("cuda", enabled=on_gpu)

    def iteration() -> None:
        with torch.autocast(device.split(":")[0], enabled=on_gpu):
            loss, _ = twin.loss(images)
        scaler.scale(loss.sum()).backward()
        twin.zero_grad()

    return median_seconds(iteration, device, times)


def to_markdown(rows: list[StepTime]) -> str:
    """The table, one row an optimizer."""
    header = ["model", "optimizer", "median ms", "min ms", "/ SGD foreach", "/ MuSGD-native", "state", "transient"]
    counted = any(r.launches is not None for r in rows)
    shared = any(r.share_of_iteration is not None for r in rows)
    header += ["launches"] * counted + ["of an iteration"] * shared
    table = []
    for r in rows:
        cells = [r.model, r.optimizer, f"{r.median_ms:.2f}", f"{r.min_ms:.2f}"]
        numbers = (r.vs_sgd, r.vs_native, r.state_per_parameter, r.transient_per_parameter)
        cells += ["" if x is None else f"{x:.3f}" for x in numbers]
        cells += ["" if r.launches is None else str(r.launches)] * counted
        cells += ["" if r.share_of_iteration is None else f"{r.share_of_iteration:.1%}"] * shared
        table.append(cells)
    note = "\n\nState and transient memory in units of the parameters' own."
    if counted:
        note += " Launches: kernels, copies and fills of a step on a GPU, operators on a CPU."
    return markdown_table(header, table, "llr") + note + "\n"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def main(args: Mapping[str, str]) -> Result | int:
    """Run the command with its ``key=value`` arguments.

    Returns:
        what was found. The table is printed and written to ``steptime.json`` and ``steptime.md``.

    Raises:
        UserError: unknown argument or optimizer, or a value out of range.
    """
    settings = parse(StepTimeSettings, args)
    settings = dataclasses.replace(settings, device=device_name(settings.device))
    _check_device(settings.device)
    torch.set_num_threads(settings.threads)
    models = items(settings.models)
    if settings.plan:
        _show_plans(models, settings)
        return 0
    known = contenders()
    names = items(settings.optimizers) or list(known)
    check_steps(names, known)
    check_place(settings)
    rows: list[StepTime] = []
    for model in models:
        rows += measure(model, names, settings.steps, settings.imgsz, settings.device, settings.batch)
    text = to_markdown(rows)
    print(text)
    folder = make_place(settings)
    record = {"machine": machine(), "settings": settings.to_dict(), "rows": [dataclasses.asdict(r) for r in rows]}
    write_whole(str(folder / "steptime.json"), json.dumps(record, indent=2) + "\n")
    write_whole(str(folder / "steptime.md"), text)
    files = {name: str(folder / name) for name in ("steptime.md", "steptime.json")}
    return Result("steptime", _said(rows), str(folder), files, {"rows": record["rows"]})


def _said(rows: Sequence[StepTime]) -> str:
    """The table in a sentence: MuSGD's step against SGD's."""
    ours = next((r for r in rows if r.optimizer == "MuSGD"), None)
    if ours is None or ours.vs_sgd is None:
        return f"{len(rows)} steps timed"
    return (
        f"{ours.model}: a step of MuSGD takes {ours.vs_sgd:.1f} times as long as SGD's, {ours.median_ms:.1f} ms on "
        "this machine"
    )


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device[:80]} cannot be used: {first_line(error)}") from None


def _show_plans(models: list[str], settings: StepTimeSettings) -> None:
    from yolo_musgd.optim.muon import MuonSGD
    from yolo_musgd.optim.param_groups import muon_exclusions

    for name in models:
        model = real_gradients(name, settings.imgsz).to(settings.device)
        print(f"{name}\n{MuonSGD(ultralytics_groups(model), exclude=muon_exclusions(model)).plan()}\n")
