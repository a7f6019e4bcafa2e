"""What the plugin adds to a trainer of Ultralytics, as a mixin; `trainer_class` puts it over a given trainer.

:mod:`yolo_musgd.trainers` finds the classes again by name.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, colorstr
from ultralytics.utils.torch_utils import unwrap_model

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.interrupts import Interrupted
from yolo_musgd.edge.options import items
from yolo_musgd.host import quiet_host
from yolo_musgd.optim import registry
from yolo_musgd.optim.hybrid import Hybrid
from yolo_musgd.settings import bare_device
from yolo_musgd.train import activations, batchnorm, cpu, pruned
from yolo_musgd.train.announcement import announce
from yolo_musgd.train.refusals import DataError, explained, remove_empty_run
from yolo_musgd.train.settings import PLUGIN_SETTINGS, TelemetrySettings
from yolo_musgd.train.telemetry import Monitor

PREFIX = "MuSGD"
HOME = "yolo_musgd.trainers"  # where pickle and DDP find the classes again
_GROUP_KEYS = ("params", "lr", "momentum", "weight_decay", "param_group")  # of the host's groups; the rest is SGD's


class MuSGDTrainerMixin:
    """What the plugin adds to a trainer of Ultralytics: optimizers, telemetry, and pruned models that stay pruned."""

    last: Path
    best: Path
    _saved = False  # whether this training has written a checkpoint

    def __init__(self, *args: Any, **kwargs: Any):
        self._monitor: Monitor | None = None
        self._resumes_native = False
        self._fine_tunes = self._new_classes = False
        given: dict[str, Any] = {}  # of cfg and overrides, which a user's own trainer may take in another order
        for source in (*args[:2], kwargs.get("cfg"), kwargs.get("overrides")):
            given |= _as_dict(source)
        check_arguments(given)
        try:
            super().__init__(*args, **kwargs)
        except Exception as error:
            if not given.get("exist_ok"):
                remove_empty_run(getattr(self, "save_dir", None))
            raise explained(error, given, getattr(self, "save_dir", None)) from error
        self._require_readable_folder()

    def _require_readable_folder(self) -> None:
        """Refuse a run folder whose checkpoints the host could not load, before the training rather than after it.

        Raises:
            UserError: an apostrophe in its path, which the host leaves out of the path of a checkpoint.
        """
        folder, args = self.save_dir, self.args  # type: ignore[attr-defined]
        if "'" in str(folder) and registry.find(args.optimizer).build is not None:
            if not args.exist_ok:
                remove_empty_run(folder)
            raise UserError(f"Ultralytics loads no weights from {folder}, for its apostrophe; choose another project=")

    def setup_model(self) -> Any:
        """Build or load the model; note whether a resumed run was one of Ultralytics' own MuSGD.

        The param groups of that one say ``use_muon``.
        """
        checkpoint = super().setup_model()  # type: ignore[misc]
        if getattr(self, "resume", False) and checkpoint:
            saved = (checkpoint.get("optimizer") or {}).get("param_groups", [])
            self._resumes_native = any("use_muon" in group for group in saved)
        return checkpoint

    def get_model(self, cfg: Any = None, weights: Any = None, **kwargs: Any) -> Any:
        """Build the model as the host does, with ``activation=``; a pruned one stays, since no YAML has its widths."""
        self._fine_tunes = weights is not None
        self._new_classes = weights is not None and _classes(weights) not in (None, self.data.get("nc"))  # type: ignore[attr-defined]
        args = vars(self.args)  # type: ignore[attr-defined]
        activation = args.get("activation")
        if pruned.is_pruned(weights):
            model: Any = pruned.trainable(weights, self.data, args.get("dropout") or 0.0)  # type: ignore[attr-defined]
        else:
            if pruned.is_pruned(cfg):
                LOGGER.warning(
                    f"pretrained={args.get('pretrained')} starts from the architecture before pruning, full width"
                )
                cfg = {k: v for k, v in cfg.items() if k != pruned.MARK}
            activation = activation or activations.told(cfg)
            model = super().get_model(cfg=activations.without(cfg), weights=weights, **kwargs)  # type: ignore[misc]
        if activation:
            count = activations.replace(model, activation)
            LOGGER.info(f"{colorstr('activation:')} {activation}, {count} replaced")
        changed = activation or pruned.is_pruned(weights)
        if momentum := args.get("bn_momentum") or (batchnorm.AFTER_CHANGE if changed else None):
            batchnorm.set_momentum(model, momentum)
        return model

    def build_optimizer(self, model: nn.Module, name: str = "auto", *args: Any, **kwargs: Any) -> Optimizer:
        """Build the optimizer that ``name`` means with the plugin; the arguments are the host's."""
        entry = registry.find(name)
        if entry.name == "MuSGD" and self._resumes_native:
            entry = registry.find("MuSGD-native")
        if entry.build is None:
            optimizer: Optimizer = super().build_optimizer(model, entry.host_name, *args, **kwargs)  # type: ignore[misc]
        else:
            self._require_labels()
            with quiet_host():  # its message would name SGD
                host: Optimizer = super().build_optimizer(model, "SGD", *args, **kwargs)  # type: ignore[misc]
            groups = [{k: g[k] for k in _GROUP_KEYS if k in g} for g in host.param_groups]
            start = {registry.FINE_TUNES: self._fine_tunes, registry.NEW_CLASSES: self._new_classes}
            given = {**vars(self.args), **start}  # type: ignore[attr-defined]
            optimizer = entry.build(groups, given, unwrap_model(model))
            self._spare_biases(optimizer)
        settled = self._settle(entry, optimizer)
        announce(entry, optimizer, vars(self.args), settled, self._fine_tunes)  # type: ignore[attr-defined]
        settings = TelemetrySettings.from_mapping(vars(self.args), ignore_unknown=True)  # type: ignore[attr-defined]
        wanted = entry.build is not None if settings.telemetry is None else settings.telemetry
        if wanted and RANK in {-1, 0}:
            entropy = items(settings.telemetry_entropy or "")
            folder = Path(self.save_dir)  # type: ignore[attr-defined]
            typed = type(optimizer).__name__ if entry.name == "auto" else entry.name
            self._monitor = Monitor(folder, model, optimizer, settings.telemetry_layers, entropy, typed)
        return optimizer

    def _setup_train(self, *args: Any, **kwargs: Any) -> None:
        """Set up as the host does; then choose layout and precision on a CPU, where the host has none to choose."""
        settings, wanted = self.args, self.args.channels_last  # type: ignore[attr-defined]
        if self.device.type == "cpu":  # type: ignore[attr-defined]
            settings.channels_last = None  # or the host would say that it ignores it
        super()._setup_train(*args, **kwargs)  # type: ignore[misc]
        if self.device.type == "cpu":  # type: ignore[attr-defined]
            settings.channels_last = wanted
            cpu.prepare(self, probing=isinstance(self.optimizer, Hybrid))  # type: ignore[attr-defined]
        elif settings.cpu_amp:
            LOGGER.warning(f"cpu_amp=True does nothing on {self.device}; amp= is for a GPU")  # type: ignore[attr-defined]

    def save_model(self) -> Any:
        """Save as the host does: whole files or none, filters in the order that every reader expects."""
        files = self.last, self.best
        parts = [file.with_name(f"part-{file.name}") for file in files]
        self.last, self.best = parts  # the host writes into these
        try:
            with cpu.contiguous(self.ema.ema) if self.device.type == "cpu" else nullcontext():  # type: ignore[attr-defined]
                done = super().save_model()  # type: ignore[misc]
            for part, file in zip(parts, files, strict=True):
                if part.exists():  # not every epoch is the best
                    _put(part, file)
            self._saved = True
        finally:
            self.last, self.best = files
            for part in parts:
                part.unlink(missing_ok=True)
        return done

    def optimizer_step(self) -> None:
        """Clip and step as the host does; note the gradient norms before and after the clipping."""
        if self._monitor:
            self._monitor.follow(self.optimizer)  # type: ignore[attr-defined]
        with self._monitor.step() if self._monitor else nullcontext():
            super().optimizer_step()  # type: ignore[misc]

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write a row of results.csv; the epoch's telemetry joins it and the metrics that every logger reads."""
        if self._monitor is not None:
            summary = self._monitor.end_epoch(self.epoch + 1)  # type: ignore[attr-defined]
            self.metrics.update(summary)  # type: ignore[attr-defined]
            # The host may hand last epoch's metrics in again (val=False): our columns must stay the last ones.
            metrics = {k: v for k, v in metrics.items() if k not in summary} | summary
        super().save_metrics(metrics)  # type: ignore[misc]

    def plot_metrics(self) -> None:
        """Plot results.png as the host does, and optimizer.png beside it."""
        super().plot_metrics()  # type: ignore[misc]
        if self._monitor is not None:
            try:
                for picture in self._monitor.plot():
                    self.on_plot(picture)  # type: ignore[attr-defined]
            except Exception as error:  # the model is trained: a picture must not turn that into a failure
                LOGGER.warning(f"the optimizer's pictures could not be drawn: {type(error).__name__}: {error}")

    def train(self) -> Any:
        """Train as the host does; bad data leaves no run folder behind."""
        try:
            if self.ddp and isinstance(self.model, nn.Module):  # type: ignore[attr-defined]
                self._settle_for_workers()
            found = super().train()  # type: ignore[misc]
            self._say_findings()
            return found
        except KeyboardInterrupt:
            raise Interrupted(self._how_to_resume()) from None
        except Exception as error:
            told = explained(error, vars(self.args), self.save_dir, self._command_to_resume())  # type: ignore[attr-defined]
            if not isinstance(told, UserError):
                raise
            if not self.args.exist_ok:  # type: ignore[attr-defined]
                remove_empty_run(self.save_dir)  # type: ignore[attr-defined]
            raise told from (None if told is error else error)

    def _how_to_resume(self) -> str:
        """What to type after an interruption; what was trained before the first epoch's end is lost."""
        command = self._command_to_resume()
        if not command:
            return "interrupted before the first epoch was saved"
        if getattr(self, "stop", False):  # nothing is left to resume
            return f"interrupted after the last epoch; the trained model: {self._trained()}"
        return f"interrupted; {command}"

    def _command_to_resume(self) -> str:
        """What to type; nothing where this training has saved nothing: with exist_ok an earlier one's may lie there."""
        saved = self._saved or self.resume or self.ddp  # type: ignore[attr-defined]
        if not saved or not self.last.is_file():
            return ""
        return f"go on with: yolo train resume=True {shlex.quote(f'model={self.last}')}"

    def _trained(self) -> Path:
        return self.best if self.best.is_file() else self.last

    def _say_findings(self) -> None:
        """The last lines of a training: what the optimizer did, where it can be seen, what to type next."""
        if self._monitor is None:
            return
        try:
            lines = self._monitor.findings()
        except (OSError, UserError) as error:  # the model is trained all the same
            LOGGER.warning(f"the optimizer's record cannot be read: {error}")
            return
        following = f"next: yolo-musgd export {shlex.quote(f'model={self._trained()}')} target=raspberry-pi-5"
        for line in [*lines, following] if lines else []:
            LOGGER.info(line)

    def _require_labels(self) -> None:
        """Refuse a training set without a single object, which Ultralytics would train on for hours.

        Raises:
            DataError: no label in any image.
        """
        data = getattr(getattr(self, "train_loader", None), "dataset", None)
        labels = getattr(data, "labels", None)
        if labels and all("cls" in x and len(x["cls"]) == 0 for x in labels):
            where = getattr(data, "img_path", "the training set")
            chosen = self.args.classes  # type: ignore[attr-defined]
            if chosen is None:
                raise DataError(
                    f"no object is labelled in {where}: {len(labels)} images, 0 boxes; check its labels/ folder"
                )
            raise DataError(
                f"classes={chosen}: no box in {len(labels)} images of {where} is of these classes; choose others"
            )

    def _spare_biases(self, optimizer: Optimizer) -> None:
        """Warm biases up from 0 instead of Ultralytics' 0.1 where that is too much, as it does for its own AdamW."""
        args = self.args  # type: ignore[attr-defined]
        if getattr(optimizer, "normalizes", False) and args.warmup_bias_lr == DEFAULT_CFG.warmup_bias_lr:
            args.warmup_bias_lr = 0.0

    def _settle(self, entry: registry.OptimizerInfo, optimizer: Optimizer) -> list[str]:
        """Write what the start of the weights decided into the arguments, so that loggers and a resume know it.

        Returns:
            The names of these arguments.
        """
        args, group = self.args, optimizer.param_groups[0]  # type: ignore[attr-defined]
        if not group.get("orthogonalize"):  # the article's rule leaves these settings alone
            return []
        names = [k for k in entry.by_start if getattr(args, k) is None]
        for name in names:
            setattr(args, name, group[name])
        return names

    def _settle_for_workers(self) -> None:
        """Write the same before DDP starts its workers, which are handed a model that does not say how it started."""
        args, entry = self.args, registry.find(self.args.optimizer)  # type: ignore[attr-defined]
        start = {registry.FINE_TUNES: self._fine_tunes, registry.NEW_CLASSES: self._new_classes}
        resolved = registry.resolved({**vars(args), **start})
        for name in entry.by_start if args.orthogonalize else ():
            setattr(args, name, resolved[name])


