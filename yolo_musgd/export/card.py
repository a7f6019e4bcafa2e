"""The model card of an export, in the form that Hugging Face's hub reads, and its upload there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.export.manifest import predict_words
from yolo_musgd.resources import install
from yolo_musgd.tables import escape_markdown

if TYPE_CHECKING:
    from yolo_musgd.export.accuracy import Accuracy
    from yolo_musgd.export.backend import Built
    from yolo_musgd.export.settings import Job

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def front_matter(job: Job, artifacts: Sequence[Built], expected: Accuracy | None) -> dict[str, Any]:
    """What the hub reads of a card: licence, task, tags, and the accuracy of each artifact that was measured.

    The layout is that of the hub's documentation, "Model Cards".
    """
    data = Path(job.splits.data).stem if job.splits else ""
    scores = [(f"{job.precision}, {built.runtime}", built.accuracy) for built in artifacts]
    scores = [("fp32", expected), *scores] if job.precision != "fp32" else scores
    results = [
        {
            "task": {"type": "object-detection", "name": name},
            "dataset": {"name": data, "type": data, "split": "val"},
            "metrics": [
                {"type": "map", "name": "mAP50-95", "value": round(score.map50_95, 5)},
                {"type": "map", "name": "mAP50", "value": round(score.map50, 5)},
            ],
        }
        for name, score in scores
        if score is not None
    ]
    runtimes = [built.runtime for built in artifacts]
    found: dict[str, Any] = {
        "license": "agpl-3.0",
        "library_name": "ultralytics",
        "pipeline_tag": "object-detection",
        "tags": ["ultralytics", "yolo", "object-detection", "yolo-musgd", job.precision, job.target.name, *runtimes],
    }
    if results:
        found["model-index"] = [{"name": job.checkpoint.path.stem, "results": results}]
    return found


def card(job: Job, artifacts: Sequence[Built], expected: Accuracy | None, report: str) -> str:
    """The card: front matter, what the model is, the report's table, how it is run."""
    import yaml

    names = ", ".join(escape_markdown(job.checkpoint.names[key]) for key in sorted(job.checkpoint.names))
    folders = "\n".join(
        f"- `{built.folder.name}`: {built.runtime}, {built.size_bytes / 1e6:.1f} MB" for built in artifacts
    )
    best = artifacts[0]
    head = yaml.safe_dump(front_matter(job, artifacts, expected), sort_keys=False, allow_unicode=True)
    return f"""---
{head}---

{report.rstrip()}

## What is here

{folders}

Each folder has its own README, and a `manifest.json` with the hash of every file, what was measured and what was not.
Classes: {names}.

## How to run it

```sh
{predict_words(best.folder.name, best.model, job.imgsz)}
yolo-musgd bundle {shlex.quote(f"model={best.folder.name}")} target={job.target.name}
```
"""


def check_push(repository: str, dry_run: bool) -> None:
    """Refuse, before the export, an upload that cannot be.

    Raises:
        UserError: not user/name, or the package for it is missing.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"push={repository[:100]} must be <user>/<model>, as the hub names it")
    if not dry_run and find_spec("huggingface_hub") is None:
        raise UserError(f"push= needs huggingface_hub: {install('hub')}; push_dry_run=True shows what would go there")


def push(folder: Path, repository: str, dry_run: bool) -> list[str]:
    """Upload a finished export to a private repository of the hub; whose it is, the hub's own login says.

    Args:
        folder: of the export.
        repository: ``user/model``; made where it is not there.
        dry_run: only list what would be uploaded; needs neither the package nor a network.

    Returns:
        the files, relative to the folder.

    Raises:
        UserError: the hub refused; the export is finished all the same.
    """
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = [name for name in files if not name.endswith(".tar.gz")]
    if dry_run:
        return files
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repository, allow_patterns=files)
    except Exception as error:  # whatever network and hub make it raise
        raise UserError(f"push={repository} failed: {first_line(error)}; the export itself is in {folder}") from error
    return files
