"""Kinds of model files: what the input and output are is told by the file and its metadata, never guessed.

Covers what runtimes/artifact and runtimes/onnxfile say of batch, channels, weights beside the file, NMS in the graph
and RT-DETR; and that the manifest vouches for every file that is loaded.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import write_detector

from yolo_musgd.edge.detect import Detector
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures import boxes
from yolo_musgd.edge.pictures.images import synthetic_frame
from yolo_musgd.edge.pictures.letterbox import Letterbox, resize, to_image
from yolo_musgd.edge.runtimes.artifact import open_artifact, sha256_of
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import open_runtime

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

PROPERTIES = {"names": "{0: 'cat', 1: 'dog'}", "task": "detect"}


def graph_file(path: Path, shape=(1, 3, 32, 32), element=TensorProto.FLOAT, rows=(1, 6, 21), properties=None) -> Path:
    """A network whose answer does not depend on the image; its weights are the constant ``head``."""
    answer = np.zeros(rows, np.float32)
    image = helper.make_tensor_value_info("images", element, list(shape))
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(rows))
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["head", "nothing"], ["output0"]),
    ]
    weights = [numpy_helper.from_array(answer, "head"), numpy_helper.from_array(np.float32([0]), "zero")]
    graph = helper.make_graph(nodes, "g", [image], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (PROPERTIES if properties is None else properties).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (4, 3, 32, 32)}, "4 images at once"),
        ({"shape": (1, 10, 32, 32)}, "10 channels"),
        ({"shape": (1, 3, 32)}, "takes images"),
        ({"element": TensorProto.UINT8}, "takes uint8"),
        ({"properties": {**PROPERTIES, "names": "[" * 5000}}, "class names cannot be read"),
        ({"properties": {**PROPERTIES, "names": "{1e999: 'a'}"}}, "class names cannot be read"),
    ],
)
def test_what_the_runner_cannot_feed_is_refused_before_it_runs(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_artifact(str(graph_file(tmp_path / "x.onnx", **change)))
    assert "\n" not in str(caught.value)


def test_a_graph_that_loads_and_does_not_run_is_one_line(tmp_path: Path) -> None:
    file = write_detector(tmp_path / "x.onnx", nms_free=False)
    model = onnx.load(str(file))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1  # its weights are for three channels
    onnx.save(model, str(file))
    artifact = open_artifact(str(file))
    detect = Detector(artifact, open_runtime(artifact, "onnxruntime", 1))
    with pytest.raises(UserError, match=r"onnxruntime cannot run this model: .*channels") as caught:
        detect(synthetic_frame(64, 64))
    assert "\n" not in str(caught.value)


def test_a_graph_without_an_output_is_one_line(tmp_path: Path) -> None:
    file = graph_file(tmp_path / "x.onnx")
    model = onnx.load(str(file))
    del model.graph.output[:]
    onnx.save(model, str(file))
    with pytest.raises(UserError, match=r"x\.onnx has no output|cannot run .*x\.onnx"):
        open_runtime(open_artifact(str(file)), "onnxruntime", 1)


def test_a_name_with_a_nul_is_outside(tmp_path: Path) -> None:
    file = graph_file(tmp_path / "x.onnx")
    files = {"x.onnx": sha256_of(str(file)), "w\0.bin": "0"}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "model": "x.onnx", "files": files}))
    with pytest.raises(UserError, match="points outside the artifact"):
        open_artifact(str(tmp_path))


def test_a_dynamic_batch_is_one_image(tmp_path: Path) -> None:
    artifact = open_artifact(str(graph_file(tmp_path / "x.onnx", shape=("n", 3, 32, 32))))
    assert open_runtime(artifact, "onnxruntime", 1).infer(np.zeros((1, 3, 32, 32), np.float32)).shape == (6, 21)


def test_grey_networks_get_grey_images(tmp_path: Path) -> None:
    artifact = open_artifact(str(graph_file(tmp_path / "x.onnx", shape=(1, 1, 32, 32))))
    assert artifact.channels == 1
    runtime = open_runtime(artifact, "onnxruntime", 1)
    assert runtime.input_shape == (1, 1, 32, 32)
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[..., 1] = 255
    blob, _ = Letterbox(artifact.imgsz, artifact.channels)(colour)
    assert blob.shape == (1, 1, 32, 32)
    assert blob == pytest.approx(150 / 255)  # 0.587 of green
    grey, _ = Letterbox((32, 32), 3)(np.full((32, 32), 9, np.uint8))
    assert grey == pytest.approx(9 / 255)
    assert runtime.infer(blob).shape == (6, 21)


def test_metadata_beside_a_model_says_batch_and_channels(tmp_path: Path) -> None:
    for name in ("model.ncnn.param", "model.ncnn.bin"):
        (tmp_path / name).write_text("x")
    for line, message in (("batch: 4", "4 images at once"), ("channels: 6", "6 channels")):
        (tmp_path / "metadata.yaml").write_text(f"task: detect\nimgsz:\n- 32\n- 32\n{line}\nnames:\n  0: cat\n")
        with pytest.raises(UserError, match=message):
            open_artifact(str(tmp_path))
    (tmp_path / "metadata.yaml").write_text("imgsz:\n- 32\n- 32\nbatch: 4\nchannels: 1\nargs:\n  dynamic: true\n")
    assert open_artifact(str(tmp_path)).channels == 1
    (tmp_path / "metadata.yaml").write_bytes(b"imgsz:\n- 32\n- 32\nauthor: \xff\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        open_artifact(str(tmp_path))


def test_nms_in_the_graph_is_told_by_the_export_arguments(tmp_path: Path) -> None:
    said = {**PROPERTIES, "args": "{'batch': 1, 'nms': True}", "end2end": "False"}
    assert open_artifact(str(graph_file(tmp_path / "x.onnx", rows=(1, 300, 6), properties=said))).head == "nms"
    output = np.zeros((300, 6), np.float32)
    output[0] = [1, 2, 3, 4, 0.9, 1]
    assert boxes.decode(output, "nms", 2).tolist() == [output[0].tolist()]
    said["args"] = "{'nms': False}"
    assert open_artifact(str(graph_file(tmp_path / "x.onnx", properties=said))).head == "raw"


def test_six_columns_with_two_classes_are_not_guessed() -> None:
    for classes in (0, 2):
        with pytest.raises(UserError, match="export it again"):
            boxes.decode(np.zeros((300, 6), np.float32), None, classes)
    assert boxes.head_of((300, 6), 3) == "nms_free"
    assert boxes.head_of((6, 6), 2) == "raw"


@pytest.mark.parametrize("told", [{"description": "Ultralytics rtdetr-l model"}, {"head": "RTDETRDecoder"}])
def test_an_rtdetr_is_told_by_its_name(told: dict, tmp_path: Path) -> None:
    said = {**PROPERTIES, "end2end": "False", **told}
    artifact = open_artifact(str(graph_file(tmp_path / "x.onnx", rows=(1, 300, 6), properties=said)))
    assert artifact.head == "rtdetr"


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("older", [False, True])
def test_boxes_of_an_rtdetr_are_ultralytics(classes: int, older: bool) -> None:
    """Rows in fractions of a stretched input, with one score and a class, or of older releases a score per class."""
    import torch
    from ultralytics.utils import ops

    rng = np.random.default_rng(classes)
    scores = rng.random((300, classes), np.float32) * np.float32(0.9)
    best, kind = scores.max(axis=1, keepdims=True), scores.argmax(axis=1)[:, None].astype(np.float32)
    where = rng.random((300, 4), np.float32)
    output = np.concatenate((where, scores) if older else (where, best, kind), axis=1)
    found = boxes.decode(output, "rtdetr", classes, 0.5, max_det=40, size=(64, 128))
    expected = ops.xywh2xyxy(torch.from_numpy(where)).numpy() * np.float32([128, 64, 128, 64])
    order = np.argsort(-best[:, 0], kind="stable")
    order = order[best[order, 0] > 0.5][:40]
    np.testing.assert_allclose(found, np.concatenate((expected, best, kind), axis=1)[order], rtol=1e-5)
    with pytest.raises(UserError, match="gives rows of"):
        boxes.decode(np.zeros((300, 9), np.float32), "rtdetr", classes)


def test_an_rtdetr_sees_its_image_stretched() -> None:
    image = synthetic_frame(30, 90)
    blob, where = Letterbox((64, 64), 3, "rtdetr")(image)
    expected = resize(image, 64, 64)[:, :, ::-1].transpose(2, 0, 1)[None] / np.float32(255)
    np.testing.assert_array_equal(blob, expected.astype(np.float32))
    assert to_image(np.float32([[32, 32, 64, 64]]), where, (30, 90))[0] == pytest.approx([45, 15, 90, 30])


def external(tmp_path: Path, location: str = "weights.data") -> Path:
    path = graph_file(tmp_path / "x.onnx")
    model = onnx.load(str(path))
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.data", size_threshold=0)
    if location != "weights.data":
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_an_onnx_file_are_part_of_it(tmp_path: Path) -> None:
    path = external(tmp_path)
    artifact = open_artifact(str(path))
    assert artifact.files == (str(path), str(tmp_path / "weights.data"))
    assert artifact.sha256 == sha256_of(str(tmp_path / "weights.data"))
    assert artifact.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    (tmp_path / "weights.data").unlink()
    with pytest.raises(UserError, match=r"weights\.data is missing"):
        open_artifact(str(path))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:/secret", ""])
def test_weights_from_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outside its folder"):
        open_artifact(str(external(tmp_path, location)))


def test_weights_of_constants_and_inner_graphs_are_found(tmp_path: Path) -> None:
    def tensor(location: str) -> TensorProto:
        found = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        found.external_data.add(key="location", value=location)
        return found

    inner = helper.make_graph([], "inner", [], [], [tensor("deep")])
    sparse = helper.make_sparse_tensor(tensor("values"), tensor("indices"), [1])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("constant")),
        helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    graph = helper.make_graph(nodes, "g", [image], [], [tensor("plain")], sparse_initializer=[sparse])
    model = helper.make_model(graph)
    function = helper.make_function("d", "f", [], ["c"], [nodes[0]], [helper.make_opsetid("", 13)])
    function.node[0].attribute[0].t.external_data[0].value = "function"
    model.functions.append(function)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    facts = read_onnx(str(tmp_path / "x.onnx"))
    assert facts.external == ("constant", "deep", "function", "indices", "plain", "values")


def manifest(folder: Path, listed: "list[str]", model: str = "x.onnx") -> Path:
    files = {name: sha256_of(str(folder / name)) for name in listed}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "model": model, "files": files}))
    return folder


def test_the_manifest_must_list_the_weights(tmp_path: Path) -> None:
    external(tmp_path)
    with pytest.raises(UserError, match=r"weights\.data is not among 'files'"):
        open_artifact(str(manifest(tmp_path, ["x.onnx"])))
    assert open_artifact(str(manifest(tmp_path, ["x.onnx", "weights.data"]))).verified
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "x.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.bin is not among 'files'"):
        open_artifact(str(manifest(tmp_path, ["model.xml"], "model.xml")), 32)
    assert open_artifact(str(manifest(tmp_path, ["model.xml", "model.bin"], "model.xml")), 32).verified
