"""The model of a bundle: only files that its manifest lists, and only what the board's runner has run here once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.pictures.boxes import decode, head_of
from yolo_musgd.edge.pictures.images import synthetic_frame
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.edge.runtimes.artifact import MANIFEST, PICKLES, Artifact, open_artifact, sha256_of
from yolo_musgd.edge.runtimes.open import RUNTIMES, available, open_runtime
from yolo_musgd.export.targets import load_target
from yolo_musgd.export.tensorrt_graph import operator_table, unsupported

PROBES = (
    "onnxruntime",
    "openvino",
    "ncnn",
    "mnn",
    "executorch",
)  # on any PC; an engine needs its GPU
SLACK = 1e-3  # of a score beside [0, 1]: half precision rounds


def check_target(artifact: Artifact, target: str) -> list[str]:
    """Refuse what cannot work on ``target``; return warnings about what may not.

    Raises:
        UserError: a precision, a head or an operator that the board does not have.
    """
    board, facts = load_target(target), artifact.onnx
    nms_free = artifact.head == "nms_free" or (facts is not None and "Mod" in facts.operators)
    board.check(artifact.precision or "fp32", "nms_free" if nms_free else "raw")
    if not any(artifact.format in RUNTIMES[name].reads for name in board.runtimes):
        return [
            f"{', '.join(board.runtimes)} of {board.title} reads no {artifact.format} model: put a runtime there that "
            f"does, or export the model with target={target}"
        ]
    if facts is None or board.tensorrt not in operator_table():
        return []
    assert board.tensorrt is not None
    missing = [name for name in unsupported(facts, board.tensorrt) if not name.startswith("opset ")]
    if missing:
        raise UserError(
            f"target={target}: TensorRT {board.tensorrt} does not read {', '.join(missing)} of this model; export it "
            "with its raw head, without NMS in the graph"
        )
    if facts.opset > board.opset:
        return [
            f"TensorRT {board.tensorrt} documents opset {board.opset} at most, this model has {facts.opset}: "
            f"export with opset={board.opset} if it fails"
        ]
    return []


def copy_model(artifact: Artifact, folder: Path) -> Artifact:
    """Copy the model into the new ``folder``, with the manifest that it has or one of its hashes.

    Returns:
        The copy, opened: its hashes are those of the manifest.

    Raises:
        UserError: a listed file is a link to somewhere else or a pickle, or changed while it was copied.
    """
    given = Path(artifact.path)
    home = given if given.is_dir() else given.parent
    if artifact.verified:
        names = [MANIFEST, *artifact.metadata["files"]]
    else:
        names = [Path(file).relative_to(home).as_posix() for file in artifact.files]
    folder.mkdir()
    for name in names:
        file = home / name
        if file != given and not file.resolve().is_relative_to(home.resolve()):  # a file that was named may be a link
            raise UserError(f"{file} is a link to somewhere outside the model's folder; it is not packed")
        if file.suffix.lower() in PICKLES:
            raise UserError(f"{file} is a pickle, which runs code where it is loaded; it is not packed")
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if not artifact.verified:
        _write_manifest(artifact, folder, names)
    return open_artifact(str(folder))


def _write_manifest(artifact: Artifact, folder: Path, names: list[str]) -> None:
    manifest = {
        "schema": 1,
        "model": Path(artifact.model).name,
        "files": {name: sha256_of(str(folder / name)) for name in names},
        "names": [artifact.names[key] for key in sorted(artifact.names)],
        "imgsz": list(artifact.imgsz),
        "channels": artifact.channels,
        "head": artifact.head,
        "precision": artifact.precision,
        "task": "detect",
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def run_once(artifact: Artifact) -> list[str]:
    """Open the model in a runtime and run it on one drawn picture; its answer must be detections.

    Returns:
        A note where no PC can run it.

    Raises:
        UserError: no runtime for it is installed, it fails, or its answer is something else.
    """
    if artifact.format == "engine":
        return ["a TensorRT engine runs on the GPU that built it only, so this one was not run here"]
    readers = [name for name in PROBES if artifact.format in RUNTIMES[name].reads]
    chosen = next((name for name in readers if available(name)[0]), None)
    if chosen is None:
        raise UserError(
            f"nothing here can run {artifact.model}, so it cannot be checked: pip install {readers[0]}, "
            "or pack it as it is with probe=false"
        )
    runtime = open_runtime(artifact, chosen, 1, precision=artifact.precision)
    try:
        blob, _ = Letterbox(artifact.imgsz, artifact.channels, artifact.head)(synthetic_frame(*artifact.imgsz))
        check_output(runtime.infer(blob), artifact)
    except UserError as error:
        raise UserError(f"{Path(artifact.model).name} is not packed: {error}") from error
    except Exception as error:  # every runtime has its own
        raise UserError(f"{chosen} cannot run {Path(artifact.model).name}: {first_line(error)}") from error
    finally:
        runtime.close()
    return []


def check_output(output: np.ndarray, artifact: Artifact) -> None:
    """Check one image's output against what the model's metadata says it is.

    Args:
        output: 2-D, see :class:`yolo_musgd.edge.runtimes.base.Runtime`.
        artifact: the model's facts.

    Raises:
        UserError: a shape that is no head's, or scores or classes that are none.
    """
    classes = len(artifact.names)
    head = artifact.head or head_of((output.shape[0], output.shape[1]), classes)
    decode(output, head, classes)
    per_class = head == "rtdetr" and output.shape[1] != 6  # of older releases
    scores = output[4:] if head == "raw" else output[:, 4:] if per_class else output[:, 4]
    if not np.isfinite(output).all():
        raise UserError("its output has values that are no numbers")
    if scores.size and (scores.min() < -SLACK or scores.max() > 1 + SLACK):
        raise UserError(f"its scores reach from {scores.min():.3g} to {scores.max():.3g}, expected in [0, 1]")
    if head != "raw" and not per_class:
        found = output[output[:, 4] > 0, 5]
        if (found != found.round()).any() or (found < 0).any() or (classes and (found >= classes).any()):
            raise UserError(f"its sixth column is no class of {classes or 'any'}: are its rows boxes, score, class?")
