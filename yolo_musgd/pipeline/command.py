"""``yolo-musgd pipeline``: plans the steps, runs those that are not done, and writes the report."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.result import Result
from yolo_musgd.edge.runtimes.artifact import MANIFEST
from yolo_musgd.export.bundle import copy_over
from yolo_musgd.export.targets import load_target
from yolo_musgd.lab.store import read_results
from yolo_musgd.pipeline import dag, inputs
from yolo_musgd.pipeline.choose import SizeChoice, choose
from yolo_musgd.pipeline.dataset import DataSet, read_data
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.pipeline_report import FinishedPipeline, write_report
from yolo_musgd.pipeline.progress import in_words
from yolo_musgd.pipeline.samples import photos
from yolo_musgd.pipeline.settings import PipelineSettings, read_settings
from yolo_musgd.pipeline.step import Step
from yolo_musgd.places import check_parent
from yolo_musgd.resources import read_recipe

OVERHEAD = 1.15  # of an epoch beside training: validation, checkpoints
CACHE = ".files.json"


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Returns:
        what was found. In the folder are report.html, report.json, steps/ and the bundle in steps/bundle.

    Raises:
        UserError: bad arguments, or a step failed; what is finished is kept, and the same command goes on.
    """
    settings, recipe = read_settings(args)
    check_parent(settings.save_dir or settings.project, settings.name, "save_dir" if settings.save_dir else "project")
    plugin.register()  # the data YAMLs and training recipes that ship with us are found by name
    load_target(settings.target).check(_precision(settings), load_target(settings.target).heads[0])
    inputs.require_packages(settings, _precision(settings))
    if settings.images:
        photos(settings.images)
    recipes = inputs.recipes(settings)  # before a download
    data = read_data(str(settings.data), inputs.rules_of(settings))
    inputs.check_images(settings, data)
    inputs.check_teacher(settings, data)
    choice = choose(settings) if settings.target_fps else None
    folder, model = settings.folder, choice.model if choice else settings.model
    inputs.check_model(settings, model)
    file = inputs.find_model(model, fetch=not settings.dry_run)
    inputs.check_task(model, file)
    known = {"model": inputs.of_model(model, file), **recipes}
    if settings.dry_run:
        cache = folder / CACHE if folder.is_dir() else None
        runner = Runner(folder, inputs.collect(settings, data, known, cache), settings.resume_after)
        print(_overview(runner, _plan(settings, data, choice, runner), settings, recipe, choice))
        if file is None and inputs.published(model):
            print(f"model={model} is not here yet; it is downloaded when the steps are done")
        return Result("pipeline", "this is the plan; no step was done", next="the same command without dry_run=True")
    with _alone(folder):
        things = inputs.collect(settings, data, known, folder / CACHE)
        runner = Runner(folder, things, settings.resume_after, settings.verbose)
        write_whole(str(folder / "args.yaml"), yaml.safe_dump(settings.to_dict(), sort_keys=False))
        print(_title(settings, recipe, choice))
        try:
            if settings.max_hours is not None:
                runner.run([dag.probe(_first_plan(settings, data, choice))])
            plan = _plan(settings, data, choice, runner)
            print(_to_do(runner, plan), flush=True)
            plan = _run_steps(runner, plan)
        except KeyboardInterrupt:
            print("interrupted; what is finished is kept, and the same command goes on from here", flush=True)
            raise
        finished = FinishedPipeline(settings, recipe, plan, data, choice, runner)
        print("\n" + write_report(finished))
    return _result(finished)