def _put(part: Path, file: Path) -> None:
    """Rename a file; copy it where it cannot be renamed: on Windows while somebody reads the old one."""
    try:
        part.replace(file)
    except PermissionError:
        shutil.copyfile(part, file)


def check_arguments(args: Mapping[str, Any]) -> None:
    """Check the plugin's arguments before anything is written.

    Raises:
        SettingsError: unknown optimizer, wrong type or value out of range.
        UserError: a GPU that is not here, or bf16 on a CPU without it.
    """
    entry = registry.find(args.get("optimizer") or "auto")
    if entry.build is not None:
        _require_gpu(args.get("device"))
    for cls in PLUGIN_SETTINGS:
        cls.from_mapping(args, ignore_unknown=True)
    if args.get("cpu_amp"):
        cpu.require_bf16()


def _require_gpu(device: Any) -> None:
    """Say in a line what Ultralytics says in a traceback."""
    typed = bare_device(device)
    if re.fullmatch(r"(cuda:)?\d+(,(cuda:)?\d+)*", typed) and not torch.cuda.is_available():
        raise UserError(f"device={typed}: PyTorch sees no GPU here; device=cpu trains without one")


def _classes(weights: nn.Module) -> int | None:
    """Number of classes that the head of a model was made for; None where it does not say."""
    layers = getattr(unwrap_model(weights), "model", None)
    count = getattr(layers[-1], "nc", None) if isinstance(layers, nn.Sequential) and len(layers) else None
    return count if isinstance(count, int) else None


def _as_dict(cfg: Any) -> dict[str, Any]:
    if cfg is None or isinstance(cfg, (str, Path)):
        return {}
    return dict(cfg) if isinstance(cfg, Mapping) else dict(vars(cfg))


@cache
def trainer_class(base: type) -> type:
    """Our trainer for a trainer class of Ultralytics; a class that is ours already is returned as it is.

    Args:
        base: subclass of ultralytics.engine.trainer.BaseTrainer.
    """
    if issubclass(base, MuSGDTrainerMixin):
        return base
    importlib.import_module(HOME)  # pickle takes a class by its name only where the module of that name is loaded
    doc = f"{base.__name__} of Ultralytics with yolo-musgd's optimizers and telemetry."
    return type(PREFIX + base.__name__, (MuSGDTrainerMixin, base), {"__module__": HOME, "__doc__": doc})
