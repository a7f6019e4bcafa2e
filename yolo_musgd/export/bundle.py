"""Packs what a board needs into one folder: the model with its hashes, ``edge.pyz``, requirements, ``run.sh``, README.

``edge.pyz`` is the package's edge/ folder, zipped by :mod:`zipapp`; it runs alone with Python 3.6 or later and numpy.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
import zipapp
from importlib.util import find_spec
from pathlib import Path

from yolo_musgd import edge
from yolo_musgd.edge import options
from yolo_musgd.edge.errors import EXIT_DONE, UserError
from yolo_musgd.edge.pictures.images import list_images, synthetic_frame, write_image
from yolo_musgd.edge.runtimes.artifact import MANIFEST, Artifact, open_artifact, sha256_of
from yolo_musgd.export.targets import NAMES, Target, load_target
from yolo_musgd.settings import check_parent

EPOCH = 1_700_000_000  # seconds; one time stamp for every file in the archive, so that equal sources give equal bytes


OPTIONS: options.Spec = {
    "model": ("", options.text, "artifact folder, exported folder or .onnx file"),
    "target": ("x86", options.one_of(*NAMES), "board: " + ", ".join(NAMES)),
    "samples": ("", options.text, "folder of sample images (at most 16 are taken)"),
    "project": ("runs/bundle", options.text, "the bundle goes to project/name"),
    "name": ("", options.text, "its name; default: edge-<target>"),
    "archive": (True, options.flag, "make name.tar.gz beside the folder"),
    "imgsz": (None, options.optional(options.number(32, 4096, int)), "input side, for a model that does not say"),
}


def build_pyz(path: Path) -> Path:
    """Zip the edge package into ``path``; equal sources give equal bytes.

    Returns:
        The path written.
    """
    source = Path(str(edge.__file__)).parent
    with tempfile.TemporaryDirectory() as staging:
        root = Path(staging) / "app"
        package = root / "edge"
        package.mkdir(parents=True)
        for module in sorted(source.rglob("*.py")):
            copy = package / module.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, copy)
        (root / "__main__.py").write_text(
            "import sys\n\nfrom edge.__main__ import main\n\nsys.exit(main())\n", encoding="utf-8"
        )
        for entry in [*root.rglob("*"), root]:
            os.utime(entry, (EPOCH, EPOCH))
        path.parent.mkdir(parents=True, exist_ok=True)
        zipapp.create_archive(root, path, interpreter="/usr/bin/env python3", compressed=True)
    path.chmod(0o755)
    return path


def check_target(artifact: Artifact, target: str) -> list[str]:
    """Refuse what cannot work on ``target``; return warnings about what may not.

    Raises:
        UserError: a precision, a head or an operator that the board does not have.
    """
    board, facts = load_target(target), artifact.onnx
    nms_free = artifact.head == "nms_free" or (facts is not None and "Mod" in facts.operators)
    board.check(artifact.precision or "fp32", "nms_free" if nms_free else "raw")
    if board.tensorrt and facts is not None and facts.opset > board.opset:
        return [
            f"TensorRT {board.tensorrt} documents opset {board.opset} at most, this model has {facts.opset}: "
            f"export with opset={board.opset} if it fails"
        ]
    return []


def _copy_model(artifact: Artifact, folder: Path) -> None:
    """Copy the model below ``folder``/model, with a manifest of its hashes (the artifact's own if it has one)."""
    target, source = folder / "model", Path(artifact.path)
    if artifact.verified:
        shutil.copytree(source, target)
        return
    target.mkdir()
    model = Path(artifact.model)
    files = [model] if artifact.format in ("onnx", "engine") else [model, model.with_suffix(".bin")]
    for file in files:
        shutil.copyfile(file, target / file.name)
    manifest = {
        "schema": 1,
        "model": model.name,
        "files": {file.name: sha256_of(str(target / file.name)) for file in files},
        "names": [artifact.names[key] for key in sorted(artifact.names)],
        "imgsz": list(artifact.imgsz),
        "head": artifact.head,
        "precision": artifact.precision,
        "task": "detect",
    }
    (target / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _copy_samples(samples: str, folder: Path) -> int:
    """Fill ``folder``/samples from ``samples``, else with Ultralytics' two photographs, else with a drawn picture."""
    target = folder / "samples"
    target.mkdir()
    if samples:
        try:
            paths = [Path(path) for path in list_images(samples)[:16]]
        except UserError as error:
            raise UserError(str(error).replace("source=", "samples=", 1)) from None
    else:
        spec = find_spec("ultralytics")  # found, not imported
        home = Path(spec.origin).parent / "assets" if spec and spec.origin else Path("nowhere")
        paths = sorted(home.glob("*.jpg"))
    for path in paths:
        shutil.copyfile(path, target / path.name)
    if not paths:
        write_image(str(target / "drawn.png"), synthetic_frame())
    return max(len(paths), 1)


def _run_script(board: Target) -> str:
    return "\n".join(
        [
            "#!/bin/sh",
            "# Looks at the board, detects objects in samples/, measures speed and power; results/ gets everything.",
            "set -eu",
            'cd "$(dirname "$0")"',
            'PYTHON="${PYTHON:-python3}"',
            '"$PYTHON" edge.pyz doctor',
            f'"$PYTHON" edge.pyz detect model source=samples project=results {_engine_words(board)}'.rstrip(),
            f'"$PYTHON" edge.pyz bench model source=samples project=results {board.bench} "$@"',
            "",
        ]
    )


def _engine_words(board: Target) -> str:
    return board.bench if board.bench.startswith("engine=") else ""


def _readme(artifact: Artifact, target: str, warnings: list[str]) -> str:
    board, block = load_target(target), "```sh\n{}\n```\n"
    size = f"{artifact.imgsz[1]}x{artifact.imgsz[0]}"
    extra = f" {board.bench}" if board.bench else ""
    parts = [
        f"# {Path(artifact.model).name} on {board.title}\n",
        f"Model: {artifact.precision or 'precision not told'}, {size}, {len(artifact.names)} classes, sha256 "
        f"`{artifact.sha256}`. `edge.pyz` checks the hashes of `model/` before it runs anything and writes only to "
        "`results/`.\n",
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
                    f"python3 edge.pyz detect model source=samples project=results {_engine_words(board)}".rstrip(),
                    f"python3 edge.pyz bench model source=samples project=results{extra}",
                    f"python3 edge.pyz bench model source=0 project=results{extra}         # a camera",
                    f"python3 edge.pyz bench model source=samples project=results{extra} soak=30     # half an hour",
                    f"python3 edge.pyz val model source=images/val project=results {_engine_words(board)}".rstrip()
                    + "      # needs labels/val beside images/val",
                    "python3 edge.pyz help bench",
                ]
            )
        ),
        f"## Power\n\n{board.power}\n",
        "Copy `results/bench/bench.json` back and compare boards with `yolo-musgd compare-bench a.json b.json`.\n",
    ]
    return "\n".join(parts)


