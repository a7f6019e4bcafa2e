"""Opens what is to be run: a bare model file, a folder that Ultralytics exported, or an artifact with a manifest.

The manifest, ``manifest.json``, version 1 (written by the export step, only read here)::

    {"schema": 1,
     "model": "model.onnx",                 file (or folder, for NCNN and OpenVINO) to run, relative to the manifest
     "files": {"model.onnx": "<sha256>"},   every file of the artifact; each is checked before anything is loaded
     "names": ["person", ...],              or {"0": "person", ...}
     "imgsz": 640,                          or [height, width]
     "head": "raw",                         "raw" (1, 4 + classes, anchors); "nms_free", "nms" (1, detections, 6)
     "precision": "int8",                   "fp32", "fp16" or "int8"
     "stride": 32, "task": "detect", "target": "raspberry-pi-5", "opset": 13, "channels": 3,            optional
     "map50_95": {"fp32": 0.40, "int8": 0.39, "images": 5000},                                          optional
     "conf": 0.31,                           lowest score worth showing: where F1 is best on val               optional
     "calibration": {"sha256": "...", "images": 64}, "float_layers": ["/model.23/..."]}                 optional

Nothing is unpickled: ``.pt`` and ``.pkl`` files are refused, and text metadata is read as literals.
"""

import hashlib
import os
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ..errors import UserError
from ..files import read_json, read_text
from .metadata import (
    class_names,
    input_channels,
    input_size,
    read_embedded_json,
    read_engine_header,
    read_flat_yaml,
    told_head,
    told_precision,
)
from .onnxfile import OnnxFacts, read_onnx

MANIFEST = "manifest.json"
FORMATS = {
    ".onnx": "onnx",
    ".engine": "engine",
    ".plan": "engine",
    ".xml": "openvino",
    ".param": "ncnn",
    ".mnn": "mnn",
    ".pte": "executorch",
}
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".torchscript", ".npy", ".npz")


class Artifact(NamedTuple):
    """A checked model: where it is, what it is, and how its input and output are to be read."""

    path: str
    model: str  # the file that the runtime opens
    format: str  # onnx, engine, ncnn, openvino, mnn, executorch
    names: Dict[int, str]
    imgsz: Tuple[int, int]  # height, width in pixels
    head: Optional[str]  # raw, nms_free, nms (done in the graph), rtdetr, or None: to be told from the output's shape
    precision: Optional[str]
    sha256: str
    size_bytes: int
    verified: bool  # a manifest has the hash of every file that is loaded, and all are right
    metadata: Dict[str, Any]
    onnx: Optional[OnnxFacts]
    channels: int = 3  # of the input: 3 (colour) or 1 (grey)
    files: Tuple[str, ...] = ()  # all that the runtime loads: the model and its weights


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: str) -> Dict[str, Any]:
    """Read ``manifest.json`` and check the hash of every file that it lists.

    Raises:
        UserError: Not a manifest, or a file is missing, changed, or outside the folder.
    """
    path = os.path.join(folder, MANIFEST)
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise UserError(
            "{}: schema must be 1, this edge.pyz reads no other; "
            "make model and edge.pyz with the same release of yolo-musgd".format(path)
        )
    files, model = manifest.get("files"), manifest.get("model")
    if not isinstance(files, dict) or not files or not isinstance(model, str):
        raise UserError(
            "{}: needs 'model' (a name) and 'files' (names with their sha256); export the model again".format(path)
        )
    for name, expected in files.items():
        _verify(folder, name, expected)
    covered = [name for name in files if name == model or name.startswith(model.rstrip("/") + "/")]
    if not covered:
        raise UserError("{}: the model {!r} is not among 'files', so its content is unchecked".format(path, model))
    return manifest


def _verify(folder: str, name: str, expected: Any) -> None:
    path = os.path.join(folder, name)
    if not _inside(name):
        raise UserError("{}: {!r} points outside the artifact".format(MANIFEST, name))
    if not os.path.isfile(path):
        raise UserError("{}: {} is missing; copy the artifact again".format(MANIFEST, name))
    actual = sha256_of(path)
    if actual != expected:
        raise UserError(
            "{} was changed or damaged: sha256 {}..., the manifest says {}...; it is not run".format(
                path, actual[:12], str(expected)[:12]
            )
        )


def model_files(names: Iterable[str]) -> List[str]:
    """Return which of a folder's entries are models, sorted; ``._x.onnx`` is what macOS notes about x.onnx."""
    return sorted(name for name in names if os.path.splitext(name)[1] in FORMATS and not name.startswith("."))


def _model_in_folder(folder: str) -> str:
    """Find the one model file of a folder without a manifest."""
    found = model_files(os.listdir(folder))
    if len(found) != 1:
        raise UserError(
            "{} holds {} model files ({}); name one of them, or add a {}".format(
                folder, len(found), ", ".join(found) or "no .onnx, .engine, .xml, .param, .mnn or .pte", MANIFEST
            )
        )
    return os.path.join(folder, found[0])


