"""runtimes/artifact.py, metadata.py and onnxfile.py: model files, manifests and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact, sha256_of, usual_conf
from yolo_musgd.edge.runtimes.metadata import read_engine_header, read_flat_yaml
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.tensorrt import save_engine


def small_onnx(path: Path, quantized: bool = False, dynamic: bool = False, **metadata: str) -> Path:
    """A one-node model with the input and output of a detector of two classes."""
    side = None if dynamic else 32
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])
    answer = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 21])
    constant = numpy_helper.from_array(np.zeros((1, 6, 21), np.float32), "value")
    nodes = [helper.make_node("Identity", ["value"], ["output0"])]
    initializers = [constant]
    if quantized:
        initializers += [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
        nodes.insert(0, helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]))
    graph = helper.make_graph(nodes, "g", [image], [answer], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


META = {"names": "{0: 'cat', 1: 'dog'}", "task": "detect", "stride": "32", "end2end": "False"}


def artifact_folder(tmp_path: Path, **changes: object) -> Path:
    """An artifact with a manifest."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    model = small_onnx(folder / "model.onnx")
    manifest = {
        "schema": 1,
        "model": "model.onnx",
        "files": {"model.onnx": sha256_of(str(model))},
        "names": ["cat", "dog"],
        "imgsz": 32,
        "head": "raw",
        "precision": "int8",
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def test_bare_onnx(tmp_path: Path) -> None:
    artifact = open_artifact(str(small_onnx(tmp_path / "m.onnx", **META)))
    assert (artifact.names, artifact.imgsz, artifact.head) == ({0: "cat", 1: "dog"}, (32, 32), "raw")
    assert (artifact.precision, artifact.verified, artifact.format) == ("fp32", False, "onnx")


def test_quantized_is_seen(tmp_path: Path) -> None:
    assert open_artifact(str(small_onnx(tmp_path / "m.onnx", quantized=True, **META))).precision == "int8"


def test_reader_agrees_with_the_onnx_package(random_models: dict[str, Path]) -> None:
    for path in random_models.values():
        model, facts = onnx.load(str(path)), read_onnx(str(path))
        assert facts.metadata == {entry.key: entry.value for entry in model.metadata_props}
        assert facts.opset == model.opset_import[0].version
        assert sum(facts.operators.values()) == len(model.graph.node)
        assert facts.inputs == [("images", "float32", [1, 3, 128, 128])]
        shape = [dimension.dim_value for dimension in model.graph.output[0].type.tensor_type.shape.dim]
        assert facts.outputs == [("output0", "float32", shape)]
        assert not facts.is_quantized


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 400))
def test_hostile_onnx_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    good = small_onnx(folder / "good.onnx").read_bytes()
    for data in (noise, good[: min(cut, len(good) - 1)], noise + good):
        bad = folder / "bad.onnx"
        bad.write_bytes(data)
        refusal, counts = "", {}
        try:
            counts = read_onnx(str(bad)).operators
        except UserError as error:
            refusal = str(error)
        assert len(refusal.splitlines()) <= 1  # one line for people, whatever the bytes were
        assert all(count > 0 for count in counts.values())
    shutil.rmtree(folder)


