"""INT8 graphs: what each variant quantizes, how close it stays, what runtimes fuse of it.

Covers onnx_graph.py, tensorrt_graph.py and upsampling.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.calibration import Ranges
from yolo_musgd.export.onnx_graph import constant_operand_nodes, count_fused, head_parts, layer_groups, shared_scales
from yolo_musgd.export.quantize import VARIANTS, QuantizationPlan, make_plan, quantize
from yolo_musgd.export.sensitivity import rank_groups
from yolo_musgd.export.tensorrt_graph import save_half, trial_build, unsupported
from yolo_musgd.export.upsampling import copy_pixels

Quantized = dict[str, tuple[QuantizationPlan, Path]]


def ranges_of(model: Path, *blobs: np.ndarray) -> Ranges:
    """Ranges of every tensor on these blobs, else on one random image: enough for questions about structure."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    method = CalibrationMethod.MinMax
    calibrator = create_calibrator(model, None, str(model.with_suffix(".aug")), calibrate_method=method)
    blobs = blobs or (np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32),)
    calibrator.collect_data(SimpleNamespace(get_next=iter([*({"images": blob} for blob in blobs), None]).__next__))
    return {k: tuple(float(np.ravel(x)[0]) for x in v.range_value) for k, v in calibrator.compute_data().items()}


@pytest.fixture(scope="module")
def quantized(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Variant -> plan and quantized raw graph."""
    folder, ranges = tmp_path_factory.mktemp("quantized"), ranges_of(graphs["raw"])
    made = {}
    for variant in VARIANTS:
        plan = make_plan(graphs["raw"], variant)
        made[variant] = plan, quantize(plan, folder / f"{variant}.onnx", ranges, variant, plan.last)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_quantized_graph_is_valid_onnx(variant: str, quantized: Quantized) -> None:
    onnx.checker.check_model(str(quantized[variant][1]), full_check=True)


@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_the_head_is_found_by_structure(head: str, graphs: dict[str, Path]) -> None:
    graph = onnx.load(str(graphs[head])).graph
    parts = head_parts(graph)
    kinds = {n.name: n.op_type for n in graph.node}
    assert len(parts.last) == 6  # boxes and classes at three scales
    assert all(name.endswith(".2/Conv") for name in parts.last)
    assert "Conv" not in {kinds[name] for name in parts.decode}
    assert graph.node[-1].name in parts.decode
    assert ("TopK" in {kinds[name] for name in parts.decode}) == (head == "nms_free")


def test_the_distribution_mean_of_older_heads_is_decoding() -> None:
    """YOLOv8 and 11 end in a convolution that only averages; the layer before it is the head's last one."""
    weights = [
        numpy_helper.from_array(np.zeros((16, 3, 1, 1), np.float32), "w1"),
        numpy_helper.from_array(np.zeros(16, np.float32), "b1"),
        numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1), "w2"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="box"),
        helper.make_node("Softmax", ["a"], ["b"], name="softmax", axis=1),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="dfl"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 4, 4]) for n, c in (("x", 3), ("y", 1))]
    parts = head_parts(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))
    assert parts == (("box",), ("softmax", "dfl"))


def test_groups_hold_every_node_once(graphs: dict[str, Path]) -> None:
    graph = onnx.load(str(graphs["raw"])).graph
    names = [n.name for n in graph.node if n.op_type == "Conv"]
    groups = layer_groups(graph, names)
    assert sorted(name for group in groups.values() for name in group) == sorted(names)
    assert "model.4" in groups
    assert len([g for g in groups if g.startswith("model.23/")]) == 18  # 3 scales of 2 branches of 3 stages


