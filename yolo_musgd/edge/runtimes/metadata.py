"""What model files say of themselves: Ultralytics' metadata, the header of an engine, and the graph where it is ONNX.

The words of others: texts are read as literals, never run, and a value that cannot be is an error that names the file.
"""

import ast
import json
import math
import re
from typing import Any, Dict, Iterator, Optional, Tuple

from ..errors import UserError, first_line
from .onnxfile import OnnxFacts

# What reading a literal raises, of the wrong kind or nested too deeply
_UNREADABLE = (ValueError, SyntaxError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)


_BLANKS = " \t\r"  # of YAML; strip() would take what a name may begin with
# What stands for one letter between YAML's double quotes; any other stands for itself
_LETTERS = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
            "_": "\xa0", "N": "\x85", "L": "\u2028", "P": "\u2029"}  # fmt: skip
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U(000[0-9A-Fa-f]{5}|0010[0-9A-Fa-f]{4})|(.))")


def _unescaped(match: Any) -> str:
    code = match.group(1) or match.group(2) or match.group(3)
    return chr(int(code, 16)) if code else _LETTERS.get(match.group(4), match.group(4))


def _scalar(text: str) -> Any:
    """Turn a YAML scalar into a number or a text; quotes are taken off."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return _ESCAPE.sub(_unescaped, text[1:-1])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return int(text)
    except ValueError:
        return {"true": True, "false": False, "null": None}.get(text, text)


def _unfolded(text: str) -> Iterator[str]:
    """Yield the lines, those that go on with a text too long for one line (they are indented more) joined to it."""
    whole, deep = "", math.inf
    for line in text.split("\n"):
        bare = line.strip(_BLANKS)
        indent = len(line) - len(line.lstrip(_BLANKS))
        if bare and indent > deep:
            whole = whole[:-1] + bare if whole.endswith("\\") else "{} {}".format(whole, bare)
        if not bare or bare.startswith("#") or indent > deep:
            continue
        yield whole
        whole = line.rstrip(_BLANKS)
        deep = indent if bare.startswith("- ") or not bare.endswith(":") else math.inf
    yield whole


def read_flat_yaml(text: str) -> Dict[str, Any]:
    """Read the YAML that Ultralytics writes beside its exports: scalars, lists and one level of mappings; no more."""
    out: Dict[str, Any] = {}
    key = ""
    for line in filter(None, _unfolded(text)):
        stripped = line.strip(_BLANKS)
        if stripped.startswith("- "):
            if not isinstance(out.get(key), list):
                out[key] = []
            out[key].append(_scalar(stripped[2:].strip(_BLANKS)))
        elif line[0] in " \t":
            name, colon, value = stripped.partition(":")
            if colon and key:
                if not isinstance(out.get(key), dict):
                    out[key] = {}
                out[key][_scalar(name)] = _scalar(value.strip(_BLANKS))
        else:
            key, _, value = stripped.partition(":")
            out[key] = _scalar(value.strip(_BLANKS))
    return out


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
    except (ValueError, RecursionError):
        return {}, 0
    return (metadata, 4 + length) if isinstance(metadata, dict) else ({}, 0)


def read_embedded_json(path: str) -> Dict[str, Any]:
    """Read the metadata that Ultralytics (and this package) puts into an MNN file as it stands: a JSON object.

    Returns:
        The first object in the file that has class names; empty without one.
    """
    with open(path, "rb") as file:
        data = file.read()
    place, decoder = data.find(b'{"'), json.JSONDecoder()
    while place >= 0:
        end = data.find(b"\0", place)  # the format ends a text with a zero
        try:
            found = decoder.raw_decode(data[place:end].decode("utf-8"))[0]
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and "names" in found:
            return found
        place = data.find(b'{"', place + 2)
    return {}


def export_arguments(metadata: Dict[str, Any]) -> Dict[str, Any]:
    """Return the export arguments that Ultralytics writes into its files."""
    arguments = metadata.get("args")
    if isinstance(arguments, str):
        try:
            arguments = ast.literal_eval(arguments)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _parse_names(value: Any) -> Dict[int, str]:
    if isinstance(value, str):
        value = ast.literal_eval(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value or [])
    return {int(key): str(name) for key, name in pairs}


def class_names(metadata: Dict[str, Any], model: str) -> Dict[int, str]:
    """Return the class names by index, empty when none are told.

    Raises:
        UserError: They are no list or mapping of names.
    """
    try:
        return _parse_names(metadata.get("names"))
    except _UNREADABLE:
        raise UserError("{}: its class names cannot be read: {:.60}".format(model, repr(metadata.get("names"))))


def told_head(metadata: Dict[str, Any]) -> Optional[str]:
    """Return the head as it is told: raw, nms_free, nms or rtdetr; None when it is not."""
    if "rtdetr" in "{} {}".format(metadata.get("description"), metadata.get("head")).lower():
        return "rtdetr"
    if metadata.get("head") in ("raw", "nms_free", "nms"):
        return str(metadata["head"])
    if export_arguments(metadata).get("nms") is True:
        return "nms"
    end2end = str(metadata.get("end2end", "")).lower()
    return {"true": "nms_free", "false": "raw"}.get(end2end)


def told_precision(metadata: Dict[str, Any], facts: Optional[OnnxFacts]) -> Optional[str]:
    """Return the precision as it is told, else as the ONNX graph shows it; None when neither says."""
    if metadata.get("precision"):
        return str(metadata["precision"])
    if facts is None:
        arguments = export_arguments(metadata)
        if "quantize" not in arguments:
            return None
        return {"8": "int8", "int8": "int8", "16": "fp16", "fp16": "fp16"}.get(
            str(arguments["quantize"]).lower(), "fp32"
        )
    if facts.is_quantized:
        return "int8"
    return "fp16" if facts.inputs[0][1] == "float16" else "fp32"


def input_channels(metadata: Dict[str, Any], facts: Optional[OnnxFacts], model: str) -> int:
    """Return the channels of the input, 1 or 3.

    Raises:
        UserError: The network does not take one image of floats.
    """
    channels, batch = metadata.get("channels", 3), metadata.get("batch", 1)
    if facts is not None:
        if len(facts.inputs) != 1 or len(facts.inputs[0][2]) != 4:
            shapes = ", ".join("{} {}".format(name, shape) for name, _, shape in facts.inputs)
            raise UserError("{} takes {}; a detector takes one image (1, 3, height, width)".format(model, shapes))
        _, element, (batch, planes, _, _) = facts.inputs[0]
        channels = planes if planes > 0 else channels
        if element not in ("float32", "float16"):
            raise UserError("{} takes {}; export it with an input of float32 or float16".format(model, element))
    elif export_arguments(metadata).get("dynamic"):
        batch = 1
    if str(batch) not in ("1", "-1"):
        raise UserError("{} takes {} images at once, one is given here; export it with batch=1".format(model, batch))
    if str(channels) not in ("1", "3"):
        raise UserError("{} takes {} channels; here are images of 3 (colour) or 1 (grey)".format(model, channels))
    return int(channels)


def _parse_size(value: Any) -> Tuple[int, int]:
    if isinstance(value, str):
        value = ast.literal_eval(value)
    sizes = [value, value] if isinstance(value, int) else list(value)
    if len(sizes) != 2 or not all(isinstance(size, int) and 1 <= size <= 16384 for size in sizes):
        raise ValueError("imgsz must be a number or [height, width], got {!r}".format(value))
    return sizes[0], sizes[1]


def input_size(
    metadata: Dict[str, Any], facts: Optional[OnnxFacts], model: str, asked: Optional[int]
) -> Tuple[int, int]:
    """Take the input size (height, width) in pixels from the graph, else from the metadata, else from the user.

    Raises:
        UserError: None of them says it, the metadata's is no size, or the user's is another than the model's fixed one.
    """
    fixed = None
    if facts is not None and len(facts.inputs[0][2]) == 4 and min(facts.inputs[0][2][2:]) > 0:
        fixed = (facts.inputs[0][2][2], facts.inputs[0][2][3])
    elif metadata.get("imgsz") is not None:
        try:
            fixed = _parse_size(metadata["imgsz"])
        except _UNREADABLE as error:
            raise UserError("{}: its input size cannot be read: {}".format(model, first_line(error)))
    if asked is None and fixed is None:
        raise UserError("{}: the model does not say its input size; give imgsz=".format(model))
    dynamic = facts is not None and min(facts.inputs[0][2][2:] or [-1]) < 0
    if asked is not None and fixed is not None and (asked, asked) != fixed and not dynamic:
        raise UserError("imgsz={} was asked, but {} takes {}x{} only; leave imgsz= out".format(asked, model, *fixed))
    if asked is not None:
        return asked, asked
    assert fixed is not None
    return fixed
