"""``yolo-musgd prune``: score, cut to the target, recalibrate, fine-tune, compare with the control arms, report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.result import Result
from yolo_musgd.places import check_place, check_replaced, make_place, set_aside
from yolo_musgd.prune.settings import PruneSettings, read_settings
from yolo_musgd.resources import install, read_recipe

if TYPE_CHECKING:
    from yolo_musgd.prune.run import Run


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Returns:
        what was found; in the folder are best.pt (or pruned.pt without fine-tuning), report.md, prune.json.

    Raises:
        UserError: bad arguments, model, data or target; nothing has been written then.
    """
    if find_spec("torch_pruning") is None:
        raise UserError(f"torch-pruning is not installed: {install('prune')}")
    settings, folder = _resumed(args) if "resume" in args else (read_settings(args), None)
    if folder is None:
        check_place(settings)
    from yolo_musgd.host import quiet_host
    from yolo_musgd.prune.run import Run

    with contextlib.nullcontext() if settings.verbose else quiet_host():
        return _prune(Run(settings), folder)


def _prune(run: Run, folder: Path | None) -> Result:
    """Do what the settings ask for; ``folder`` is the one to go on with."""
    from yolo_musgd.prune.pruning_report import LAYERS

    settings = run.settings
    if settings.ladder:
        from yolo_musgd.prune.ladder import CUTS, write_ladder

        with _new_place(settings) as folder:
            write_ladder(run, folder)
        said = f"{len(CUTS)} models, from none to {CUTS[-1]:.0%} fewer FLOPs, to measure on the board"
        files = {file.name: str(file) for file in sorted(folder.iterdir())}
        return Result("prune", said, str(folder), files, {}, f"yolo-musgd bundle model={folder}/<one of them>.onnx")
    if folder is None:
        plan = run.choose()  # may fail on a target that cannot be met: before anything is written
        content = {k: v for k, v in dataclasses.asdict(settings).items() if k != "resume"}
        content |= {"model": _absolute(str(settings.model)), "data": _absolute(str(run.data_name))}
        if settings.cfg and Path(settings.cfg).is_file():  # else one that ships
            content["cfg"] = _absolute(settings.cfg)
        if settings.teacher not in (None, "base"):
            content["teacher"] = _absolute(str(settings.teacher))
        with _new_place(settings) as folder:
            write_whole(str(folder / "args.yaml"), yaml.safe_dump(content, sort_keys=False))
            run.cut(plan, folder)
    try:
        run.finish(folder)
    except KeyboardInterrupt:
        print(f"go on with: yolo-musgd prune resume={folder}")
        raise
    text, _, _ = (folder / "report.md").read_text(encoding="utf-8").partition(LAYERS)  # a hundred lines, in the file
    print(text)
    return _result(settings, folder)


def _result(settings: PruneSettings, folder: Path) -> Result:
    record = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
    before, after, accuracy = record["cost"]["before"], record["cost"]["after"], record["accuracy"]
    model = folder / ("best.pt" if settings.epochs else "pruned.pt")
    final = accuracy.get("finetune") or accuracy.get("recalibrated") or accuracy["cut"]
    figures = {
        "flops": round(after["flops"] / before["flops"] - 1, 4),
        "params": round(after["params"] / before["params"] - 1, 4),
        "map50_95": round(final["map50_95"], 5),
        "base_map50_95": round(accuracy["base"]["map50_95"], 5),
        "size_mb": record["size_mb"]["after"],
        "split": record["split"],
        "latency_ms": record["latency_ms"],
    }
    metric = "top-1" if record["task"] == "classify" else "mAP50-95"
    said = (
        f"{figures['flops']:+.0%} FLOPs, {figures['params']:+.0%} parameters, {metric} "
        f"{accuracy['base']['map50_95']:.4f} -> {final['map50_95']:.4f} on {record['split']}"
        + ("" if settings.epochs else " before any fine-tuning")
    )
    files = {"model": str(model), "report": str(folder / "report.md"), "layers": str(folder / "layers.png")}
    following = f"yolo-musgd export {shlex.quote(f'model={model}')} target=raspberry-pi-5"
    if not settings.epochs:
        following = shlex.join(
            ["yolo", "train", f"cfg={settings.cfg or 'default.yaml'}", f"model={model}", f"data={record['data']}"]
        )
    return Result("prune", said, str(folder), files, figures, following)


@contextlib.contextmanager
def _new_place(settings: PruneSettings) -> Iterator[Path]:
    """The folder for results; what fails or is interrupted here leaves nothing to go on with: no half of a run.

    With ``exist_ok`` the results that had the name are kept aside until the new ones are there.
    """
    earlier = Path(settings.save_dir or Path(settings.project) / settings.name)
    if settings.exist_ok:
        check_replaced(earlier, "base.pt")
    with set_aside(earlier) if settings.exist_ok else contextlib.nullcontext():
        folder = make_place(settings)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _absolute(name: str) -> str:
    """A file's path for a resume from another folder; the name of what Ultralytics fetches stays as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _resumed(args: Mapping[str, str]) -> tuple[PruneSettings, Path]:
    folder = Path(args["resume"])
    if len(args) > 1:
        raise UserError(f"resume= goes on with the arguments in {folder}/args.yaml: give no others")
    if not all((folder / name).is_file() for name in ("args.yaml", "base.pt", "pruned.pt", "prune.json")):
        raise UserError(f"resume={folder} holds no pruned model to go on with; start anew")
    content = read_recipe(folder / "args.yaml")
    # the model as it was: the file that model= names may have been moved, or written by another training meanwhile
    return PruneSettings.from_mapping({**content, "model": str(folder / "base.pt")}), folder
