"""Ranges of activations: from which images, by which rule, kept for the next time."""

from __future__ import annotations

import logging
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.images import read_image, write_image
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.export import calibration
from yolo_musgd.export.calibration import cached_ranges, collect_ranges
from yolo_musgd.export.splits import CalibrationSet, calibration_set, read_splits, spread


def make_images(folder: Path, count: int, seed: int = 0) -> list[str]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    return [
        write_image(str(folder / f"{k:03}.png"), random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        for k in range(count)
    ]


def make_data(root: Path, train: int = 6, val: int = 3) -> Path:
    make_images(root / "images" / "train", train)
    (root / "labels" / "val").mkdir(parents=True)
    for file in make_images(root / "images" / "val", val, seed=1):
        (root / "labels" / "val" / f"{Path(file).stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    yaml = root / "data.yaml"
    yaml.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: thing}}\n")
    return yaml


def test_spread_is_even_and_keeps_the_order() -> None:
    assert spread(list("abcdefgh"), 4) == list("aceg")
    assert spread(list("ab"), 4) == ["a", "b"]


def test_calibration_never_sees_val_nor_an_image_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = make_data(tmp_path)
    train, val = tmp_path / "images" / "train", tmp_path / "images" / "val"
    shutil.copyfile(train / "000.png", train / "copy.png")
    shutil.copyfile(val / "000.png", train / "leaked.png")
    with caplog.at_level(logging.WARNING):
        chosen = calibration_set(read_splits(str(yaml)), 100)
    assert len(chosen.files) == 6
    assert not [file for file in chosen.files if "leaked" in file]
    assert "do not calibrate: 1" in caplog.text
    assert "only 6 different images" in caplog.text


def test_the_hash_is_of_the_contents(tmp_path: Path) -> None:
    first = calibration_set(read_splits(str(make_data(tmp_path / "a"))), 4)
    again = make_data(tmp_path / "b")
    train = tmp_path / "b" / "images" / "train"
    assert calibration_set(read_splits(str(again)), 4).sha256 == first.sha256
    write_image(str(train / "000.png"), np.zeros((48, 64, 3), np.uint8))
    assert calibration_set(read_splits(str(again)), 4).sha256 != first.sha256


def test_no_train_images_is_one_line(tmp_path: Path) -> None:
    yaml = make_data(tmp_path)
    shutil.rmtree(tmp_path / "images" / "train")
    (tmp_path / "images" / "train").mkdir()
    with pytest.raises(UserError, match="train"):
        calibration_set(read_splits(str(yaml)), 4)
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read"):
        read_splits(str(tmp_path / "nowhere.yaml"))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Images in, twice the images minus one out."""
    nodes = [
        helper.make_node("Add", ["images", "images"], ["double"], name="a"),
        helper.make_node("Sub", ["double", "one"], ["output0"], name="b"),
    ]
    shape = [1, 3, 32, 32]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)],
            [onnx.numpy_helper.from_array(np.float32(1), "one")],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def blobs_of(images: CalibrationSet) -> np.ndarray:
    letterbox = Letterbox((32, 32))
    return np.stack([letterbox(read_image(file))[0].copy() for file in images.files])


@pytest.fixture
def images(tmp_path: Path) -> CalibrationSet:
    return calibration_set(read_splits(str(make_data(tmp_path / "data"))), 5)


def test_minmax_ranges_are_those_of_all_images_at_once(graph: Path, images: CalibrationSet) -> None:
    ranges = collect_ranges(graph, images, 32, "minmax", 0)
    double = 2 * blobs_of(images)
    assert ranges["double"] == pytest.approx((double.min(), double.max()))
    assert collect_ranges(graph, images, 32, "minmax", 0) == ranges


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_clip_the_rare_values(method: str, graph: Path, images: CalibrationSet) -> None:
    widest = collect_ranges(graph, images, 32, "minmax", 0)["double"]
    low, high = collect_ranges(graph, images, 32, method, 90.0)["double"]
    assert widest[0] - 1e-6 <= low < high <= widest[1] + 1e-6
    if method == "percentile":
        inside = np.mean((2 * blobs_of(images) >= low) & (2 * blobs_of(images) <= high))
        assert inside == pytest.approx(0.9, abs=0.03)


@given(
    images=st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40).map(np.float32), min_size=1, max_size=6
    ),
    scale=st.floats(1e-3, 1e3),
)
@example(images=[np.float32([1.1754943508222875e-38])], scale=1.0)
@settings(max_examples=60, deadline=None)
def test_the_counts_are_numpys(images: list[np.ndarray], scale: float) -> None:
    """Oracle: np.histogram over the final bins. A value on a border may fall to either side."""
    found = calibration.Histogram(128)
    for values in images:
        found.add(values * np.float32(scale))
    every = np.concatenate(images) * np.float32(scale)
    assert (found.low, found.high) == (every.min(), every.max())
    reach = np.maximum.accumulate([np.abs(values).max() for values in images])
    if reach[0] < found.TINY or any(later > 32 * before for before, later in pairwise(reach)):
        return  # what came before the first range, or was tiny against a later one, is not kept bin by bin
    assert found.counts.sum() == len(every)
    expected = np.histogram(every, len(found.counts), (-found.reach, found.reach))[0]
    behind = np.abs(found.counts.cumsum() - expected.cumsum()).max()
    width = 2 * found.reach / len(found.counts)
    near = np.abs(every / width - np.rint(every / width)) < 1e-2
    assert behind <= near.sum()


@pytest.mark.parametrize(("method", "kind"), [("percentile", "Percentile"), ("entropy", "Entropy")])
def test_the_ranges_are_those_of_onnx_runtime(method: str, kind: str, graph: Path, images: CalibrationSet) -> None:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    options = {"percentile": 99.0, "symmetric": False} if method == "percentile" else {}
    theirs = create_calibrator(
        graph, None, str(graph.with_suffix(".aug")), calibrate_method=CalibrationMethod[kind], extra_options=options
    )
    for blob in blobs_of(images):
        theirs.collect_data(SimpleNamespace(get_next=iter([{"images": blob[None][0]}, None]).__next__))
    expected = theirs.compute_data()
    ours = collect_ranges(graph, images, 32, method, 99.0)
    assert set(ours) == {"images", "double", "output0"}
    for name, (low, high) in ours.items():
        edges = [float(np.ravel(edge)[0]) for edge in expected[name].range_value]
        assert (low, high) == pytest.approx(edges, abs=2 * max(map(abs, edges)) / calibration.BINS[method])


def test_a_tensor_without_a_range_is_left_out() -> None:
    found = calibration.Histogram(8)
    found.add(np.float32([1.0, np.inf]))
    assert not found.is_finite
    found = calibration.Histogram(8)
    found.add(np.zeros(4, np.float32))
    assert found.is_finite
    assert found.percentile(99.0) == (0.0, 0.0)


def test_a_calibration_is_not_repeated(
    graph: Path, images: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = cached_ranges(cache, graph, images, 32, "minmax", 0)
    monkeypatch.setattr(calibration, "collect_ranges", lambda *a: pytest.fail("calibrated twice"))
    assert cached_ranges(cache, graph, images, 32, "minmax", 0) == first
    monkeypatch.setattr(calibration, "collect_ranges", lambda *a: {"x": (0.0, 1.0)})
    assert cached_ranges(cache, graph, images, 32, "entropy", 0) == {"x": (0.0, 1.0)}  # another method is another one
    next(cache.glob("*.json")).write_text("{half")
    assert cached_ranges(cache, graph, images, 32, "minmax", 0)
    assert not list(cache.glob("*.part"))
