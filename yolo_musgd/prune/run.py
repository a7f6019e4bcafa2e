"""One pruning run, from a checkpoint to a report: what ``yolo-musgd prune`` does, in the order it does it."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from ultralytics.utils import LOGGER

from yolo_musgd.data.reader import Rules, check, judging_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import items
from yolo_musgd.prune import finetuning, measuring, pruning_report, sparse, stock_checkpoint
from yolo_musgd.prune.channel_graph import Cost, PruneGraph
from yolo_musgd.prune.importance import score
from yolo_musgd.prune.schedule import Removal, schedule
from yolo_musgd.prune.search import PruningTarget, by_arithmetic, by_latency, flops_for
from yolo_musgd.prune.settings import RUNTIMES, PruneSettings
from yolo_musgd.prune.training_images import Images, check_classes, recalibrate
from yolo_musgd.train import activations
from yolo_musgd.train.pruned import MARK

DEFAULT_ROUND_TO = 16


@dataclasses.dataclass
class PruningPlan:
    """A model that is cut but not yet saved.

    Attributes:
        model: stock module; BatchNorm is as pruning left it until ``recalibrated``.
        before: cost of the model that was given.
        after: cost of this one.
        log: the decisions, a line each.
        recalibrated: BatchNorm was set anew.
    """

    model: Any
    before: Cost
    after: Cost
    log: list[str]
    recalibrated: bool = False


class Run:
    """Checks everything that can be wrong when it is made, and works afterwards.

    Args:
        settings: of the command.

    Raises:
        UserError: model, data, recipe, runtime or release that cannot be used.
    """

    def __init__(self, settings: PruneSettings) -> None:
        self.settings = settings
        self.model, self.saved = stock_checkpoint.load(settings.require("model"))
        trained = self.saved.get("train_args") or {}
        size = settings.imgsz or trained.get("imgsz") or 640
        self.imgsz = int(max(size) if isinstance(size, (list, tuple)) else size)
        if self.imgsz % int(max(self.model.stride)):
            raise UserError(f"imgsz must be a multiple of {int(max(self.model.stride))}, got {self.imgsz}")
        self.data_name = settings.data or trained.get("data")
        if self.data_name is None:
            raise UserError(f"data= is missing: model={settings.model} does not say what it was trained on")
        self.data = check(str(self.data_name), settings.data is not None, self.model.task)
        rules = dataclasses.replace(Rules.of_training(trained), task=self.model.task)
        check_classes(self.model, self.data, str(self.data_name), rules)
        chosen = self.imgsz, settings.images, settings.batch, settings.seed
        self.images, self.augmented = (Images(self.data, rules, *chosen, augment) for augment in (False, True))
        self.arguments = finetuning.training_arguments(settings, str(self.data_name), self.imgsz, rules)
        if settings.teacher:
            finetuning.check_teacher(settings.teacher, self.model.names, self.model.task)
        self.runtimes = self._runtimes()
        # classification has folders in place of label files
        has_test = self.data.get("test") if self.model.task == "classify" else judging_split(self.data, rules) == "test"
        self.split = "test" if has_test else "val"

    def _runtimes(self) -> list[str]:
        """Runtimes to time before and after."""
        asked = self.settings.bench
        if self.settings.ladder:
            chosen = ["onnx-fp32"]  # what it writes
        elif asked == "none" or (asked == "auto" and self.model.task != "detect"):
            chosen = []
        elif asked == "auto":
            chosen = [r for r in RUNTIMES if not measuring.missing(r)]
        else:
            chosen = items(asked)
        if self.settings.latency is not None and not self.settings.table:
            measuring.require(self.settings.runtime)
            chosen = list(dict.fromkeys([self.settings.runtime, *chosen]))
        if chosen and self.model.task != "detect":
            raise UserError(f"latency is measured for task=detect, this model is for {self.model.task}: use flops=-0.4")
        for runtime in chosen:
            measuring.require(runtime)
        return chosen

    def graph(self, model: Any, whole: Mapping[str, int] | None = None) -> PruneGraph:
        """A graph of a model with this run's rounding, layers to keep and cap, of the widths in ``whole``."""
        chosen = self.settings
        step = chosen.round_to or DEFAULT_ROUND_TO
        return PruneGraph(model, self.imgsz, step, chosen.layers_to_keep, chosen.max_ratio, whole)

    def choose(self) -> PruningPlan:
        """Score and cut, in one step or several; nothing is written.

        Raises:
            UserError: the target cannot be met.
        """
        chosen, model = self.settings, self.model
        graph = self.graph(model)
        before, whole = graph.cost(), graph.widths()
        after = before
        log: list[str] = []
        target = self._target(log)
        for step in range(1, chosen.steps + 1) if chosen.flops != 0 else ():
            graph = self.graph(model, whole)
            if not graph.units:
                raise UserError("no layer may be pruned: give a smaller round_to or fewer layers in keep")
            scores = score(graph, chosen.importance, self.images, chosen.seed)
            removals = schedule(graph, scores, chosen.chosen_allocation)
            if target.kind == "latency":
                kept = self._by_latency(scores, removals, log)
            else:
                share = 1 - (1 - target.share) * step / chosen.steps
                kept = by_arithmetic(
                    graph, removals, PruningTarget(target.kind, share), float(getattr(before, target.kind))
                )
            after = graph.cost(kept)
            narrowed = sum(k < u.channels for k, u in zip(kept, graph.units, strict=True))
            _say(
                f"step {step} of {chosen.steps}: {chosen.importance} importance, {chosen.chosen_allocation}: "
                f"{narrowed} of {len(graph.units)} units narrowed, {after.flops / before.flops - 1:+.1%} FLOPs, "
                f"{after.params / before.params - 1:+.1%} parameters",
                log,
            )
            model = graph.apply(graph.removed(kept, scores))
            if step < chosen.steps:
                recalibrate(model, self.augmented)
        return PruningPlan(self.activated(model, log), before, after, log)

    def activated(self, model: Any, log: list[str] | None = None) -> Any:
        """The model with the activations that were asked for; a copy where it is the given one."""
        chosen = self.settings.activation
        if not chosen:
            return model
        model = copy.deepcopy(model) if model is self.model else model
        count = activations.replace(model, chosen)
        if log is not None:
            _say(f"{count} activations are {chosen} now", log)
        return model

    def _by_latency(self, scores: list[Tensor], removals: list[Removal], log: list[str]) -> list[int]:
        chosen = self.settings
        with self._exported(self.model) as base:

            def times(cut: Any) -> dict[str, float]:
                with self._exported(self.activated(cut)) as trial:
                    return measuring.times(base, trial, chosen.runtime)

            return by_latency(
                lambda: self.graph(self.model), scores, removals, times, chosen.latency or 1.0, chosen.tolerance,
                lambda line: _say(f"{chosen.runtime}: {line}", log),
            )  # fmt: skip

    def _exported(self, model: Any) -> measuring.Exported:
        return measuring.Exported(model, self.imgsz, str(self.data_name))

    def _target(self, log: list[str]) -> PruningTarget:
        chosen = self.settings
        if chosen.latency is not None and chosen.table:
            share = flops_for(items(chosen.table), chosen.latency)
            _say(f"the board's reports say that {chosen.latency:g} of the time is {share:.3f} of the FLOPs", log)
            return PruningTarget("flops", share)
        if chosen.latency is not None:
            return PruningTarget("latency", chosen.latency)
        if chosen.params is not None:
            return PruningTarget("params", 1 + chosen.params)
        return PruningTarget("flops", 1 + (chosen.flops if chosen.flops is not None else -0.4))

    def cut(self, plan: PruningPlan, folder: Path) -> None:
        """Measure the cut model, recalibrate it where that is better, and save it as ``pruned.pt``."""
        chosen = self.settings
        earlier = self.model.yaml.get(MARK) or {}
        note = {
            "flops": round(plan.after.flops / plan.before.flops, 4),
            "params": round(plan.after.params / plan.before.params, 4),
            "times": int(earlier.get("times", 0)) + 1,
        } if chosen.flops != 0 else earlier  # fmt: skip
        record = self._record(plan)
        accuracy = record["accuracy"]
        base = stock_checkpoint.save(self.model, folder / "base.pt", self.saved, earlier)
        accuracy["base"] = self._validate(base, folder)
        accuracy["cut"] = self._judged(plan.model, folder, self.split)
        if chosen.recalibrate:
            self._recalibrate(plan, folder, accuracy["cut"])
        if chosen.sparse != "none":
            record["sparsity"] = sparse.sparsify(plan.model, chosen.sparse, chosen.sparsity)
            _say(f"{chosen.sparse} masks: {record['sparsity']['total']:.1%} of the weights are zero", plan.log)
        file = stock_checkpoint.save(plan.model, folder / "pruned.pt", self.saved, note)
        if plan.recalibrated or chosen.sparse != "none":
            accuracy["recalibrated"] = self._validate(file, folder)
        record["size_mb"] = {"before": _megabytes(base), "after": _megabytes(file)}
        self._write(folder, record)

    def _record(self, plan: PruningPlan) -> dict[str, Any]:
        return {
            "schema": "yolo-musgd/prune/1",
            "model": str(self.settings.model),
            "task": self.model.task,
            "imgsz": self.imgsz,
            "data": str(self.data_name),
            "split": self.split,
            "cost": {"before": dataclasses.asdict(plan.before), "after": dataclasses.asdict(plan.after)},
            "activation": self.settings.activation,
            "layers": pruning_report.layer_table(self.model, plan.model),
            "accuracy": {},
            "latency_ms": {},
            "sparsity": None,
            "log": plan.log,
        }

    def _recalibrate(self, plan: PruningPlan, folder: Path, cut: dict[str, Any]) -> None:
        """Recalibrate BatchNorm, unless val says that the model was better before: a lightly cut one may be.

        Args:
            plan: gets the model that is kept.
            folder: of the run.
            cut: figures of the model as it is, on the split that judges.
        """
        fresh = copy.deepcopy(plan.model)
        recalibrate(fresh, self.augmented)
        before = (cut if self.split == "val" else self._judged(plan.model, folder, "val"))["map50_95"]
        after = self._judged(fresh, folder, "val")["map50_95"]
        if after >= before:
            plan.model, plan.recalibrated = fresh, True
        else:
            _say(f"BatchNorm stays: {before:.4f} on val as it is, {after:.4f} recalibrated", plan.log)

    def _judged(self, model: Any, folder: Path, split: str) -> dict[str, Any]:
        """Figures of a model that is not kept in a file."""
        file = stock_checkpoint.save(model, folder / "pruned.part.pt", self.saved, {})
        try:
            return self._validate(file, folder, split)
        finally:
            file.unlink()

    def finish(self, folder: Path) -> None:
        """Fine-tune, run the control arms, time and report; what an earlier run has finished is not done again."""
        record = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
        chosen, accuracy = self.settings, record["accuracy"]
        for arm, model, extra in self._arms(folder, record):
            if arm not in accuracy:
                held = chosen.sparse != "none" and arm == "finetune"
                best = finetuning.train(str(model), folder, arm, {**self.arguments, **extra}, held)
                accuracy[arm] = self._validate(best, folder)
                record.setdefault("curves", {})[arm] = finetuning.curve(folder, arm)
                self._write(folder, record)
        if chosen.epochs:
            write_whole(str(folder / "best.pt"), (folder / "finetune" / "weights" / "best.pt").read_bytes())
        self._time(folder, record)
        shutil.rmtree(folder / "val", ignore_errors=True)
        pruning_report.write(folder, record)

    def _arms(self, folder: Path, record: dict[str, Any]) -> list[tuple[str, Path, dict[str, Any]]]:
        chosen = self.settings
        arms: list[tuple[str, Path, dict[str, Any]]] = []
        if chosen.epochs:
            teacher = folder / "base.pt" if chosen.teacher == "base" else Path(chosen.teacher or "")
            extra: dict[str, Any] = {"distill_model": str(teacher.resolve())} if chosen.teacher else {}
            arms.append(("finetune", folder / "pruned.pt", extra))
        if chosen.control and chosen.epochs:
            arms.append(("control", folder / "base.pt", {}))
        if chosen.scratch:
            file = folder / "scratch.yaml"
            if not file.exists():
                import yaml

                content = finetuning.narrower(self.model, record["cost"]["after"]["flops"], self.imgsz)
                write_whole(str(file), yaml.safe_dump(content, sort_keys=False))
            trained = int((self.saved.get("train_args") or {}).get("epochs") or 0)
            extra = {"epochs": chosen.scratch_epochs or max(1, trained + chosen.epochs)}
            arms.append(("scratch", file, {**extra, "activation": chosen.activation}))
        return arms

    def _time(self, folder: Path, record: dict[str, Any]) -> None:
        left = [runtime for runtime in self.runtimes if runtime not in record["latency_ms"]]
        if not left:
            return
        model: nn.Module = stock_checkpoint.load(str(folder / ("best.pt" if self.settings.epochs else "pruned.pt")))[0]
        with self._exported(self.model) as base, self._exported(model) as cut:
            for runtime in left:
                record["latency_ms"][runtime] = measuring.times(base, cut, runtime)
                self._write(folder, record)

    def _validate(self, model: Path, folder: Path, split: str | None = None) -> dict[str, Any]:
        found = finetuning.validate(model, self.arguments, split or self.split, self.settings, folder / "val")
        return dataclasses.asdict(found)

    def _write(self, folder: Path, record: dict[str, Any]) -> None:
        write_whole(str(folder / "prune.json"), json.dumps(record, indent=1) + "\n")


def _say(line: str, log: list[str]) -> None:
    LOGGER.info(f"prune: {line}")
    log.append(line)


def _megabytes(file: Path) -> float:
    return round(file.stat().st_size / 1e6, 3)