def test_manifest_is_checked(tmp_path: Path) -> None:
    folder = artifact_folder(tmp_path)
    artifact = open_artifact(str(folder))
    assert artifact.verified
    assert artifact.precision == "int8"
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="changed or damaged"):
        open_artifact(str(folder))
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match="missing"):
        open_artifact(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema must be 1"),
        ({"files": {"../other": "0"}}, "outside the artifact"),
        ({"files": {"/etc/passwd": "0"}}, "outside the artifact"),
        ({"files": {}}, "needs 'model'"),
        ({"model": 3}, "needs 'model'"),
        ({"imgsz": [1, 2, 3]}, "imgsz"),
        ({"names": "{0: __import__('os')}"}, "class names cannot be read"),
        ({"task": "segment"}, "only detect"),
    ],
)
def test_bad_manifests(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = artifact_folder(tmp_path, **changes)
    if "imgsz" in changes:
        small_onnx(folder / "model.onnx", dynamic=True)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["model.onnx"] = sha256_of(str(folder / "model.onnx"))
        (folder / "manifest.json").write_text(json.dumps(manifest))
        message = "imgsz|input size"
    with pytest.raises(UserError, match=message):
        open_artifact(str(folder))


@pytest.mark.parametrize(
    ("told", "given", "expected"),
    [(0.31, None, 0.31), (0.31, 0.6, 0.6), (0.31, 0.0, 0.0), (None, None, 0.25), ("0.9", None, 0.25), (7, None, 0.25)],
)
def test_the_artifacts_own_threshold_holds_unless_told_otherwise(
    tmp_path: Path, told: object, given: float | None, expected: float
) -> None:
    assert usual_conf(open_artifact(str(artifact_folder(tmp_path, conf=told))), given) == expected


def test_model_must_be_covered_by_the_hashes(tmp_path: Path) -> None:
    folder = artifact_folder(tmp_path)
    shutil.copy(folder / "model.onnx", folder / "other.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "model": "other.onnx"}))
    with pytest.raises(UserError, match="unchecked"):
        open_artifact(str(folder))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="pickled models are not loaded"):
        open_artifact(str(path))


def test_unknown_absent_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        open_artifact(str(tmp_path / "none.onnx"))
    (tmp_path / "m.tflite").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown kind"):
        open_artifact(str(tmp_path / "m.tflite"))
    with pytest.raises(UserError, match="0 model files"):
        open_artifact(str(tmp_path))
    small_onnx(tmp_path / "a.onnx")
    small_onnx(tmp_path / "b.onnx")
    with pytest.raises(UserError, match="2 model files"):
        open_artifact(str(tmp_path))


def test_input_size(tmp_path: Path) -> None:
    fixed = str(small_onnx(tmp_path / "f.onnx", **META))
    with pytest.raises(UserError, match="takes 32x32 only"):
        open_artifact(fixed, 64)
    free = str(small_onnx(tmp_path / "d.onnx", dynamic=True))
    with pytest.raises(UserError, match="give imgsz="):
        open_artifact(free)
    assert open_artifact(free, 96).imgsz == (96, 96)


def test_engine_header(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    save_engine(str(path), b"ENGINE", {"names": {"0": "cat"}, "imgsz": [32, 32], "precision": "fp16"})
    metadata, offset = read_engine_header(str(path))
    assert path.read_bytes()[offset:] == b"ENGINE"
    artifact = open_artifact(str(path))
    assert (artifact.names, artifact.precision, artifact.format) == ({0: "cat"}, "fp16", "engine")
    path.write_bytes(b"\xff\xff\xff\x7fplain")
    assert read_engine_header(str(path)) == ({}, 0)
    assert metadata["imgsz"] == [32, 32]


ODD = ["it's", "a: b", "- y", '"quoted"', "1", "", "\N{GRINNING FACE}", "back\\slash", "tab\tx", "long " * 25 + "end",
       "long: " + "word " * 30, "caf\xe9\xa0x", "# x" * 30, "'"]  # fmt: skip


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\x85\u2028\u2029"))))
@example(ODD)
def test_class_names_are_those_that_yaml_wrote(names: list[str]) -> None:
    """As `yolo export format=ncnn` writes them; line breaks in a name are not kept."""
    yaml = pytest.importorskip("yaml")
    content = {"description": "trained on /a long path/with: blanks/" * 4, "names": dict(enumerate(names)), "batch": 1}
    read = read_flat_yaml(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    assert read["batch"] == 1
    assert {key: str(name) for key, name in (read["names"] or {}).items()} == content["names"] if names else True


@pytest.mark.parametrize("text", ['a: "\\U99999999"', 'a: "\\x"', 'a: "\\', "a:\n    b", "  x", "- y", 'a: "\\uD800"'])
def test_hostile_yaml(text: str) -> None:
    assert isinstance(read_flat_yaml(text), dict)


def test_exported_folders_metadata() -> None:
    lines = ["description: 'it''s'", "stride: 32", "imgsz:", "- 320", "- 320", "names:", "  0: person"]
    text = "\n".join([*lines, "  1: 'traffic light'", "end2end: false", ""])
    assert read_flat_yaml(text) == {
        "description": "it's",
        "stride": 32,
        "imgsz": [320, 320],
        "names": {0: "person", 1: "traffic light"},
        "end2end": False,
    }
