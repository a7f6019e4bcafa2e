"""Damaged inputs for the parsers that only a PC has, as campaign.py has them for the board's; it runs these too."""

from __future__ import annotations

import json
import math
from pathlib import Path

from campaign import Call, Parser, in_file

from yolo_musgd.data import reader
from yolo_musgd.data.public import pixel_boxes
from yolo_musgd.data.voc import to_yolo
from yolo_musgd.export import compare, ncnn_files
from yolo_musgd.lab.parsing import parse_protocol
from yolo_musgd.lab.store import read_record
from yolo_musgd.pipeline.step import MARKER, why_not_done
from yolo_musgd.prune.search import read_report
from yolo_musgd.resources import read_recipe
from yolo_musgd.train import records

RUN = {
    "latency_ms": {"total": {"p50": 4.0, "p99": 5.0}, "infer": {"p50": 3.0, "p99": 4.0}},
    "power": {"mean_w": 4.0, "net_j_per_frame": 0.1, "gross_j_per_frame": 0.2},
    "runtime": {
        "name": "onnxruntime", "version": "1", "threads": 1, "graph": {"convolutions": 3, "convolutions_int8": 2},
    },
    "fps": {"end_to_end": 200.0}, "throttled": [], "partial": False,
}  # fmt: skip
BENCH = {
    "schema": "yolo-musgd/bench/2", "label": "flops-0.600", "board": {"board": "a board"}, "settings": {"model": "x"},
    "model": {
        "file": "flops-0.600.onnx", "sha256": "ab", "precision": "int8", "imgsz": [64, 64], "map50_95": {"int8": 0.3},
    },
    "runs": [RUN],
}  # fmt: skip
VAL = {
    "schema": "yolo-musgd/val/1", "partial": False, "model": {"file": "a.onnx", "sha256": "ab", "precision": "int8"},
    "runtime": {"name": "onnxruntime"}, "result": {"map50_95": 0.25, "images": 4},
}  # fmt: skip
PROTOCOL = (
    b"data: d.yaml\noptimizers:\n- SGD\n- {optimizer: MuSGD, lr0: 0.02}\nseeds: 2\nepochs: 4\ntrain: {imgsz: 64}\n"
)
VOC = (
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    b"</object></annotation>"
)
RESULTS = b"epoch,time,metrics/mAP50-95(B)\n1,2.5,0.1\n2,5.0,0.2\n"
PARAM = b"7767517\n3 3\nInput in0 0 1 in0\nConvolution c1 1 1 in0 a 0=2 1=1 5=1 6=6\nSwish s 1 1 a out0\n"


def _comparison(path: str, other: str) -> None:
    reports = [compare.load(path), compare.load(other)]
    rows = compare.rows_of([r for r in reports if "runs" in r], [r for r in reports if "result" in r])
    compare.markdown(rows)
    figures = (figure for row in rows for figure in (row.p50_ms, row.p99_ms, row.fps, row.watts, row.map50_95))
    assert all(figure is None or math.isfinite(figure) for figure in figures)


