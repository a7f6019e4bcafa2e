"""The command line as a person meets it: a subprocess, a fake board, Ctrl-C, a full disk.

Covers __main__.py, bench.py, measure.py, report.py, plot.py, idle.py, doctor.py, text.py and errors.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import edge_samples as samples
import pytest
from edge_samples import REPO, FakeBoard
from small_models import CONVOLUTIONS

from yolo_musgd.edge import measure
from yolo_musgd.edge.__main__ import COMMANDS, main
from yolo_musgd.edge.plot import plot_bench

FIELDS = "schema created edge label partial settings board model source power idle runs".split()  # noqa: SIM905
RUN_FIELDS = [
    "runtime",
    "load_s",
    "first_inference_ms",
    "time_to_first_s",
    "warmup",
    "frames",
    "seconds",
    "partial",
    "ended",
    "latency_ms",
    "fps",
    "own_overhead_ms",
    "detections_per_frame",
    "drift_ms",
    "power",
    "state",
    "throttled",
    "watch",
    "series",
]


def edge(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the edge command line in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    command = [sys.executable, "-m", "yolo_musgd.edge", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def report_of(folder: Path) -> dict:
    return json.loads((folder / "bench" / "bench.json").read_text())


def test_bench_on_a_fake_nano(board: FakeBoard, small_models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    rails = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    board.write(f"{rails}/rail_name_0", "POM_5V_IN")
    board.write(f"{rails}/in_power0_input", 5000)
    board.write("/sys/class/thermal/thermal_zone0/type", "CPU-therm")
    board.write("/sys/class/thermal/thermal_zone0/temp", 51000)
    board.program("vcgencmd", "echo throttled=0x4")
    done = edge(
        "bench", str(small_models["raw"]), f"source={pictures}", "n=30", "seconds=0.5", "idle=0.5", "warmup=1",
        "threads=[1,2]", "runtime=onnxruntime", f"project={tmp_path}/my out", "label=<b>bench nano",
        YOLO_EDGE_ROOT=str(board.root), PATH=os.environ["PATH"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"compare-bench {shlex.quote(str(tmp_path / 'my out' / 'bench' / 'bench.json'))} <" in done.stdout
    report = report_of(tmp_path / "my out")
    assert list(report) == FIELDS
    assert report["partial"] is False
    assert report["power"]["sensor"] == "ina3221"
    assert report["idle"]["mean_w"] == pytest.approx(5.0)
    assert [run["runtime"]["threads"] for run in report["runs"]] == [1, 2]
    for run in report["runs"]:
        assert set(run) == set(RUN_FIELDS)
        assert run["frames"] >= 30
        assert run["seconds"] >= 0.5
        assert run["power"]["mean_w"] == pytest.approx(5.0)
        assert run["power"]["gross_j_per_frame"] == pytest.approx(5.0 * run["seconds"] / run["frames"], rel=1e-3)
        assert run["power"]["net_j_per_frame"] == pytest.approx(0.0, abs=1e-4)
        assert run["throttled"] == ["throttled"]
        assert run["watch"]["max_c"] == {"CPU-therm": 51.0}
        total = run["latency_ms"]["total"]
        assert total["min"] <= total["p50"] <= total["p99"] <= total["max"]
        assert total["max"] == pytest.approx(max(run["series"]["total_ms"]), abs=2e-3)
        assert run["fps"]["end_to_end"] <= run["fps"]["inference_only"]
        assert run["own_overhead_ms"] < 0.2
        graph = run["runtime"]["graph"]
        assert (graph["convolutions"], graph["convolutions_int8"], graph["bridges"]) == (CONVOLUTIONS, 0, 0)
    text = (tmp_path / "my out" / "bench" / "bench.md").read_text()
    assert "**Throttled** (throttled)" in text
    assert text.startswith("# &lt;b>bench nano: ")
    assert f"0 of {CONVOLUTIONS} convolutions" in text
    assert (tmp_path / "my out" / "bench" / "bench.png").stat().st_size > 10_000


def test_no_sensor_is_said_and_nothing_estimated(
    board: FakeBoard, small_models: dict[str, Path], tmp_path: Path
) -> None:
    done = edge(
        "bench", str(small_models["nms_free"]), "n=5", "seconds=0", "warmup=0", f"project={tmp_path}/out",
        "runtime=onnxruntime", "picture=false", YOLO_EDGE_ROOT=str(board.root),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "**no sensor**" in done.stdout
    report = report_of(tmp_path / "out")
    run = report["runs"][0]
    assert (report["idle"], run["power"]["mean_w"], run["power"]["gross_j_per_frame"]) == (None, None, None)
    assert report["source"]["kind"] == "synthetic"
    assert not (tmp_path / "out" / "bench" / "bench.png").exists()


def test_sensor_that_disappears(board: FakeBoard, small_models: dict[str, Path], tmp_path: Path) -> None:
    count = tmp_path / "count"
    board.program(
        "vcgencmd",
        '[ "$1" = get_throttled ] && exec echo throttled=0x0\n'
        f"echo x >> {count}; [ $(wc -l < {count}) -gt 4 ] && exit 1\n"
        f"cat <<'X'\n{samples.PMIC_PI5}X",
    )
    done = edge(
        "bench", str(small_models["raw"]), "n=10", "seconds=2", "idle=0", "warmup=0", "runtime=onnxruntime",
        f"project={tmp_path}/out", "picture=false", YOLO_EDGE_ROOT=str(board.root), PATH=os.environ["PATH"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "out")
    assert "vcgencmd pmic_read_adc failed" in report["power"]["lost"]
    assert report["runs"][0]["power"]["energy_j"] is None
    assert report["runs"][0]["frames"] >= 10  # the timing itself went on


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_writes_what_it_has(sent: int, small_models: dict[str, Path], tmp_path: Path) -> None:
    words = ["bench", str(small_models["raw"]), "soak=10", "warmup=0", "power=none", f"project={tmp_path}/out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "yolo_musgd.edge", *words, "runtime=onnxruntime", "picture=false"],
        env={**os.environ, "PYTHONPATH": str(REPO)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "warming up" in line:
            break
    time.sleep(1.5)
    process.send_signal(sent)
    process.communicate(timeout=30)
    assert process.returncode == 130
    report = report_of(tmp_path / "out")
    assert report["partial"] is True
    assert report["runs"][0]["ended"] == "interrupted"
    assert report["runs"][0]["frames"] > 3
    assert "**Partial**" in (tmp_path / "out" / "bench" / "bench.md").read_text()


def test_full_disk_is_told_and_the_report_printed(small_models: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
        "from yolo_musgd.edge.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [
        "bench",
        str(small_models["raw"]),
        "n=5",
        "seconds=0",
        "warmup=0",
        "power=none",
        f"project={tmp_path}/out",
    ]
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *words, "runtime=onnxruntime", "picture=false"],
        env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.search(r"edge: cannot write .*bench\.json: .*; free some space", done.stderr)
    assert "| runtime |" in done.stdout  # not lost
    assert list((tmp_path / "out").iterdir()) == []  # nothing half written, and no empty folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench"], "model= is required"),
        (["bench", "absent.onnx"], "no model at absent.onnx"),
        (["bench", "m.onnx", "thread=2"], "did you mean threads=?"),
        (["bench", "m.onnx", "n=0"], "n=0: must be in [1, 1e+09]"),
        (["bench", "m.onnx", "n=ten"], "n=ten: expected a number"),
        (["bench", "m.onnx", "n=1", "n=2"], "given twice"),
        (["bench", "m.onnx", "runtime=onnxruntim"], "did you mean onnxruntime?"),
        (
            ["bench", "{raw}", "runtime=ncnn"],
            "is a model for tensorrt or onnxruntime or openvino or trtexec, not for ncnn",
        ),
        (["bench", "{raw}", "source={empty}"], "no images in it"),
        (["bench", "{raw}", "power=hwmon"], "power=hwmon: no INA219, INA226 or INA260"),
        (["detect", "{raw}", "source={empty}/x.jpg"], "no such file or folder"),
        (["val", "{raw}", "source={empty}/data.yaml"], "give its folder of images, such as images/val"),
        (["detect", "{raw}"], "source= is required"),
        (["detect", "{raw}", "source={bad}"], "damaged or not an image"),
        (["val", "{raw}", "source={pictures}"], "no label file for any of 3 images"),
        (["idle", "power=none"], "no power sensor"),
        (["bnch"], "did you mean bench?"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str], message: str, small_models: dict[str, Path], pictures: Path, tmp_path: Path,
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    places = {"raw": small_models["raw"], "empty": "empty", "bad": "bad.jpg", "pictures": pictures}
    assert main([word.format(**places) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("edge: ")
    assert message in error


@pytest.mark.parametrize("words", [["model.engine"], ["folder"]])
def test_a_file_or_folder_that_may_not_be_read_is_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads all, so the system's answer is played."""

    def closed(path: str, *rest: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.engine").write_bytes(b"x")
    monkeypatch.setattr("builtins.open", closed)
    monkeypatch.setattr("os.listdir", closed)
    assert main(["bench", *words, "source=synthetic", "project=out"]) == 2
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert said == f"edge: cannot use {words[0]}: Permission denied\n"


class OldText(io.TextIOWrapper):
    """Standard output as Python 3.6 has it."""

    def __getattribute__(self, name: str) -> object:
        if name == "reconfigure":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_any_name_can_be_printed_on_a_board_without_a_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    old = OldText(out, "ascii")  # as sys.__stdout__ holds it
    monkeypatch.setattr(sys, "stdout", old)
    monkeypatch.setattr("yolo_musgd.edge.doctor.main", lambda args: print("2 caf\xe9") or 0)
    assert main(["doctor"]) == 0
    assert out.getvalue() == b"2 caf\\xe9\n"


def test_missing_runtime_says_what_to_type(
    small_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["bench", str(small_models["raw"]), "runtime=tensorrt", "power=none"]) == 2
    assert "sudo apt install tensorrt python3-libnvinfer" in capsys.readouterr().err


def test_idle_and_doctor(board: FakeBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board.write("/sys/class/hwmon/hwmon0/name", "ina226")
    board.write("/sys/class/hwmon/hwmon0/power1_input", 2_500_000)
    assert main(["idle", "seconds=0.5", f"project={tmp_path}/o"]) == 0
    report = json.loads((tmp_path / "o" / "idle" / "idle.json").read_text())
    assert report["idle"]["mean_w"] == pytest.approx(2.5)
    capsys.readouterr()
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text
    assert "hwmon" in text


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("bench", "detect", "val", "idle", "doctor", "help"))
    for name in COMMANDS:
        assert main(["help", name]) == 0
        assert "=" in capsys.readouterr().out


def test_camera_frames_count_reading(small_models: dict[str, Path], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for k in range(8):
        writer.write(np.full((96, 128, 3), 30 * k, np.uint8))
    writer.release()
    words = [f"source={clip}", "n=20", "seconds=0", "warmup=0", "power=none", "picture=false", "runtime=onnxruntime"]
    assert main(["bench", str(small_models["raw"]), *words, f"project={tmp_path}/out"]) == 0
    run = report_of(tmp_path / "out")["runs"][0]
    assert run["latency_ms"]["read"]["n"] == 20
    assert run["frames"] == 20


def test_own_overhead_and_floors() -> None:
    class Clockwork:
        """A detector of no work."""

        times = (0.0, 0.0, 0.0)

        def __call__(self, image: object) -> list[int]:
            from yolo_musgd.edge.detect import Times

            self.times = Times(0.0, 1e-9, 0.0)
            return []

    class Endless:
        live = False

        def read(self) -> tuple[str, None]:
            return "x", None

    timings = measure.Timings()
    measure.measure(Clockwork(), Endless(), measure.Floors(500, 0.05), timings)  # type: ignore[arg-type]
    assert len(timings) >= 500
    figures = measure.summarize_timings(timings, live=False)
    assert figures["seconds"] >= 0.05
    assert figures["own_overhead_ms"] < 0.2


def test_picture_without_runs(tmp_path: Path) -> None:
    assert plot_bench({"runs": []}, str(tmp_path / "x.png")) is False