def _side_metadata(model: str, fmt: str) -> Tuple[Dict[str, Any], Optional[OnnxFacts]]:
    if fmt == "onnx":
        facts = read_onnx(model)
        return dict(facts.metadata), facts
    if fmt == "engine":
        return read_engine_header(model)[0], None
    if fmt == "mnn":
        return read_embedded_json(model), None
    beside = os.path.join(os.path.dirname(model), "metadata.yaml")
    return (read_flat_yaml(read_text(beside)) if os.path.exists(beside) else {}), None


def _files_of(model: str, fmt: str, facts: Optional[OnnxFacts]) -> List[str]:
    """List what the runtime loads: the model, then its weights.

    Raises:
        UserError: Weights are missing, or an ONNX file wants them from elsewhere.
    """
    if fmt in ("ncnn", "openvino"):
        names: Tuple[str, ...] = (os.path.splitext(os.path.basename(model))[0] + ".bin",)
    else:
        names = facts.external if facts is not None else ()
    files = [model]
    for name in names:
        if not _inside(name):
            raise UserError("{}: its weights {!r} are outside its folder; it is not run".format(model, name))
        files.append(os.path.join(os.path.dirname(model), name))
        if not os.path.isfile(files[-1]):
            raise UserError("{} has no weights: {} is missing; copy it beside the model".format(model, files[-1]))
    return files


def _inside(name: str) -> bool:
    """Whether a relative path stays in its folder, on any system; one with a NUL is none."""
    if "\0" in name:
        return False
    parts = name.replace("\\", "/").split("/")
    return bool(name) and not os.path.isabs(name) and ".." not in parts and parts[0] != "" and ":" not in parts[0]


def _identity(files: List[str]) -> str:
    """SHA-256 of the weights: of the one file that holds them, or of the hashes where there are several."""
    weights = files[1:] or files
    if len(weights) == 1:
        return sha256_of(weights[0])
    return hashlib.sha256("".join(sha256_of(file) for file in weights).encode()).hexdigest()


def open_artifact(path: str, imgsz: Optional[int] = None) -> Artifact:
    """Check and describe the model at ``path`` (a file or a folder) without running it.

    Args:
        path: A file that ends in one of FORMATS, or a folder with one of them, with or without a manifest.
        imgsz: Input side in pixels, for a model that does not say.

    Raises:
        UserError: Missing, damaged, pickled, of an unknown kind, or not a detection model.
    """
    if not os.path.exists(path):
        raise UserError("no model at {}".format(path))
    manifest: Dict[str, Any] = {}
    model = path
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, MANIFEST)):
            manifest = read_manifest(path)
            model = os.path.join(path, manifest["model"])
        if os.path.isdir(model):
            model = _model_in_folder(model)
    if not os.path.isfile(model):
        raise UserError("{} is not a regular file".format(model))
    suffix = os.path.splitext(model)[1].lower()
    if suffix in PICKLES:
        raise UserError("{}: pickled models are not loaded; export it first (yolo export format=onnx)".format(model))
    if suffix not in FORMATS:
        raise UserError("{}: unknown kind of model; known: {}".format(model, ", ".join(sorted(FORMATS))))
    fmt = FORMATS[suffix]
    metadata, facts = _side_metadata(model, fmt)
    files = _files_of(model, fmt, facts)
    if manifest:
        _check_covered(path, manifest["files"], files)
    metadata.update(manifest)
    channels = input_channels(metadata, facts, model)
    task = metadata.get("task", "detect")
    if task != "detect":
        raise UserError("{}: task {!r} is not supported, only detect".format(model, task))
    return Artifact(
        path=path,
        model=model,
        format=fmt,
        names=class_names(metadata, model),
        imgsz=input_size(metadata, facts, model, imgsz),
        head=told_head(metadata),
        precision=told_precision(metadata, facts),
        sha256=_identity(files),
        size_bytes=sum(os.path.getsize(file) for file in files),
        verified=bool(manifest),
        metadata=metadata,
        onnx=facts,
        channels=channels,
        files=tuple(files),
    )


def usual_conf(artifact: Artifact, chosen: Optional[float] = None) -> float:
    """Return the lowest score that is kept: the user's, else the one the artifact recommends, else 0.25."""
    told = artifact.metadata.get("conf")
    if chosen is not None:
        return chosen
    if isinstance(told, (int, float)) and not isinstance(told, bool) and 0.0 <= told <= 1.0:
        return float(told)
    return 0.25


def _check_covered(folder: str, listed: Dict[str, Any], files: List[str]) -> None:
    known = {os.path.normpath(os.path.join(folder, name)) for name in listed}
    for file in files:
        if os.path.normpath(file) not in known:
            raise UserError(
                "{}: {} is not among 'files', so its content is unchecked; it is not run".format(
                    os.path.join(folder, MANIFEST), os.path.relpath(file, folder)
                )
            )