def _record(folder: Path, name: str) -> Call:
    path = folder / name
    whole = path.read_bytes()

    def call(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read_record(folder)
            assert found is None or found.folder == folder
        finally:
            path.write_bytes(whole)

    return call


def _steps(path: str) -> None:
    file = Path(path)
    found = records.read_steps(file)
    assert len({len(column) for column in found.values()}) <= 1
    last = records.forget_steps(file, 2)
    assert last >= 0
    for old in file.parent.glob("old*"):
        old.unlink()


def _values(path: str) -> None:
    file = Path(path)
    records.read_values(file)
    records.forget_values(file, 2)
    for old in file.parent.glob("old*"):
        old.unlink()


def _ladder(path: str) -> None:
    share, time = read_report(path)
    assert 0 <= share <= 1
    assert 0 < time < math.inf


def parsers_of_pc(folder: Path) -> dict[str, Parser]:
    """Name every target; files are made below ``folder``."""
    from yolo_musgd.lab.evidence import seal

    run, step, network, steps = (folder / name for name in ("run", "step", "network", "steps"))
    for place in (run, step, network, steps):
        place.mkdir()
    (run / "results.csv").write_bytes(RESULTS)
    identity = {"data": "d", "model": "m", "optimizer": "SGD", "seed": 0, "args": {"epochs": 2}, "versions": {}}
    record = {
        "identity": identity,
        "status": "done",
        "seconds": 4.0,
        "machine": {},
        "results": seal(run / "results.csv"),
    }
    (run / "run.json").write_text(json.dumps(record))
    (network / "model.ncnn.param").write_bytes(PARAM)
    weights = b"\0" * 4 + b"\0\0\x80?" * 6 + b"\0\0\x80?" * 2
    (network / "model.ncnn.bin").write_bytes(weights)
    key = {"words": ["yolo", "train"], "inputs": {"data": "ab"}, "before": {"one": "cd"}, "versions": {"torch": "2"}}
    marker = {"inputs": key, "outputs": {}}
    bench, val = folder / "bench.json", folder / "val.json"
    (folder / "good-bench.json").write_text(json.dumps(BENCH))
    (folder / "good-val.json").write_text(json.dumps(VAL))
    member = steps / "optimizer_steps.csv.gz"
    records.append_steps(member, 1, [[0.1] * len(records.COLUMNS)] * 3, 0)
    records.append_steps(member, 2, [[0.1] * len(records.COLUMNS)] * 3, 3)
    layers = b"epoch,layer,beta\n1,model.0.conv,0.5\n2,model.0.conv,0.25\n"
    content = {"path": str(folder), "train": "network", "val": "network", "names": {0: "a", 1: "b"}, "nc": 2}

    def network_file(name: str) -> Call:
        whole = (network / name).read_bytes()

        def call(data: bytes) -> None:
            (network / name).write_bytes(data)
            try:
                ncnn_files.read_network(network)
            finally:
                (network / name).write_bytes(whole)

        return call

    def protocol(path: str) -> None:
        parse_protocol(read_recipe(Path(path)))

    return {
        "bench.json": Parser(
            [json.dumps(BENCH).encode()], in_file(bench, lambda p: _comparison(p, str(folder / "good-val.json")))
        ),
        "val.json": Parser(
            [json.dumps(VAL).encode()], in_file(val, lambda p: _comparison(str(folder / "good-bench.json"), p))
        ),
        "ladder's report": Parser([json.dumps(BENCH).encode()], in_file(folder / "ladder.json", _ladder)),
        "recipe": Parser(
            [b"flops: -0.2\nepochs: 3\nkeep: [a, b]\n"], in_file(folder / "r.yaml", lambda p: read_recipe(Path(p)))
        ),
        "protocol": Parser([PROTOCOL], in_file(folder / "p.yaml", protocol)),
        "data YAML": Parser([json.dumps(content).encode()], in_file(folder / "data.yaml", reader.check)),
        "run.json": Parser([(run / "run.json").read_bytes()], _record(run, "run.json")),
        "results.csv": Parser([RESULTS], _record(run, "results.csv")),
        "step marker": Parser([json.dumps(marker).encode()], in_file(step / MARKER, lambda p: why_not_done(key, step))),
        "step file": Parser([member.read_bytes()], in_file(steps / "x.csv.gz", _steps)),
        "layer file": Parser([layers], in_file(steps / "layers.csv", _values)),
        "ncnn param": Parser([PARAM], network_file("model.ncnn.param")),
        "ncnn bin": Parser([weights], network_file("model.ncnn.bin")),
        "Pascal VOC": Parser([VOC], in_file(folder / "a.xml", lambda p: to_yolo(Path(p), ("cat",), 64, 48))),
        "pixel boxes": Parser(
            [b"1 2 30 40 3\n5,6,7,8,1\n"], lambda data: pixel_boxes(data.decode("utf-8", "replace"), 64, 48, "a.txt")
        ),
    }
