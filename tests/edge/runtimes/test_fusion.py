"""runtimes/fusion.py: what a runtime really computes in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolo_musgd.edge.report import markdown
from yolo_musgd.edge.runtimes import fusion
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime


def three_convolutions(path: Path) -> Path:
    """Convolutions a, b and c in a row, 8 channels on 16 x 16."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "images"
    for name, inside in (("a", 3), ("b", 8), ("c", 8)):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.2, (8, inside, 3, 3)).astype(np.float32), f"{name}.w"))
        nodes.append(helper.make_node("Conv", [at, f"{name}.w"], [f"{name}.y"], name=name, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.out"]))
        at = f"{name}.out"
    nodes.append(helper.make_node("Reshape", [at, "shape"], ["output0"]))
    weights.append(numpy_helper.from_array(np.array([1, 8, 256]), "shape"))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("images", [1, 3, 16, 16]), ("output0", [1, 8, 256]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    for key, value in {"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}", "imgsz": "[16, 16]", "task": "detect"}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three convolutions in float, and with Q/DQ nodes round the first two."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("fusion")
    plain = three_convolutions(folder / "float.onnx")

    class Noise(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.left = [{"images": rng.random((1, 3, 16, 16), np.float32)} for _ in range(3)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    kinds = quantization.QuantType
    quantization.quantize_static(
        str(plain), str(folder / "int8.onnx"), Noise(), quantization.QuantFormat.QDQ, op_types_to_quantize=["Conv"],
        per_channel=True, activation_type=kinds.QUInt8, weight_type=kinds.QInt8, nodes_to_exclude=["c"],
    )  # fmt: skip
    return {"float": plain, "int8": folder / "int8.onnx"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_quantized_convolutions_are_counted(runtime: str, models: dict[str, Path]) -> None:
    pytest.importorskip(runtime)
    for kind, expected in (("float", 0), ("int8", 2)):
        opened = open_runtime(open_artifact(str(models[kind])), runtime, 1)
        graph = opened.graph()
        opened.close()
        assert graph is not None
        assert (graph["convolutions"], graph["convolutions_int8"]) == (3, expected)
        assert graph["convolutions_int8"] <= graph["operators_int8"] <= graph["operators"]


def test_names_of_onnxruntime() -> None:
    operators = {"QLinearConv": 96, "Conv": 5, "FusedConv": 1, "QLinearAdd": 20, "QuantizeLinear": 1, "Softmax": 2}
    assert fusion.count({**operators, "DequantizeLinear": 6, "MatMulIntegerToFloat": 4}) == {
        "convolutions": 102, "convolutions_int8": 96, "operators": 128, "operators_int8": 120, "bridges": 7,
    }  # fmt: skip


def test_no_room_for_the_graph_is_no_failure(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_runtime(open_artifact(str(models["int8"])), "onnxruntime", 1)
    monkeypatch.setattr(fusion.tempfile, "TemporaryDirectory", lambda **_: (_ for _ in ()).throw(OSError(28, "full")))
    assert opened.graph() is None


def test_a_runtime_that_does_not_tell() -> None:
    assert "in INT8: not told by the runtime" in markdown(
        {
            "board": dict.fromkeys(("board", "os", "kernel", "l4t", "python", "numpy")),
            "model": {"file": "m", "precision": None, "imgsz": [1, 1], "format": "ncnn", "head": None, "size_bytes": 0,
                      "sha256": ""},
            "source": {"kind": "", "source": "", "sizes": [], "image_backend": ""},
            "label": None, "partial": False, "edge": "", "runs": [],
            "power": {"sensor": None, "tried": {}},
        }
    )  # fmt: skip
