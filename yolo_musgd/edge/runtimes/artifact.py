"""Opens what is to be run: a bare model file, a folder that Ultralytics exported, or an artifact with a manifest.

The manifest, ``manifest.json``, version 1 (written by the export step, only read here)::

    {"schema": 1,
     "model": "model.onnx",                 file (or folder, for NCNN and OpenVINO) to run, relative to the manifest
     "files": {"model.onnx": "<sha256>"},   every file of the artifact; each is checked before anything is loaded
     "names": ["person", ...],              or {"0": "person", ...}
     "imgsz": 640,                          or [height, width]
     "head": "raw",                         "raw" (1, 4 + classes, anchors) or "nms_free" (1, detections, 6)
     "precision": "int8",                   "fp32", "fp16" or "int8"
     "stride": 32, "task": "detect", "target": "raspberry-pi-5", "opset": 13,                           optional
     "map50_95": {"fp32": 0.40, "int8": 0.39, "images": 5000},                                          optional
     "calibration": {"sha256": "...", "images": 64}, "float_layers": ["/model.23/..."]}                 optional

Nothing is unpickled: ``.pt`` and ``.pkl`` files are refused, and text metadata is read as literals.
"""

import ast
import hashlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import UserError
from .onnxfile import OnnxFacts, read_onnx

MANIFEST = "manifest.json"
FORMATS = {".onnx": "onnx", ".engine": "engine", ".plan": "engine", ".xml": "openvino", ".param": "ncnn"}
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".torchscript", ".npy", ".npz")


class Artifact(NamedTuple):
    """A checked model: where it is, what it is, and how its input and output are to be read."""

    path: str
    model: str  # the file that the runtime opens
    format: str  # onnx, engine, ncnn, openvino
    names: Dict[int, str]
    imgsz: Tuple[int, int]  # height, width in pixels
    head: Optional[str]  # raw, nms_free, or None: to be told from the output's shape
    precision: Optional[str]
    sha256: str
    size_bytes: int
    verified: bool  # the manifest's hashes were there and right
    metadata: Dict[str, Any]
    onnx: Optional[OnnxFacts]


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _parse_names(value: Any) -> Dict[int, str]:
    if isinstance(value, str):
        value = ast.literal_eval(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value or [])
    return {int(key): str(name) for key, name in pairs}


def _parse_size(value: Any) -> Tuple[int, int]:
    if isinstance(value, str):
        value = ast.literal_eval(value)
    sizes = [value, value] if isinstance(value, int) else list(value)
    if len(sizes) != 2 or not all(isinstance(size, int) and 1 <= size <= 16384 for size in sizes):
        raise ValueError("imgsz must be a number or [height, width], got {!r}".format(value))
    return sizes[0], sizes[1]


def _scalar(text: str) -> Any:
    """Turn a YAML scalar into a number or a text; quotes are taken off."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("''", "'")
    try:
        return int(text)
    except ValueError:
        return {"true": True, "false": False, "null": None}.get(text, text)


def read_flat_yaml(text: str) -> Dict[str, Any]:
    """Read the YAML that Ultralytics writes beside its exports: scalars, lists and one level of mappings; no more."""
    out: Dict[str, Any] = {}
    key = ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("- "):
            if not isinstance(out.get(key), list):
                out[key] = []
            out[key].append(_scalar(stripped[2:].strip()))
        elif line[0] in " \t":
            name, colon, value = stripped.partition(":")
            if colon and key:
                if not isinstance(out.get(key), dict):
                    out[key] = {}
                out[key][_scalar(name)] = _scalar(value.strip())
        else:
            key, _, value = stripped.partition(":")
            out[key] = _scalar(value.strip())
    return out


def _read_manifest(folder: str) -> Dict[str, Any]:
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except ValueError as error:
        raise UserError("{} is not JSON: {}".format(path, error))
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise UserError("{}: schema must be 1; this edge.pyz reads no other".format(path))
    files, model = manifest.get("files"), manifest.get("model")
    if not isinstance(files, dict) or not files or not isinstance(model, str):
        raise UserError("{}: needs 'model' (a name) and 'files' (names with their sha256)".format(path))
    for name, expected in files.items():
        _verify(folder, name, expected)
    covered = [name for name in files if name == model or name.startswith(model.rstrip("/") + "/")]
    if not covered:
        raise UserError("{}: the model {!r} is not among 'files', so its content is unchecked".format(path, model))
    return manifest


def _verify(folder: str, name: str, expected: Any) -> None:
    path = os.path.join(folder, name)
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
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


def _model_in_folder(folder: str) -> str:
    """Find the one model file of a folder without a manifest."""
    found = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1] in FORMATS)
    if len(found) != 1:
        raise UserError(
            "{} holds {} model files ({}); name one of them, or add a {}".format(
                folder, len(found), ", ".join(found) or "no .onnx, .engine, .xml or .param", MANIFEST
            )
        )
    return os.path.join(folder, found[0])


def read_engine_header(path: str) -> Tuple[Dict[str, Any], int]:
    """Read the JSON that Ultralytics (and this package) puts before an engine: 4 bytes of length, then the text.

    Returns:
        The metadata (empty for a plain engine) and the offset in bytes at which the engine itself begins.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(4), "little")
        if not 2 <= length <= 1 << 20:
            return {}, 0
        text = file.read(length)
    try:
        metadata = json.loads(text.decode("utf-8"))
    except ValueError:
        return {}, 0
    return (metadata, 4 + length) if isinstance(metadata, dict) else ({}, 0)


