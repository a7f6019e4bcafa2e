"""``yolo-musgd prune``: score, cut to the target, recalibrate, fine-tune, compare with the control arms, report."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import yaml

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.prune.settings import PruneSettings, read_settings
from yolo_musgd.settings import check_parent, new_folder, read_recipe


def main(args: Mapping[str, str]) -> int:
    """Run the command with its ``key=value`` arguments.

    Returns:
        0. The results are in ``project/name``: best.pt (or pruned.pt without fine-tuning), report.md, prune.json.

    Raises:
        UserError: bad arguments, model, data or target; nothing has been written then.
    """
    if find_spec("torch_pruning") is None:
        raise UserError("torch-pruning is not installed: pip install 'yolo-musgd[prune]'")
    from yolo_musgd.prune.pruning_report import LAYERS
    from yolo_musgd.prune.run import Run

    settings, folder = _resumed(args) if "resume" in args else (read_settings(args), None)
    if folder is None:
        check_parent(settings.project, settings.name)
    run = Run(settings)
    if settings.ladder:
        from yolo_musgd.prune.ladder import write_ladder

        folder = new_folder(settings.project, settings.name)
        with _removed_on_failure(folder):
            print(f"results: {write_ladder(run, folder)}")
        return 0
    if folder is None:
        plan = run.choose()  # may fail on a target that cannot be met: before anything is written
        folder = new_folder(settings.project, settings.name)
        content = {k: v for k, v in dataclasses.asdict(settings).items() if k != "resume"}
        content |= {"model": _absolute(str(settings.model)), "data": _absolute(str(run.data_name))}
        with _removed_on_failure(folder):
            write_whole(str(folder / "args.yaml"), yaml.safe_dump(content, sort_keys=False))
            run.cut(plan, folder)
    try:
        run.finish(folder)
    except KeyboardInterrupt:
        print(f"go on with: yolo-musgd prune resume={folder}")
        raise
    text, _, _ = (folder / "report.md").read_text(encoding="utf-8").partition(LAYERS)  # a hundred lines, in the file
    print(text)
    print(f"results: {folder}; report.md has every layer too, layers.png shows them")
    return 0


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """What fails or is interrupted here leaves nothing to go on with: leave no half of a run."""
    try:
        yield
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
