"""Boards by name, and the graphs that they can run."""

from __future__ import annotations

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.onnxfile import OnnxFacts
from yolo_musgd.export import targets
from yolo_musgd.export.backends import BACKENDS
from yolo_musgd.export.command import MACHINES
from yolo_musgd.export.quantize import VARIANTS
from yolo_musgd.export.settings import ExportSettings
from yolo_musgd.export.targets import NAMES, PRECISIONS, load_target
from yolo_musgd.export.tensorrt_graph import operator_table, unsupported
from yolo_musgd.settings import parse


@pytest.mark.parametrize("name", NAMES)
def test_every_board_is_complete(name: str) -> None:
    target = load_target(name)
    assert target.precision in target.precisions()
    assert set(target.precisions()) <= set(PRECISIONS)
    assert target.variant in VARIANTS
    assert target.layout == "NCHW"
    assert target.machine in MACHINES
    assert set(target.runtimes) <= set(BACKENDS)
    assert target.setup
    assert target.power
    target.check(target.precision, target.heads[0])  # the defaults work
    for reason in target.impossible.values():
        assert len(reason) > 20
    if "tensorrt" in target.runtimes:
        assert target.opset <= operator_table()[str(target.tensorrt)]["max_opset"]


def test_all_boards_have_files_of_their_own() -> None:
    titles = [load_target(name).title for name in NAMES]
    assert len(set(titles)) == len(NAMES)


def test_what_takes_long_is_made_on_request_only() -> None:
    target = load_target("raspberry-pi-5")
    target.check("int8", "raw", "ncnn")
    assert "ncnn" not in target.runtimes_for("int8")
    assert "ncnn" in target.runtimes_for("fp32")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("jetson-nano", "int8", "raw"), ["sm_53", "use precision=fp16"]),
        (("jetson-nano", "fp16", "nms_free"), ["no Mod operator", "use head=raw"]),
        (("jetson-orin-nano", "int8", "nms_free"), ["precision=int8 head=nms_free", "10.3", "use head=raw"]),
        (("x86", "fp16", "raw", "onnxruntime"), ["runtime=onnxruntime precision=fp16", "slower than FP32"]),
        (("x86", "int8", "raw", "ncnn"), ["runtime=ncnn is none of target=x86"]),
        (("x86", "int8", "raw", "tensorrt"), ["runtime=tensorrt", "onnxruntime, openvino"]),
    ],
)
def test_what_a_board_cannot_do_is_one_line(words: tuple[str, ...], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_target(words[0]).check(*words[1:])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_an_unknown_board_is_guessed() -> None:
    with pytest.raises(UserError, match="try jetson-nano"):
        load_target("jetson-nanoo")


@pytest.mark.parametrize(
    ("line", "message"),
    [("", "lacks title, precision, "), ("titel: x", r"unknown key 'titel'; did you mean title\?")],
)
def test_a_file_with_wrong_keys_is_one_line(line: str, message: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "toy.yaml").write_text(f"runtimes: {{ncnn: [fp32]}}\n{line}\n")
    monkeypatch.setattr(targets, "NAMES", ("toy",))
    monkeypatch.setattr(targets.resources, "folder", lambda name: tmp_path)
    with pytest.raises(UserError, match=rf"toy\.yaml.*{message}"):
        load_target.__wrapped__("toy")


def facts(opset: int, *operators: str) -> OnnxFacts:
    return OnnxFacts({}, [], [], dict.fromkeys(operators, 1), opset)


@pytest.mark.parametrize(
    ("version", "graph", "missing"),
    [
        ("8.2", facts(13, "Conv", "Mod"), ["Mod"]),
        ("8.5", facts(13, "Conv", "Mod"), []),
        ("8.2", facts(17, "Conv"), ["opset 17"]),
        ("10.1", facts(17, "Conv", "QLinearConv"), ["QLinearConv"]),
    ],
)
def test_operator_check(version: str, graph: OnnxFacts, missing: list[str]) -> None:
    assert unsupported(graph, version) == missing


def test_every_operator_list_has_what_a_quantized_detector_needs() -> None:
    needed = {"Add", "Concat", "Conv", "DequantizeLinear", "MatMul", "Mul", "QuantizeLinear", "Resize", "Softmax"}
    for version, entry in operator_table().items():
        assert needed <= set(entry["operators"]), version
        assert ("Mod" in entry["operators"]) == (version != "8.2")


def test_the_older_word_for_variant_is_answered_with_it() -> None:
    with pytest.raises(UserError, match=r"unknown argument 'flavour'; did you mean variant\?"):
        parse(ExportSettings, {"flavour": "x86"})
    with pytest.raises(UserError, match=r"unknown setting 'flavour'; did you mean variant\?"):
        ExportSettings.from_mapping({"flavour": "x86"})
