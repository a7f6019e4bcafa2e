"""Feeds damaged inputs to every parser, of edge/ and of the PC, and counts what came of it.

    scripts/hostile 20000          inputs for each parser; prints a table; exit code 1 after a wrong answer

A wrong answer is an exception other than the parser's own one-line refusal, or a figure that cannot be. The quick part,
test_campaign.py, runs the same in the gate with few inputs.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import edge_samples as samples
import numpy as np
from mutate import mutate
from small_models import write_detector

from yolo_musgd.edge import labels, options
from yolo_musgd.edge.coco import read_coco
from yolo_musgd.edge.detect import DETECT_OPTIONS
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import numbered_folder
from yolo_musgd.edge.pictures import images, library
from yolo_musgd.edge.power import base, parsers, rapl, sampler, sensors
from yolo_musgd.edge.power.rails import total_watts
from yolo_musgd.edge.runtimes.artifact import open_artifact, sha256_of
from yolo_musgd.edge.runtimes.trtexec import parse_times

TEGRASTATS = (samples.NANO_JP4, samples.ORIN_JP6, samples.ORIN_JP7_PART, samples.AGX_ORIN_IDLE, samples.THOR)
Call = Callable[[bytes], object]


class Parser(NamedTuple):
    """One target: real inputs to start from, and what reads one; it checks what it returns by assertions."""

    seeds: list[bytes]
    call: Call


class Counts(NamedTuple):
    """Of one campaign: inputs tried, refused in one line, accepted, and the tracebacks of wrong answers."""

    tried: int
    refused: int
    accepted: int
    wrong: list[str]


def run(parser: Parser, inputs: int, seed: int) -> Counts:
    """Try ``inputs`` damaged inputs; the same ones for the same seed."""
    chance, refused, accepted, wrong = random.Random(seed), 0, 0, []
    for _ in range(inputs):
        data = mutate(chance.choice(parser.seeds), chance)
        try:
            parser.call(data)
            accepted += 1
        except UserError as error:
            refused += 1
            if len(str(error).splitlines()) != 1:
                wrong.append(f"{data[:80]!r}: a refusal of several lines: {str(error)[:200]!r}")
        except Exception:
            wrong.append(f"{data[:200]!r}\n{traceback.format_exc(limit=-3)}")
    return Counts(inputs, refused, accepted, wrong)


def in_file(path: Path, read: Callable[[str], object]) -> Call:
    def call(data: bytes) -> object:
        path.write_bytes(data)
        return read(str(path))

    return call


def _labels(path: str) -> None:
    rows = labels.read_labels(path)
    assert np.isfinite(rows).all()
    assert (rows >= -0.011).all()
    assert (rows[:, 0] == np.rint(rows[:, 0])).all()


def _coco(path: str) -> None:
    for name, rows in read_coco(path, {0: "cat", 1: "dog"}):
        assert isinstance(name, str)
        assert np.isfinite(rows).all()


def _image(path: str) -> None:
    image = images.read_image(path)
    assert image.dtype == np.uint8
    assert image.ndim == 3


def _watts(rails: dict[str, float]) -> None:
    assert all(math.isfinite(watts) for watts in rails.values())


def _tegrastats(data: bytes) -> None:
    found = parsers.parse_tegrastats(data.decode("utf-8", "replace"))
    _watts(found.rails)
    assert all(-40 <= celsius <= 150 for celsius in found.temperatures.values())
    if found.rails:
        sampler.checked(base.Reading(total_watts(found.rails)[0], found.rails, None))


def _text(function: Callable[[str], object]) -> Call:
    return lambda data: function(data.decode("utf-8", "replace"))


def _meter(text: str) -> None:
    rows = parsers.parse_meter_csv(text, "meter.csv")
    assert all(math.isfinite(moment) and 0 <= watts < math.inf for moment, watts in rows)
    assert rows == sorted(rows)


def _words(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\x1f")
    chosen = options.parse_args(words, DETECT_OPTIONS, "detect")
    assert chosen.conf is None or 0 <= chosen.conf <= 1  # the model's own, or the command's
    assert 1 <= chosen.max_det <= 30000


def _number(root: Path, place: str, make: Callable[[str], base.Sensor]) -> Call:
    """Read a sensor of which the file at ``place`` is damaged."""
    path = root / place

    def call(data: bytes) -> None:
        before = path.read_bytes()
        path.write_bytes(data)
        try:
            sensor = make(str(root))
            for _ in range(2):
                reading = sampler.checked(sensor.read())
                assert reading.watts is None or 0 <= reading.watts <= sampler.HIGHEST_WATTS
                _watts(reading.rails)
        finally:
            path.write_bytes(before)

    return call


def _board(root: Path, files: dict[str, object]) -> Path:
    for place, content in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(f"{content}\n")
    return root


def _artifact(folder: Path, model: bytes, name: str, data: bytes) -> None:
    (folder / "model.onnx").write_bytes(model)
    (folder / name).write_bytes(data)
    artifact = open_artifact(str(folder if name == "manifest.json" else folder / "model.onnx"))
    assert all(isinstance(side, int) and 1 <= side < 1 << 31 for side in artifact.imgsz)
    assert all(isinstance(key, int) for key in artifact.names)


def _folder_name(folder: Path, data: bytes) -> None:
    made = Path(numbered_folder(str(folder), data.decode("utf-8", "surrogateescape")))
    made.rmdir()
    assert made.parent == folder


def _picture_seeds() -> list[bytes]:
    frame = images.synthetic_frame(24, 40)
    return [
        library.cv2.imencode(kind, frame)[1].tobytes() for kind in (".jpg", ".png", ".bmp", ".ppm", ".webp", ".tiff")
    ]


def parsers_of_edge(folder: Path) -> dict[str, Parser]:
    """Name every target; files are made below ``folder``."""
    onnx = write_detector(folder / "good.onnx", False)
    manifest = {
        "schema": 1, "model": "model.onnx", "files": {"model.onnx": sha256_of(str(onnx))}, "names": ["cat", "dog"],
        "imgsz": [128, 128], "head": "raw", "precision": "int8", "end2end": False,
    }  # fmt: skip
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2.5, 30, 20], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    yaml = (
        b"description: 'it''s'\nstride: 32\nimgsz:\n- 320\n- 320\nnames:\n  0: person\n  1: 'x y'\nend2end: false\n"
        b"args:\n  quantize: 8\n"
    )
    for name in ("artifact", "ncnn", "names"):
        (folder / name).mkdir()
    for name in ("m.param", "m.bin"):
        (folder / "ncnn" / name).write_bytes(b"7767517\n")
    ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    zone = "sys/class/powercap/intel-rapl:0"
    board = _board(
        folder / "board",
        {
            f"{ina}/in1_label": "VDD_IN", f"{ina}/in1_input": 4920, f"{ina}/curr1_input": 968,
            f"{zone}/name": "package-0", f"{zone}/max_energy_range_uj": 262143328850, f"{zone}/energy_uj": 900_000,
            "sys/class/hwmon/hwmon1/name": "ina226", "sys/class/hwmon/hwmon1/power1_input": 3_250_000,
        },
    )  # fmt: skip
    picture, listing = folder / "picture.jpg", folder / "list.txt"
    lines = [b"meter.jpg\n../a.png\n", b"/dev/zero\n"]
    engine = (len(header := json.dumps(manifest).encode())).to_bytes(4, "little") + header + b"ENGINE"
    times = json.dumps([{"latencyMs": 4.0, "computeMs": 3.0}] * 3).encode()
    pictures = _picture_seeds()
    targets = {
        "labels": Parser(
            [b"1 0.5 0.5 0.2 0.4\n0 .1 .1 .3 .1 .3 .5\n", b"", b"\xef\xbb\xbf3 0.5 0.5 1 1\r\n"],
            in_file(folder / "label.txt", _labels),
        ),
        "COCO file": Parser([json.dumps(coco).encode()], in_file(folder / "coco.json", _coco)),
        "image list": Parser(lines, in_file(listing, images.list_images)),
        "image, OpenCV": Parser(pictures, in_file(picture, _image)),
        "ONNX file": Parser([onnx.read_bytes()], lambda data: _artifact(folder / "artifact", data, "unused", b"")),
        "manifest": Parser(
            [json.dumps(manifest).encode()],
            lambda data: _artifact(folder / "artifact", onnx.read_bytes(), "manifest.json", data),
        ),
        "metadata.yaml": Parser(
            [yaml], in_file(folder / "ncnn" / "metadata.yaml", lambda path: open_artifact(str(folder / "ncnn")))
        ),
        "engine header": Parser([engine], in_file(folder / "m.engine", open_artifact)),
        "trtexec times": Parser([times], _text(parse_times)),
        "options": Parser([b"model=m.onnx\x1fsource=x\x1fconf=0.25\x1fmax_det=300\x1fname=exp\x1fsave=true"], _words),
        "folder name": Parser([b"exp", b"../x", b"a b"], lambda data: _folder_name(folder / "names", data)),
        "tegrastats": Parser([text.encode() for text in TEGRASTATS], _tegrastats),
        "pmic": Parser([samples.PMIC_PI5.encode()], _text(lambda text: _watts(parsers.parse_pmic(text)))),
        "throttled": Parser([b"throttled=0x50005"], _text(parsers.parse_throttled)),
        "meter's CSV": Parser([b"time,power_w\n1.5,4\n2.5,5\n3.5,4\n", b"t,volts,amps\n1,5,1\n2,5,1\n"], _text(_meter)),
        "ina3221": Parser([b"968\n"], _number(board, f"{ina}/curr1_input", sensors.Ina3221Hwmon)),
        "RAPL counter": Parser([b"900000\n"], _number(board, f"{zone}/energy_uj", rapl.Rapl)),
        "RAPL range": Parser([b"262143328850\n"], _number(board, f"{zone}/max_energy_range_uj", rapl.Rapl)),
        "hwmon": Parser([b"3250000\n"], _number(board, "sys/class/hwmon/hwmon1/power1_input", sensors.HwmonIna)),
    }  # fmt: skip
    if library.pillow is not None:
        targets["image, Pillow"] = Parser(pictures[:4], in_file(picture, _with_pillow))
    return targets


def _with_pillow(path: str) -> None:
    kept, library.cv2 = library.cv2, None
    try:
        _image(path)
    finally:
        library.cv2 = kept


def _parsers_of_pc(folder: Path) -> dict[str, Parser]:
    """None where only the board's packages are installed."""
    try:
        import conftest  # noqa: F401  a configuration of Ultralytics' own
        from campaign_pc import parsers_of_pc
    except ImportError as error:
        print(f"the parsers of a PC are left out: {error}")
        return {}
    logging.disable(logging.CRITICAL)
    return parsers_of_pc(folder)


def main(inputs: int) -> int:
    """Run every campaign, print a row each, and the first wrong answers."""
    warnings.simplefilter("ignore")
    failed, sums = [], [0, 0, 0, 0]
    print(f"{'parser':<16}{'tried':>9}{'refused':>9}{'accepted':>9}{'wrong':>7}{'s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for place in ("edge", "pc"):
            Path(folder, place).mkdir()
        for name, parser in {**parsers_of_edge(Path(folder, "edge")), **_parsers_of_pc(Path(folder, "pc"))}.items():
            begin = time.perf_counter()
            counts = run(parser, inputs, seed=0)
            row = (counts.tried, counts.refused, counts.accepted, len(counts.wrong))
            sums = [total + count for total, count in zip(sums, row, strict=True)]
            failed += [f"{name}: {text}" for text in counts.wrong[:2]]
            spent = time.perf_counter() - begin
            print(f"{name:<16}{row[0]:>9}{row[1]:>9}{row[2]:>9}{row[3]:>7}{spent:>8.1f}", flush=True)
    print(f"{'all':<16}{sums[0]:>9}{sums[1]:>9}{sums[2]:>9}{sums[3]:>7}")
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