def linear_nodes(path: Path) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], dict[str, np.ndarray]]:
    graph = onnx.load(str(path)).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    kinds = {kind: [n for n in graph.node if n.op_type == kind] for kind in ("QuantizeLinear", "DequantizeLinear")}
    return kinds["QuantizeLinear"], kinds["DequantizeLinear"], values


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_zero_points_and_types(variant: str, quantized: Quantized) -> None:
    q, dq, values = linear_nodes(quantized[variant][1])
    zeros = [values[n.input[2]] for n in q + dq if n.input[2] in values]
    if VARIANTS[variant].signed:
        assert {z.dtype for z in zeros} == {np.dtype(np.int8)}
        assert not any(z.any() for z in zeros)
    else:
        assert {values[n.input[2]].dtype for n in q} == {np.dtype(np.uint8)}
        assert np.dtype(np.int32) in {z.dtype for z in zeros}  # biases
    weights = [n for n in dq if n.input[0] in values and values[n.input[0]].ndim == 4]
    assert len(weights) >= 96
    for node in weights:
        assert values[node.input[0]].dtype == np.int8
        assert values[node.input[1]].shape == (values[node.input[0]].shape[0],)  # a scale for each output channel


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_decoding_and_the_chosen_layers_stay_in_float(variant: str, quantized: Quantized) -> None:
    plan, path = quantized[variant]
    graph = onnx.load(str(path)).graph
    made_by = {output: n for n in graph.node for output in n.output}
    for node in graph.node:
        if node.name in plan.last:
            assert made_by[node.input[1]].op_type != "DequantizeLinear" if node.input[1] in made_by else True
        if node.name in plan.decode:
            quantizers = [made_by[i].op_type for i in node.input if i in made_by]
            assert "DequantizeLinear" not in quantizers


def scales_at_concats(path: Path) -> list[set[tuple[float, int]]]:
    """(scale, zero point) of everything that each quantized Concat reads and writes."""
    graph = onnx.load(str(path)).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    made_by = {output: n for n in graph.node for output in n.output}
    read_by = {name: n for n in graph.node for name in n.input}
    found = []
    for node in graph.node:
        around = [made_by.get(name) for name in node.input] + [read_by.get(name) for name in node.output]
        if node.op_type == "Concat" and all(
            n is not None and n.op_type.endswith("quantizeLinear") for n in around[:-1]
        ):
            linear = [n for n in around if n is not None and n.op_type.endswith("uantizeLinear")]
            found.append({(float(values[n.input[1]]), int(values[n.input[2]])) for n in linear})
    return found


def test_what_a_concat_joins_has_one_scale_on_x86(quantized: Quantized) -> None:
    """ONNX Runtime then copies bytes; other variants keep the finer scales that nobody timed otherwise."""
    assert len(scales_at_concats(quantized["x86"][1])) >= 19
    assert {len(scales) for scales in scales_at_concats(quantized["x86"][1])} == {1}
    assert {len(scales) for scales in scales_at_concats(quantized["universal-all"][1])} > {1}


@pytest.mark.parametrize(("variant", "kinds"), [("x86", ["Conv", "Sigmoid", "Mul"]), ("universal", [])])
def test_the_first_layer_is_found_with_its_activation(
    variant: str, kinds: list[str], graphs: dict[str, Path], quantized: Quantized
) -> None:
    named = {n.name: n.op_type for n in onnx.load(str(graphs["raw"])).graph.node}
    assert [named[name] for name in quantized[variant][0].first] == kinds


def test_a_shared_scale_reaches_through_what_only_moves_values() -> None:
    nodes = [
        helper.make_node("Split", ["a"], ["b", "c"], name="split"),
        helper.make_node("Resize", ["b", "", "sizes"], ["d"], name="resize"),
        helper.make_node("Concat", ["d", "e"], ["f"], name="concat", axis=1),
        helper.make_node("Conv", ["f", "w"], ["g"], name="conv"),
        helper.make_node("Concat", ["g", "h"], ["i"], name="other", axis=1),
        helper.make_node("Concat", ["x", "y"], ["z"], name="float", axis=1),
    ]
    groups = shared_scales(helper.make_graph(nodes, "g", [], []), {"split", "resize", "concat", "conv", "other"})
    assert sorted(map(sorted, groups)) == [["a", "b", "c", "d", "e", "f"], ["g", "h", "i"]]


def test_upsampling_as_copies_gives_the_same_bytes(graphs: dict[str, Path], tmp_path: Path) -> None:
    """The oracle is ONNX Runtime's own Resize in the graph that the quantizer made."""
    import onnxruntime as ort

    ranges, blob = ranges_of(graphs["raw"]), np.random.default_rng(1).random((1, 3, 64, 64), dtype=np.float32)
    plan, found = make_plan(graphs["raw"], "x86"), []
    for k, replace in enumerate((True, False)):
        with pytest.MonkeyPatch.context() as patch:
            if not replace:
                patch.setattr("yolo_musgd.export.quantize.copy_pixels", lambda *_: 0)
            path = quantize(plan, tmp_path / f"{k}.onnx", ranges, "x86", plan.last)
        onnx.checker.check_model(str(path), full_check=True)
        assert [n.op_type for n in onnx.load(str(path)).graph.node].count("Resize") == (0 if replace else 2)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"images": blob})[0])
    np.testing.assert_array_equal(*found)


