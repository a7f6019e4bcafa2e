"""A comparison: what is missing is trained, what is finished is reported, and the same command goes on."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml
from ultralytics.utils import LOGGER

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import items
from yolo_musgd.edge.result import Result
from yolo_musgd.lab.arms import Arm, arms, none_failed
from yolo_musgd.lab.cost import core_hours
from yolo_musgd.lab.protocol import Protocol
from yolo_musgd.lab.runner import Executor, LocalExecutor, Outcome, do_runs
from yolo_musgd.lab.settings import CompareSettings
from yolo_musgd.lab.store import Store
from yolo_musgd.resources import read_recipe

PROTOCOL_FILE = "protocol.yaml"


def compare(settings: CompareSettings, name: str, protocol: Protocol) -> Result:
    """Train what is missing and report.

    Args:
        settings: arguments of the command.
        name: folder of the comparison.
        protocol: what is compared.

    Returns:
        what was found; the report and its figures are in project/name.

    Raises:
        UserError: another comparison's folder, a data set or an argument that cannot be, or a run that failed.
    """
    folder = Path(settings.save_dir or Path(settings.project) / name)
    _check_folder(folder, protocol)
    imports = items(settings.imports or "")
    plan = arms(protocol)
    store = Store(Path(settings.store or Path(settings.project) / "store").resolve(), imports)
    LOGGER.info(overview(plan, store))
    outcome = Outcome()
    if not settings.dry_run:
        executor = _executor(settings, plan[0].spec({}, 0).resolved["device"])
        _prepare_folder(folder, protocol, settings)
        try:
            outcome = do_runs(plan, store, executor)
        except KeyboardInterrupt:
            LOGGER.info("finished runs are kept: the same command goes on from here")
            raise
    finished = any(arm.finished(store.find, outcome.failed) for arm in plan)
    files: list[Path] = []
    if finished:
        from yolo_musgd.lab.comparison_report import write_report

        _prepare_folder(folder, protocol, settings)
        files = write_report(plan, store, folder, name, outcome.failures)
    if outcome.failures:
        raise UserError(
            f"{len(outcome.failures)} of {sum(a.total_runs() for a in plan)} runs failed, the report lacks them; "
            f"each has its log in {store.folder}/<run>/log.txt, and the same command tries them again"
        )
    if not finished:
        return Result(
            "compare", "nothing is finished yet, and dry_run=True trains nothing", next="the same command without it"
        )
    data = shlex.quote(f"data={protocol.data[0].data}") if len(protocol.data) == 1 else "data=<yours>"
    return _result(folder, files, data)


def _result(folder: Path, files: Sequence[Path], data: str) -> Result:
    """What the report says, shortened; the figures in full are those of report.json."""
    from yolo_musgd.lab.comparison_tables import summary, winner

    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    best = winner(figures)
    following = f"yolo train {best} {data}" if best else ""
    named = {"page": str(folder / "report.html"), **{file.name: str(file) for file in files}}
    return Result("compare", summary(figures), str(folder), named, figures, following)


def _check_folder(folder: Path, protocol: Protocol) -> None:
    """Refuse a folder that holds another comparison.

    Raises:
        UserError: its protocol differs; the message names the first difference.
    """
    file = folder / PROTOCOL_FILE
    if not file.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something else than a comparison; choose another name=")
        return
    before, now = read_recipe(file), protocol.to_dict()
    changed = [k for k in now if before.get(k) != now[k]]
    if changed:
        raise UserError(
            f"{folder} holds the comparison of another protocol ({', '.join(changed)} differ); choose another name=: "
            "finished runs are found again all the same"
        )


def _prepare_folder(folder: Path, protocol: Protocol, settings: CompareSettings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in ((PROTOCOL_FILE, protocol.to_dict()), ("args.yaml", settings.to_dict())):
        write_whole(str(folder / file), yaml.safe_dump(content, sort_keys=False))


def _executor(settings: CompareSettings, device: str) -> Executor:
    if settings.ray:
        from yolo_musgd.lab.cluster import RayExecutor

        gpus = float(device == "cuda")
        return RayExecutor(settings.ray, settings.jobs, settings.threads or 1, settings.keep_weights, gpus)
    jobs = settings.jobs or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return LocalExecutor(jobs, settings.threads or max(1, cores // jobs), settings.keep_weights)


def overview(plan: list[Arm], store: Store) -> str:
    """A table of what is finished and what is missing, and what that will cost."""
    width = max(len(a.label) for a in plan)
    lines = [f"{'':{width}}  epochs  runs  finished"]
    for arm in plan:
        done = len(arm.finished(store.find, none_failed))
        lines.append(f"{arm.label:{width}}  {arm.epochs:6d}  {arm.total_runs():4d}  {done:8d}")
    finished = [s for a in plan for s in a.finished(store.find, none_failed)]
    missing = sum(a.total_epochs() for a in plan) - sum(s.epochs for s in finished)
    line = f"{missing} epochs to train"
    if missing:
        hours, basis = core_hours(plan, store)
        minutes = max(1, round(hours * 60))
        cost = f"{hours:.1f} core hours" if hours >= 1 else f"{minutes} core minute{'s' * (minutes > 1)}"
        line += f", about {cost} ({basis})"
    return "\n".join([*lines, line])