def _side_metadata(model: str, fmt: str) -> Tuple[Dict[str, Any], Optional[OnnxFacts]]:
    if fmt == "onnx":
        facts = read_onnx(model)
        return dict(facts.metadata), facts
    if fmt == "engine":
        return read_engine_header(model)[0], None
    beside = os.path.join(os.path.dirname(model), "metadata.yaml")
    if os.path.isfile(beside):
        with open(beside, encoding="utf-8") as file:
            return read_flat_yaml(file.read()), None
    return {}, None


def _weights_of(model: str, fmt: str) -> List[str]:
    if fmt not in ("ncnn", "openvino"):
        return [model]
    weights = os.path.splitext(model)[0] + ".bin"
    if not os.path.isfile(weights):
        raise UserError("{} has no weights: {} is missing".format(model, weights))
    return [model, weights]


def _precision(metadata: Dict[str, Any], facts: Optional[OnnxFacts]) -> Optional[str]:
    if metadata.get("precision"):
        return str(metadata["precision"])
    if facts is None:
        arguments = metadata.get("args")  # Ultralytics writes its export arguments beside the model
        if not isinstance(arguments, dict) or "quantize" not in arguments:
            return None
        return {"8": "int8", "int8": "int8", "16": "fp16", "fp16": "fp16"}.get(
            str(arguments["quantize"]).lower(), "fp32"
        )
    if facts.is_quantized:
        return "int8"
    return "fp16" if facts.inputs[0][1] == "float16" else "fp32"


def open_artifact(path: str, imgsz: Optional[int] = None) -> Artifact:
    """Check and describe the model at ``path`` (a file or a folder) without running it.

    Args:
        path: A .onnx, .engine, .plan, .xml or .param file, or a folder with one of them, with or without a manifest.
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
            manifest = _read_manifest(path)
            model = os.path.join(path, manifest["model"])
        if os.path.isdir(model):
            model = _model_in_folder(model)
    suffix = os.path.splitext(model)[1].lower()
    if suffix in PICKLES:
        raise UserError("{}: pickled models are not loaded; export it first (yolo export format=onnx)".format(model))
    if suffix not in FORMATS:
        raise UserError("{}: unknown kind of model; known: {}".format(model, ", ".join(sorted(FORMATS))))
    fmt = FORMATS[suffix]
    files = _weights_of(model, fmt)
    metadata, facts = _side_metadata(model, fmt)
    metadata.update(manifest)
    task = metadata.get("task", "detect")
    if task != "detect":
        raise UserError("{}: task {!r} is not supported, only detect".format(model, task))
    return Artifact(
        path=path,
        model=model,
        format=fmt,
        names=_names(metadata, model),
        imgsz=_input_size(metadata, facts, model, imgsz),
        head=_head(metadata),
        precision=_precision(metadata, facts),
        sha256=sha256_of(files[-1]),
        size_bytes=sum(os.path.getsize(file) for file in files),
        verified=bool(manifest),
        metadata=metadata,
        onnx=facts,
    )


def _names(metadata: Dict[str, Any], model: str) -> Dict[int, str]:
    try:
        return _parse_names(metadata.get("names"))
    except (ValueError, SyntaxError, TypeError, AttributeError):
        raise UserError("{}: its class names cannot be read: {:.60}".format(model, repr(metadata.get("names"))))


def _head(metadata: Dict[str, Any]) -> Optional[str]:
    if metadata.get("head") in ("raw", "nms_free"):
        return str(metadata["head"])
    end2end = str(metadata.get("end2end", "")).lower()
    return {"true": "nms_free", "false": "raw"}.get(end2end)


def _input_size(
    metadata: Dict[str, Any], facts: Optional[OnnxFacts], model: str, asked: Optional[int]
) -> Tuple[int, int]:
    """Take the input size from the graph, else from the metadata, else from the user; they must agree."""
    fixed = None
    if facts is not None and len(facts.inputs[0][2]) == 4 and min(facts.inputs[0][2][2:]) > 0:
        fixed = (facts.inputs[0][2][2], facts.inputs[0][2][3])
    elif metadata.get("imgsz") is not None:
        try:
            fixed = _parse_size(metadata["imgsz"])
        except (ValueError, SyntaxError, TypeError) as error:
            raise UserError("{}: {}".format(model, error))
    if asked is None and fixed is None:
        raise UserError("{}: the model does not say its input size; give imgsz=".format(model))
    dynamic = facts is not None and min(facts.inputs[0][2][2:] or [-1]) < 0
    if asked is not None and fixed is not None and (asked, asked) != fixed and not dynamic:
        raise UserError("imgsz={} was asked, but {} takes {}x{} only".format(asked, model, fixed[0], fixed[1]))
    if asked is not None:
        return asked, asked
    assert fixed is not None
    return fixed