def resizing(mode: str, coordinates: str, scales: list[float], last_scale: float = 0.5) -> onnx.GraphProto:
    """A Resize of (1, 2, 3, 5) bytes between Q/DQ nodes."""
    values = {"s": np.float32(0.5), "s2": np.float32(last_scale), "z": np.uint8(3), "k": np.float32(scales)}
    options = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": "floor"}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"], name="dq"),
        helper.make_node("Resize", ["f", "", "k"], ["g"], name="resize", **options),
        helper.make_node("QuantizeLinear", ["g", "s2", "z"], ["y"], name="q"),
    ]
    large = [int(n * k) for n, k in zip((1, 2, 3, 5), scales, strict=True)]
    ends = [helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in (("x", [1, 2, 3, 5]), ("y", large))]
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
    return helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)


@pytest.mark.parametrize("scales", [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 3.0, 2.0]])
def test_upsampling_as_copies_against_numpy(scales: list[float]) -> None:
    from onnx.reference import ReferenceEvaluator

    graph = resizing("nearest", "asymmetric", scales)
    assert copy_pixels(graph, {"g": (1, 2, 3 * int(scales[2]), 5 * int(scales[3]))}) == 1
    assert {n.op_type for n in graph.node} == {"Transpose", "Reshape", "Expand"}
    x = np.arange(30, dtype=np.uint8).reshape(1, 2, 3, 5)
    (y,) = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": x})
    np.testing.assert_array_equal(y, x.repeat(int(scales[2]), 2).repeat(int(scales[3]), 3))


@pytest.mark.parametrize(
    ("graph", "shape"),
    [
        (resizing("linear", "asymmetric", [1.0, 1.0, 2.0, 2.0]), (1, 2, 6, 10)),
        (resizing("nearest", "half_pixel", [1.0, 1.0, 2.0, 2.0]), (1, 2, 6, 10)),
        (resizing("nearest", "asymmetric", [1.0, 1.0, 1.5, 2.0]), (1, 2, 6, 10)),
        (resizing("nearest", "asymmetric", [1.0, 2.0, 2.0, 2.0]), (1, 2, 6, 10)),
        (resizing("nearest", "asymmetric", [1.0, 1.0, 2.0, 2.0], last_scale=0.25), (1, 2, 6, 10)),
        (resizing("nearest", "asymmetric", [1.0, 1.0, 2.0, 2.0]), (1, 2, 0, 10)),
    ],
    ids=["linear", "other places", "no whole number", "channels", "another scale", "unknown shape"],
)
def test_other_upsampling_is_left_alone(graph: onnx.GraphProto, shape: tuple[int, ...]) -> None:
    before = graph.SerializeToString()
    assert copy_pixels(graph, {"g": shape}) == 0
    assert graph.SerializeToString() == before


def test_metadata_survives(graphs: dict[str, Path], quantized: Quantized) -> None:
    expected = read_onnx(str(graphs["raw"])).metadata
    assert expected["stride"] == "32"
    for _, path in quantized.values():
        assert read_onnx(str(path)).metadata == expected


def test_a_wider_float_list_quantizes_less(graphs: dict[str, Path], quantized: Quantized, tmp_path: Path) -> None:
    plan, path = quantized["x86"]
    stem = [name for name in plan.candidates if name.startswith("/model.0/")]
    less = quantize(plan, tmp_path / "less.onnx", ranges_of(graphs["raw"]), "x86", [*plan.last, *stem])
    before, after = count_fused(path), count_fused(less)
    assert before
    assert after
    assert after["convolutions_int8"] == before["convolutions_int8"] - 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_layers_in_float_are_the_float_graph(variant: str, graphs: dict[str, Path], tmp_path: Path) -> None:
    """The last step of a search. ONNX Runtime's quantizer takes an empty list of nodes for all of them."""
    plan = make_plan(graphs["raw"], variant)
    path = quantize(plan, tmp_path / "float.onnx", ranges_of(graphs["raw"]), variant, plan.candidates)
    assert onnx.load(str(path)) == onnx.load(str(graphs["raw"]))


