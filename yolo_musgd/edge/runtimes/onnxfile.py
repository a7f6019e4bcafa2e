"""Reads the few facts of an ONNX file that a runner needs, without the onnx package.

ONNX is protobuf: a message is a run of (field number, wire type, value). The field numbers are those of onnx.proto;
weights are skipped by their length, so a 10 MB model costs a few milliseconds.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Set, Tuple

from ..errors import UserError
from ..files import read_bytes

_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 7, 8, 14
_MODEL_FUNCTION, _FUNCTION_NODE = 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_ATTRIBUTE, _TENSOR_EXTERNAL = 5, 13
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_ELEMENT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}

Tensor = Tuple[str, str, List[int]]  # name, element type, shape (-1 for a dynamic size)


class OnnxFacts(NamedTuple):
    """What was read: metadata, tensors at both ends, operators with their counts, opset, files that hold weights."""

    metadata: Dict[str, str]
    inputs: List[Tensor]
    outputs: List[Tensor]
    operators: Dict[str, int]
    opset: int
    external: Tuple[str, ...] = ()  # as written in the file: relative to it, if all is well

    @property
    def is_quantized(self) -> bool:
        """Whether the graph holds INT8 operators (Q/DQ nodes or their fused forms)."""
        return any(
            op == "QuantizeLinear" or op.startswith("QLinear") or op.endswith("Integer") for op in self.operators
        )


def _varint(data: Any, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _fields(data: Any) -> Iterator[Tuple[int, Any]]:
    """Yield (field number, value); length-delimited values are memory views, not copies."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type {}".format(wire))
        if at + size > end:
            raise ValueError("truncated field")
        yield key >> 3, data[at : at + size]
        at += size


def _string(view: Any) -> str:
    return bytes(view).decode("utf-8", "replace")


def _message(view: Any) -> Dict[int, Any]:
    return dict(_fields(view))


def _tensor(view: Any) -> Tensor:
    info = _message(view)
    tensor_type = _message(_message(info[2])[1])
    shape = []
    for number, dimension in _fields(tensor_type.get(2, b"")):
        if number == 1:
            size = _message(dimension).get(1, -1)
            shape.append(size if isinstance(size, int) and size < 1 << 31 else -1)
    return _string(info[1]), _ELEMENT_TYPES.get(tensor_type.get(1, 0), "other"), shape


def _external_of_tensor(view: Any, found: Set[str]) -> None:
    for number, value in _fields(view):
        if number == _TENSOR_EXTERNAL:
            entry = _message(value)
            if _string(entry.get(1, b"")) == "location":
                found.add(_string(entry.get(2, b"")))


def _external_of_sparse(view: Any, found: Set[str]) -> None:
    for number, value in _fields(view):
        if number in (1, 2):  # values and indices
            _external_of_tensor(value, found)


def _external_of_node(view: Any, found: Set[str]) -> None:
    """Collect files behind a node's constants and the graphs inside it."""
    for number, attribute in _fields(view):
        if number != _NODE_ATTRIBUTE:
            continue
        for kind, value in _fields(attribute):
            if kind in _ATTRIBUTE_TENSORS:
                _external_of_tensor(value, found)
            elif kind in _ATTRIBUTE_SPARSE:
                _external_of_sparse(value, found)
            elif kind in _ATTRIBUTE_GRAPHS:
                _graph(value, found)


def _graph(view: Any, external: Set[str]) -> Tuple[List[Tensor], List[Tensor], Dict[str, int]]:
    operators: Dict[str, int] = {}
    inputs, outputs, weights = [], [], set()
    for number, value in _fields(view):
        if number == _GRAPH_NODE:
            name = _string(_message(value).get(4, b""))
            operators[name] = operators.get(name, 0) + 1
            _external_of_node(value, external)
        elif number == _GRAPH_INPUT:
            inputs.append(_tensor(value))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_tensor(value))
        elif number == _GRAPH_INITIALIZER:
            weights.add(_string(_message(value).get(8, b"")))
            _external_of_tensor(value, external)
        elif number == _GRAPH_SPARSE:
            _external_of_sparse(value, external)
    return [tensor for tensor in inputs if tensor[0] not in weights], outputs, operators


def read_onnx(path: str) -> OnnxFacts:
    """Read the facts of the ONNX file at ``path``.

    Raises:
        UserError: The file is not ONNX, is truncated, or has no graph.
    """
    data = memoryview(read_bytes(path))
    metadata: Dict[str, str] = {}
    external: Set[str] = set()
    graph, opset = None, 0
    try:
        for number, value in _fields(data):
            if number == _MODEL_METADATA:
                entry = _message(value)
                metadata[_string(entry.get(1, b""))] = _string(entry.get(2, b""))
            elif number == _MODEL_GRAPH:
                graph = _graph(value, external)
            elif number == _MODEL_OPSET:
                entry = _message(value)
                if not entry.get(1):
                    opset = int(entry.get(2, 0))
            elif number == _MODEL_FUNCTION:
                for kind, node in _fields(value):
                    if kind == _FUNCTION_NODE:
                        _external_of_node(node, external)
        if graph is None or not graph[0]:
            raise ValueError("it has no graph with an input")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("{} is not a readable ONNX file ({}); copy or export it again".format(path, error))
    return OnnxFacts(metadata, graph[0], graph[1], graph[2], opset, tuple(sorted(external)))
