"""What makes training on a CPU faster: filters in channels_last memory order, and bf16 autocast.

Ultralytics offers both on a GPU only. Layout changes no result but the rounding of sums; bf16 rounds what the layers
multiply to 8 bits of precision.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import LOGGER, colorstr
from ultralytics.utils.torch_utils import unwrap_model

from yolo_musgd.edge.errors import UserError
from yolo_musgd.optim.kernel_plan import has_fast_bf16

ROUNDS = 3  # of each layout, the first of which warms up
PROBE_PIXELS = 4 * 320 * 320  # of a round
WORTH_PIXELS = 20 * 2 * ROUNDS * PROBE_PIXELS  # of a run, for which the probe is a twentieth
MARGIN = 0.95  # what is faster by less may be noise


def prepare(trainer: Any, probing: bool) -> None:
    """Layout and precision of a trainer on a CPU that is set up, by its arguments, and one line that says so.

    The choice of a probe becomes the run's argument, so that a resumed run keeps it.

    Args:
        trainer: of Ultralytics, with ``channels_last`` (None: not decided) and ``cpu_amp`` among its arguments.
        probing: whether a probe may decide.
    """
    args, notes = trainer.args, []
    if args.channels_last:
        notes.append("channels_last")
    elif args.channels_last is None and probing and not args.compile and _is_long(trainer):
        args.channels_last, note = _faster(trainer)
        notes.append(note)
    if args.channels_last:
        for model in (trainer.model, trainer.ema.ema):
            set_layout(model, True)
    if args.cpu_amp:
        forward = Bf16Forward(trainer.model)
        trainer.add_callback("on_train_epoch_start", forward.start)
        trainer.add_callback("on_train_epoch_end", forward.stop)
        notes.append("training in bf16 autocast")
    if any(notes):
        LOGGER.info(f"{colorstr('cpu:')} {', '.join(filter(None, notes))}")


def _is_long(trainer: Any) -> bool:
    """Whether a run is long enough for a probe."""
    epochs, images = trainer.epochs - trainer.start_epoch, len(trainer.train_loader.dataset)
    return bool(epochs * images * trainer.args.imgsz**2 >= WORTH_PIXELS)


def _faster(trainer: Any) -> tuple[bool, str]:
    """Whether channels_last is faster for a trainer's model, and what to say of it."""
    size = trainer.args.imgsz
    shape = (probe_batch(trainer.batch_size, size), trainer.data.get("channels", 3), size, size)
    try:
        plain, nhwc = probe(unwrap_model(trainer.model), shape)
    except Exception as error:  # a model that takes more than images: that it trains matters more
        LOGGER.debug(f"channels_last was not tried: {type(error).__name__}: {error}")
        return False, ""
    faster = nhwc < MARGIN * plain
    verdict = "channels_last" if faster else "filters stay contiguous"
    return faster, f"{verdict} (a probe took {nhwc:.2g} s with channels_last, {plain:.2g} s without)"


def probe_batch(batch: int, imgsz: int) -> int:
    """Images of a round: as many as make up ``PROBE_PIXELS``, at most those of a batch."""
    return max(1, min(batch, PROBE_PIXELS // imgsz**2))


def probe(model: nn.Module, shape: tuple[int, int, int, int], rounds: int = ROUNDS) -> tuple[float, float]:
    """Seconds of one forward and backward pass on noise, the layouts in turns; the model is left alone.

    Args:
        model: takes a batch of images; all that it returns is summed up.
        shape: of the batch: images, channels, height, width.
        rounds: of each layout; the first is not counted.

    Returns:
        Contiguous, channels_last: the least of the rounds.
    """
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(model).train()
    copies = (plain, copy.deepcopy(plain).to(memory_format=torch.channels_last))
    best = [math.inf, math.inf]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # dropout draws numbers that are the run's
        for number in range(rounds):
            for i, module in enumerate(copies):
                start = time.perf_counter()
                torch.stack([t.float().sum() for t in _tensors(module(images))]).sum().backward()  # type: ignore[no-untyped-call]
                if number:
                    best[i] = min(best[i], time.perf_counter() - start)
                module.zero_grad()
    return best[0], best[1]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and dictionaries that depend on weights."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, (list, tuple, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def set_layout(model: nn.Module, channels_last: bool) -> None:
    """Bring all filters into one memory order, in place: whoever holds the parameters still does."""
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@contextmanager
def contiguous(model: nn.Module) -> Iterator[None]:
    """Filters in the order that every reader of a checkpoint expects, while one is written."""
    before = [p.data for p in model.parameters()]
    set_layout(model, False)
    try:
        yield
    finally:
        for p, data in zip(model.parameters(), before, strict=True):
            p.data = data


def require_bf16() -> None:
    """Refuse to emulate bf16.

    Raises:
        UserError: this CPU has no instructions for it.
    """
    if not has_fast_bf16(torch.device("cpu")):
        raise UserError(
            "cpu_amp=True needs a CPU that multiplies in bf16 (AVX512_BF16, AMX, Arm's BF16), which this one does not; "
            "emulated it is slower than fp32: leave cpu_amp out"
        )


class Bf16Forward:
    """Runs a model's forward pass, its loss included, in bf16 autocast between :meth:`start` and :meth:`stop`.

    The hooks must be gone whenever the host copies or saves the model: they could not be loaded without this package.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._contexts: list[Any] = []
        self._hooks: list[Any] = []

    def start(self, *_: Any) -> None:
        """Begin; takes and ignores what a callback is given."""
        self.stop()
        self._hooks = [
            self.model.register_forward_pre_hook(self._enter),
            self.model.register_forward_hook(self._leave, always_call=True),
        ]

    def stop(self, *_: Any) -> None:
        """End; the counterpart of :meth:`start`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _enter(self, *_: Any) -> None:
        self._contexts.append(torch.autocast("cpu", torch.bfloat16))
        self._contexts[-1].__enter__()

    def _leave(self, *_: Any) -> None:
        self._contexts.pop().__exit__(None, None, None)