def _result(finished: FinishedPipeline) -> Result:
    """The final model against the base, in a sentence."""
    folder, bundle = finished.runner.folder, finished.runner.place(dag.Names(finished.plan).bundle)
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    base, final = figures["rows"][0], figures["rows"][-1]
    said = (
        f"{figures['labels']['final']}: mAP50-95 {final['map50_95']:.3f} on {figures['split']} (base "
        f"{base['map50_95']:.3f}), {final['size_bytes'] / 1e6:.1f} MB (base {base['size_bytes'] / 1e6:.1f})"
    )
    archive = next(bundle.glob("edge-*.tar.gz"), bundle)
    files = {"page": str(folder / "report.html"), "figures": str(folder / "report.json"), "bundle": str(archive)}
    return Result("pipeline", said, str(folder), files, figures, copy_over(archive))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; a second pipeline in it would take the first one's files for its own.

    Raises:
        UserError: another one holds it, or the folder belongs to something else.
    """
    from filelock import FileLock, Timeout

    args = folder / "args.yaml"
    known = "finetune_epochs" in read_recipe(args) if args.is_file() else not folder.is_dir()  # a training has one, too
    if not known and any(not file.name.startswith(".") for file in folder.iterdir()):  # .lock and the like are ours
        raise UserError(f"{folder} holds something else than a pipeline; choose another name=")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another pipeline is at work in {folder}; wait for it, or choose another name=") from None


def _precision(settings: PipelineSettings) -> str:
    return settings.precision or load_target(settings.target).precision


def _first_plan(settings: PipelineSettings, data: DataSet, choice: SizeChoice | None) -> dag.PipelinePlan:
    imgsz = choice.imgsz if choice else settings.imgsz or 640
    return dag.PipelinePlan(
        settings, imgsz, _precision(settings), settings.epochs, settings.finetune_epochs, settings.flops,
        len(data.images["train"]), data.judged,
    )  # fmt: skip


def _plan(settings: PipelineSettings, data: DataSet, choice: SizeChoice | None, runner: Runner) -> dag.PipelinePlan:
    """The plan with its epochs cut to ``max_hours``, once an epoch has been timed.

    Raises:
        UserError: not even one epoch fits.
    """
    plan = _first_plan(settings, data, choice)
    seconds = read_results(runner.place("probe") / "run" / "results.csv").get("time")
    if settings.max_hours is None or not seconds:
        return plan
    used = min(plan.train_images, dag.PROBE_IMAGES)
    epoch = seconds[0] * plan.train_images / used * OVERHEAD
    rest = sum(s.seconds for s in dag.steps_of(plan) if not s.epochs)
    share = 0.4 + 0.6 * (1 + plan.cut)  # a pruned model's epoch; data loading does not shrink with it
    tuned = plan.finetune_epochs if plan.prunes else 0
    wanted, first = plan.epochs + tuned * share, plan.epochs or tuned
    least = rest + (epoch * wanted / first if first else 0)  # one epoch of the first training, the second in proportion
    if settings.max_hours * 3600 < least:
        raise UserError(
            f"max_hours={settings.max_hours:g} is too little: an epoch takes {in_words(epoch)} here and the steps that "
            f"do not train about {in_words(rest)}; give at least max_hours={math.ceil(least / 36) / 100:g}"
        )
    scale = min(1.0, (settings.max_hours * 3600 - rest) / (epoch * wanted)) if wanted else 1.0
    return dataclasses.replace(
        plan, epochs=max(1, int(plan.epochs * scale)) if plan.epochs else 0,
        finetune_epochs=max(1, int(plan.finetune_epochs * scale)) if plan.finetune_epochs else 0,
    )  # fmt: skip


def _run_steps(runner: Runner, plan: dag.PipelinePlan) -> dag.PipelinePlan:
    """Run the steps; with ``max_drop``, again with a gentler cut where the final model lost too much.

    Returns:
        The plan that was kept.
    """
    limit = plan.settings.max_drop
    cuts = [plan.cut] if limit is None or not plan.cut else [plan.cut, plan.cut / 2, 0.0]
    for cut in cuts:
        plan = dataclasses.replace(plan, cut=cut)
        steps = dag.steps_of(plan)
        judged = [s.name for s in steps].index(dag.Names(plan).measure)
        runner.run(steps[:judged], total=len(steps))
        drop = drop_on_val(runner, plan)
        if limit is not None and drop is not None and drop > limit:
            what = f"{-cut:.0%} fewer FLOPs and {plan.precision}" if cut else f"{plan.precision} without pruning"
            note = f"{what} cost {drop:.4f} mAP50-95 on val, more than max_drop={limit:g}"
            runner.notes.append(note)
            print(f"    {note}", flush=True)
            if cut != cuts[-1]:
                continue
        runner.run(steps[judged:], judged, len(steps))
        return plan
    raise AssertionError("the last cut is always kept")


def _to_do(runner: Runner, plan: dag.PipelinePlan) -> str:
    states = runner.states(dag.steps_of(plan))
    left = [s.seconds for s in states if s.reason]
    if not left:
        return "everything is done; the report is written anew"
    return f"{len(left)} of {len(states)} steps to do, about {in_words(sum(left))} (a first guess)"


def drop_on_val(runner: Runner, plan: dag.PipelinePlan) -> float | None:
    """MAP50-95 on val of the FP32 base minus that of the final model; None where it was not measured."""
    names = dag.Names(plan)
    base, final = (_map_on_val(runner.place(n)) for n in ("export-base", names.final))
    if base is None or final is None:
        return None
    return base["fp32"] - final[plan.precision]


def _map_on_val(step: Path) -> dict[str, float] | None:
    file = next(step.glob(f"export/*_model/{MANIFEST}"))
    found: dict[str, float] | None = json.loads(file.read_text(encoding="utf-8"))["map50_95"]
    return found


def _in_a_line(choice: SizeChoice, settings: PipelineSettings) -> str:
    precision = _precision(settings)
    made = f"{precision.upper()} for {dag.runtime_of(settings, precision)}"
    return (
        f"; {choice.model} at {choice.imgsz} px, estimated {choice.estimated_fps:.0f} FPS on the board "
        f"(by FLOPs from {choice.anchor.model} at {choice.anchor.imgsz} px in {choice.anchor.ms:g} ms: "
        f"{choice.anchor.how}; the bundle is {made}, whose speed may differ)"
    )


def _title(settings: PipelineSettings, recipe: str | None, choice: SizeChoice | None) -> str:
    """Where the results go, and what was chosen for the user."""
    by = f": recipe {recipe}" if recipe else ""
    return f"{settings.folder}{by}" + (_in_a_line(choice, settings) if choice else "")


def _overview(
    runner: Runner, plan: dag.PipelinePlan, settings: PipelineSettings, recipe: str | None, choice: SizeChoice | None
) -> str:
    """What is done and what is to do, with the commands."""
    steps: Sequence[Step] = dag.steps_of(plan)
    probed = settings.max_hours is not None
    if probed:
        steps = [dag.probe(plan), *steps]
    states = runner.states(steps)
    width = max(len(s.name) for s in steps)
    lines = [_title(settings, recipe, choice)]
    for state in states:
        todo = f"to do, about {in_words(state.seconds)} ({state.reason})" if state.reason else "done"
        lines += [f"{state.step.name:{width}}  {todo}", f"{'':{width}}    {' '.join(state.step.words)}"]
    left = sum(s.seconds for s in states if s.reason)
    lines.append(f"to do in all: about {in_words(left)}, a first guess" if left else "everything is done")
    if probed and states[0].reason:
        lines.append("the epochs above are the most; max_hours= cuts them to fit once an epoch has been timed")
    if settings.max_drop is not None and plan.cut:
        lines.append(
            f"where the drop exceeds max_drop={settings.max_drop:g}: again with half the pruning, then without"
        )
    places = ", ".join(f"{{{name}}} is {thing.path}" for name, thing in runner.inputs.items())
    return "\n".join([*lines, f"{places}; {{step}} is the folder of a step, {{out}} the step's own"])