def make_bundle(model: str, target: str, folder: Path, samples: str = "", imgsz: int | None = None) -> list[str]:
    """Fill a new ``folder`` with everything that ``target`` needs to run ``model``.

    Returns:
        Warnings, for people.

    Raises:
        UserError: A damaged model, one that the board cannot run, or a folder that is there already.
    """
    artifact = open_artifact(model, imgsz)
    warnings = check_target(artifact, target)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"{folder} is there already; give another name=") from error
    try:
        _copy_model(artifact, folder)
        _copy_samples(samples, folder)
        build_pyz(folder / "edge.pyz")
        board = load_target(target)
        lines = board.requirements or (
            "# nothing from the index: JetPack brings numpy and TensorRT (apt, see README.md)",
        )
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "run.sh").write_text(_run_script(board), encoding="utf-8")
        (folder / "run.sh").chmod(0o755)
        (folder / "README.md").write_text(_readme(artifact, target, warnings), encoding="utf-8")
    except (OSError, UserError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # half a bundle helps nobody
        raise UserError(f"the bundle could not be made: {error}") from error
    return warnings


def make_archive(folder: Path) -> Path:
    """Pack ``folder`` into ``folder``.tar.gz and return its path."""
    path = folder.with_name(folder.name + ".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def main(args: list[str]) -> int:
    """Run ``bundle model= target=``; 0 done, 2 bad input."""
    chosen = options.parse_args(args, OPTIONS, "bundle")
    if not chosen.model:
        raise UserError("bundle: model= is required, for example model=best.onnx")
    check_parent(chosen.project)
    folder = Path(chosen.project) / (chosen.name or f"edge-{chosen.target}")
    for warning in make_bundle(chosen.model, chosen.target, folder, chosen.samples, chosen.imgsz):
        print(f"note: {warning}", file=sys.stderr)
    print(f"-> {folder}")
    if chosen.archive:
        print(f"-> {make_archive(folder)}")
    return EXIT_DONE
