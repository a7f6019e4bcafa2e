"""The texts of a bundle: run.sh, README.md and requirements.txt."""

from __future__ import annotations

import re
from pathlib import Path

from yolo_musgd.edge.runtimes.artifact import Artifact
from yolo_musgd.export.bundle_val import ANNOTATIONS
from yolo_musgd.export.targets import Target, load_target
from yolo_musgd.tables import escape_markdown

MODEL, MODELS = "model", "models"  # folder of the one artifact, or of several


def run_script(board: Target, model: str, judged: bool) -> str:
    """The shell script that does everything once.

    Args:
        board: that it is for.
        model: ``MODEL`` or ``MODELS``.
        judged: labelled images are in the bundle.
    """
    return "\n".join(
        [
            "#!/bin/sh",
            "# Looks at the board, detects objects in samples/, measures speed and power; results/ gets everything.",
            "set -eu",
            'cd "$(dirname "$0")"',
            'PYTHON="${PYTHON:-python3}"',
            '"$PYTHON" edge.pyz doctor',
            "export EDGE_NEXT=0  # what to type next is typed here",
            *([f'"$PYTHON" edge.pyz {_race_words(judged)}'] if model == MODELS else []),
            f'"$PYTHON" edge.pyz detect {model} source=samples project=results {_engine_words(board)}'.rstrip(),
            *([f'"$PYTHON" edge.pyz {_val_words(board, model, judged)}'] if judged else []),
            "unset EDGE_NEXT",
            f'"$PYTHON" edge.pyz bench {model} source=samples project=results {board.bench} "$@"',
            'echo "folder: $(pwd)"',
            "",
        ]
    )


def _race_words(judged: bool) -> str:
    return f"race {MODELS} source=samples project=results" + (f" labels=val/{ANNOTATIONS}" if judged else "")


def _val_words(board: Target, model: str, judged: bool) -> str:
    source = f"val/{ANNOTATIONS}" if judged else "images/val"
    return f"val {model} source={source} project=results {_engine_words(board)}".rstrip()


def _engine_words(board: Target) -> str:
    return board.bench if board.bench.startswith("engine=") else ""


def _facts(artifact: Artifact) -> str:
    size = f"{artifact.imgsz[1]}x{artifact.imgsz[0]}"
    precision, count = artifact.precision or "precision not told", len(artifact.names)
    return f"{precision}, {size}, {count} class{'es' * (count != 1)}, sha256 `{artifact.sha256}`"


def readme(artifacts: list[Artifact], target: str, warnings: list[str], judged: bool) -> str:
    """What to type on the board, in Markdown.

    Args:
        artifacts: as they are packed.
        target: name of the board.
        warnings: for people.
        judged: labelled images are in the bundle.
    """
    board, block = load_target(target), "```sh\n{}\n```\n"
    extra = f" {board.bench}" if board.bench else ""
    model = MODEL if len(artifacts) == 1 else MODELS
    if model == MODEL:
        title, facts = Path(artifacts[0].model).name, [f"Model: {_facts(artifacts[0])}. "]
    else:
        title = f"{len(artifacts)} artifacts"
        facts = [f"- `{Path(artifact.path).name}`: {_facts(artifact)}\n" for artifact in artifacts]
        facts.append(
            "\n`race` finds the one that is the fastest here and keeps its accuracy; the others then take it. "
        )
    parts = [
        f"# {escape_markdown(title)} on {board.title}\n",
        "".join(facts)
        + f"`edge.pyz` checks the hashes of `{model}/` before it runs anything and writes only to `results/`"
        + (" (and `models/choice.json`).\n" if model == MODELS else ".\n"),
        *(f"**Note**: {warning}.\n" for warning in warnings),
        "## Once, on a fresh board\n",
        block.format("\n".join(board.setup)),
        "## Everything at once\n",
        block.format("sh run.sh"),
        "## One by one\n",
        block.format(
            "\n".join(
                [
                    "python3 edge.pyz doctor",
                    *([f"python3 edge.pyz {_race_words(judged)}"] if model == MODELS else []),
                    f"python3 edge.pyz detect {model} source=samples project=results {_engine_words(board)}".rstrip(),
                    f"python3 edge.pyz bench {model} source=samples project=results{extra}",
                    f"python3 edge.pyz bench {model} source=0 project=results{extra}         # a camera",
                    f"python3 edge.pyz bench {model} source=samples project=results{extra} soak=30     # half an hour",
                    f"python3 edge.pyz {_val_words(board, model, judged)}"
                    + ("" if judged else "      # needs labels/val beside images/val"),
                    f"python3 edge.pyz serve {model} source=0     # a page with the camera on http://127.0.0.1:8000",
                    "python3 edge.pyz help bench",
                ]
            )
        ),
        f"## Power\n\n{board.power}\n",
        "Copy `results/bench/bench.json` back and compare boards with `yolo-musgd compare-bench a.json b.json`.\n",
    ]
    return "\n".join(parts)


def requirements(board: Target, artifacts: list[Artifact]) -> list[str]:
    """Lines of requirements.txt: the board's, and the runtimes of the artifacts."""
    needed = {"mnn": "MNN", "openvino": "openvino", "ncnn": "ncnn", "executorch": "executorch"}
    known = {re.split(r"[<>=;\[ ]", line)[0] for line in board.requirements}
    return board.requirements + sorted({needed[a.format] for a in artifacts if a.format in needed} - known)