def test_onnx_runtime_fuses_what_the_variant_is_for(quantized: Quantized) -> None:
    """96 of 102 convolutions: all but the head's last six; signed graphs only as on ARM."""
    for variant, (_, path) in quantized.items():
        here, arm = count_fused(path), count_fused(path, arm=True)
        assert here
        assert arm
        assert arm["convolutions_int8"] == 96
        assert here["convolutions_int8"] == (96 if variant == "x86" else pytest.approx(6, abs=6))


@pytest.mark.parametrize("variant", ["universal", "universal-all"])
def test_tensorrt_builds_the_signed_variants(variant: str, quantized: Quantized) -> None:
    built = trial_build(quantized[variant][1], 8.7)
    if built is None:
        pytest.skip("extra tensorrt-lint is not installed")
    assert built["error"] is None


def test_the_layers_that_lose_most_are_ranked_first(real_graph: Path, shared: Path) -> None:
    """Three modules, one of which clips all that it computes to a hundredth."""
    files = sorted(map(str, (shared / "data" / "coco128" / "images" / "train").glob("*.jpg")))[:8]
    squares = (cv2.resize(cv2.imread(file), (160, 160))[..., ::-1] for file in files)
    blobs = [np.float32(square.transpose(2, 0, 1)[None] / 255) for square in squares]
    plan, ranges = make_plan(real_graph, "x86"), ranges_of(real_graph, *blobs)
    graph = onnx.load(str(real_graph)).graph
    groups = layer_groups(graph, plan.candidates)
    chosen = list(groups)[2:7:2]  # none reads what another one clips
    spoiled = {out for node in graph.node if node.name in groups[chosen[1]] for out in node.output}
    ranges = {k: (v[0] / 100, v[1] / 100) if k in spoiled else v for k, v in ranges.items()}
    few = plan._replace(candidates=tuple(node for name in chosen for node in groups[name]))
    artifact = open_artifact(str(real_graph))
    ranked = rank_groups(few, artifact, open_runtime(artifact, "onnxruntime", 1), ranges, "x86", files)
    assert ranked[0].group == chosen[1], ranked
    assert {r.group: list(r.layers) for r in ranked} == {name: groups[name] for name in chosen}
    assert [r.loss for r in ranked] == sorted((r.loss for r in ranked), reverse=True)
    assert ranked[0].loss > 2 * ranked[1].loss


def test_tensorrt_refuses_a_quantized_constant(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Why all-ops graphs once parsed but did not build: the scale inside attention is a constant operand."""
    graph = onnx.load(str(graphs["raw"])).graph
    constants = constant_operand_nodes(graph)
    attention = [name for name in constants if "/attn/" in name]
    assert len(attention) == 2
    plan = make_plan(graphs["raw"], "universal-all")
    assert not set(constants) & set(plan.candidates)
    worse = plan._replace(candidates=(*plan.candidates, *attention))
    path = quantize(worse, tmp_path / "worse.onnx", ranges_of(graphs["raw"]), "universal-all", plan.last)
    built = trial_build(path, 8.7)
    if built is None:
        pytest.skip("extra tensorrt-lint is not installed")
    assert "Quantized constant" in built["error"]


@pytest.mark.parametrize(("head", "missing"), [("raw", []), ("nms_free", ["Mod"])])
def test_half_graphs_for_tensorrt_8_2(head: str, missing: list[str], graphs: dict[str, Path], tmp_path: Path) -> None:
    import onnxruntime as ort

    path = save_half(graphs[head], tmp_path / "half.onnx")
    onnx.checker.check_model(str(path))
    facts = read_onnx(str(path))
    assert facts.inputs[0][1] == facts.outputs[0][1] == "float32"
    assert unsupported(facts, "8.2") == missing
    weights = [i for i in onnx.load(str(path)).graph.initializer if len(i.dims) == 4]
    assert {i.data_type for i in weights} == {TensorProto.FLOAT16}
    blob = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    full, half = (ort.InferenceSession(str(p)).run(None, {"images": blob})[0] for p in (graphs[head], path))
    if head == "raw":
        assert np.abs(full[0, :4] - half[0, :4]).max() < 0.5  # pixels
        assert np.abs(full[0, 4:] - half[0, 4:]).max() < 0.01
    assert half.shape == full.shape
