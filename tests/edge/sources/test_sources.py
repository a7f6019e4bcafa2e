"""sources/{base,devices,kinds,live}.py.

Real streams over the loopback, cameras at their interface, and what is told of a loss.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from edge_samples import REPO
from hypothesis import given
from hypothesis import strategies as st
from rtsp import RtspServer, cv2

from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import parse_args
from yolo_musgd.edge.pictures import library
from yolo_musgd.edge.pictures.images import synthetic_frame, write_image
from yolo_musgd.edge.sources import devices, kinds, live
from yolo_musgd.edge.sources.base import Device, Source, WatchedFolder
from yolo_musgd.edge.sources.devices import shown
from yolo_musgd.edge.sources.live import LiveSource

PICTURE = synthetic_frame(96, 128)


def picture(number: int) -> np.ndarray:
    return np.roll(PICTURE, 4 * number, 1)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def await_frame(source: Source, seconds: float = 20.0) -> tuple[str, np.ndarray]:
    frame = source.read(seconds)
    assert frame is not None, source.info()
    return frame


@pytest.fixture
def rtsp() -> Iterator[Callable[..., RtspServer]]:
    servers = []

    def start(make: Callable[[int], np.ndarray] = picture, port: int = 0) -> RtspServer:
        servers.append(RtspServer(make, port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_rtsp_server_killed_and_started_again(
    rtsp: Callable[..., RtspServer], small_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rtsp()

    def restart() -> None:
        while first.sent < 8:
            time.sleep(0.02)
        first.close()
        time.sleep(1)
        rtsp(port=first.port)

    helper = threading.Thread(target=restart)
    helper.start()
    words = [f"source={first.address}", "n=60", "save=False", "runtime=onnxruntime", "threads=1"]
    assert main(["detect", str(small_models["raw"]), *words, f"project={tmp_path}"]) == 0
    helper.join()
    report = json.loads((tmp_path / "detect" / "detections.json").read_text())
    assert len(report["images"]) == 60
    source = report["source"]
    assert (source["kind"], source["lost"], source["sizes"]) == ("stream", 1, ["128x96"])
    assert source["gaps"][0]["seconds"] >= 0.9
    assert 8 <= source["gaps"][0]["after_frame"] <= 60
    said = capsys.readouterr().err
    assert "trying again" in said
    assert "frames again after" in said


def test_frames_are_dropped_not_queued(rtsp: Callable[..., RtspServer]) -> None:
    source = kinds.open_source(rtsp().address)
    await_frame(source)
    time.sleep(1)
    number = int(await_frame(source)[0].split()[1])
    info = source.info()
    source.close()
    assert number >= 10  # of twenty that came meanwhile the newest
    assert info["dropped"] >= number - 3


def test_a_frozen_stream_is_connected_again(rtsp: Callable[..., RtspServer]) -> None:
    server = rtsp()
    source = LiveSource("x", "stream", lambda: devices.Capture(server.address, "stream"), stall=0.5)
    await_frame(source)
    server.frozen = True
    while source.lost == 0:
        source.read(0.2)
    assert source.waiting == "no frame for 0.5 s"
    server.frozen = False
    await_frame(source)
    source.close()


class Script(Device):
    """A camera that gives what it is told: frames, errors to raise, seconds to sleep."""

    def __init__(self, steps: list[object]) -> None:
        Device.__init__(self)
        self.steps, self.closed = steps, False

    def read(self) -> np.ndarray | None:
        step = self.steps.pop(0) if self.steps else 0.01
        while isinstance(step, float):
            time.sleep(step)
            step = self.steps.pop(0) if self.steps else 0.01
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[return-value]

    def close(self) -> None:
        self.closed = True


def test_a_camera_that_is_unplugged_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "PAUSES", (0.01, 0.02))
    small, large = PICTURE, synthetic_frame(120, 160)
    first = Script([small, 0.05, OSError("unplugged")])
    plan: list[object] = [first, UserError("no camera"), UserError("no camera"), Script([large, 0.05, small])]

    def connect() -> Device:
        step = plan.pop(0)
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[return-value]

    source = LiveSource("cam", "camera", connect)
    frames = [await_frame(source) for _ in range(3)]
    info = source.info()
    source.close()
    assert [frame[1].shape[0] for frame in frames] == [96, 120, 96]
    assert first.closed
    assert (info["lost"], info["size_changes"], info["frames"], len(info["gaps"])) == (1, 2, 3, 1)
    assert info["gaps"][0]["why"] == "no camera"
    said = capsys.readouterr().err
    assert "cam: lost (unplugged); trying again" in said
    assert "size changed from 128x96 to 160x120" in said
    assert said.count("trying again") == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSES", (0.01,))
    plan: list[Device] = [Script([PICTURE, OSError("gone")])]

    def connect() -> Device:
        if not plan:
            raise UserError("still gone")
        return plan.pop()

    source = LiveSource("cam", "camera", connect, patience=0.2, stall=0.1)
    assert source.read() is not None
    assert source.read() is None
    assert source.ended
    source.close()


def test_a_driver_that_never_answers_costs_few_threads() -> None:
    source = LiveSource("cam", "camera", lambda: Script([600.0]), patience=1.2, stall=0.02)
    assert source.read() is None
    assert len(source._threads) <= live.HUNG + 1


def test_pauses_grow() -> None:
    assert list(live.PAUSES) == sorted(live.PAUSES)
    assert live.PAUSES[-1] <= 60


class Camera(http.server.BaseHTTPRequestHandler):
    """A web camera behind a password, and a video file."""

    clip = b""

    def do_GET(self) -> None:
        if self.path.endswith(".avi"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip)
            return
        if self.headers.get("Authorization") != "Basic dXNlcjpwQHNz":  # user:p@ss
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        for k in range(3):
            self.wfile.write(b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(picture(k)) + b"\r\n")
            time.sleep(0.05)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("opencv", [True, False])
def test_mjpeg_over_http(web: str, opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not opencv:
        pytest.importorskip("PIL")
        monkeypatch.setattr(library, "cv2", None)
    monkeypatch.setattr(live, "PAUSES", (0.01,))
    source = kinds.open_source(f"http://user:p%40ss@{web}/cam")
    frames = [await_frame(source) for _ in range(5)]  # the camera ends after three: connected again
    info = source.info()
    source.close()
    assert all(frame[1].shape == (96, 128, 3) for frame in frames)
    assert np.abs(frames[0][1].astype(int) - picture(0)).mean() < 12
    assert info["source"] == f"http://***@{web}/cam"  # no password in reports
    assert info["lost"] >= 1


def test_http_errors_are_one_line_without_the_password(web: str) -> None:
    for address in (f"http://user:secret@{web}/cam", "http://127.0.0.1:9/x", "http://[/"):
        with pytest.raises(UserError, match="source=") as caught:
            kinds.open_source(address)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("rtsp://name:se@cret@host/x", "rtsp://***@host/x"),
        ("rtsp://name:se/cret@host:554/x", "rtsp://***@host:554/x"),
        ("rtsp://host:554/x@2", "rtsp://host:554/x@2"),
        ("rtspsrc location=rtsp://name:secret@host/x ! a@b", "rtspsrc location=rtsp://***@host/x ! a@b"),
        ("http://host/v.cgi?user=name&pwd=secret&rate=0", "http://host/v.cgi?user=***&pwd=***&rate=0"),
        ("rtspsrc user-id=name user-pw=secret ! x", "rtspsrc user-id=*** user-pw=*** ! x"),
        ("http://host/v?w=9&password=secret", "http://host/v?w=9&password=***"),
    ],
)
def test_names_and_passwords_are_not_shown(address: str, said: str) -> None:
    assert shown(address) == said


def test_a_mistyped_scheme_shows_no_password(
    small_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["source=rtps://name:secret@127.0.0.1/x", "threads=1", f"project={tmp_path}/out"]
    assert main(["detect", str(small_models["raw"]), *words]) == 2
    out, err = capsys.readouterr()
    assert "cannot be opened" in err
    assert "secret" not in out + err


def test_a_report_has_no_password(web: str, small_models: dict[str, Path], tmp_path: Path) -> None:
    words = ["n=2", "seconds=0", "warmup=0", "threads=1", "power=none", "picture=False", f"project={tmp_path}"]
    assert main(["bench", str(small_models["raw"]), f"source=http://user:p%40ss@{web}/cam", *words]) == 0
    report = (tmp_path / "bench" / "bench.json").read_text()
    assert json.loads(report)["settings"]["source"] == f"http://***@{web}/cam"
    assert "p%40ss" not in report


def make_clip(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for k in range(count):
        writer.write(picture(k))
    writer.release()
    return path


def test_a_video_is_detected_on_once_and_no_frame_dropped(
    web: str, small_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "clip.avi", 7)
    monkeypatch.setattr(Camera, "clip", clip.read_bytes())
    for name, source in (("file", clip), ("web", f"http://{web}/clip.avi")):
        words = [f"source={source}", "save=False", "runtime=onnxruntime", f"project={tmp_path}/{name}"]
        assert main(["detect", str(small_models["raw"]), *words]) == 0
        report = json.loads((tmp_path / name / "detect" / "detections.json").read_text())
        assert len(report["images"]) == 7


def test_standard_input(small_models: dict[str, Path], tmp_path: Path) -> None:
    words = ["detect", str(small_models["raw"]), "source=-", "runtime=onnxruntime", f"project={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "-m", "yolo_musgd.edge", *words], input=b"".join(jpeg(picture(k)) for k in range(5)),
        capture_output=True, env=os.environ | {"PYTHONPATH": str(REPO)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "detect" / "detections.json").read_text())
    assert report["source"]["frames"] == 5  # all came; which of them were dropped is the machine's speed
    assert report["images"][-1]["image"] == "frame 5"
    assert len(report["images"]) == 5 - report["source"]["dropped"]


class Blocks(io.BytesIO):
    """A pipe that gives its bytes in pieces of the given sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        io.BytesIO.__init__(self, data)
        self.sizes = sizes

    def read1(self, size: int = -1) -> bytes:
        return self.read(self.sizes.pop() if self.sizes else size)


@given(st.lists(st.integers(1, 700), max_size=60), st.binary(max_size=20))
def test_jpegs_are_split_wherever_the_pipe_cuts(sizes: list[int], rest: bytes) -> None:
    inner = jpeg(PICTURE[:16, :16])
    thumbnail = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner  # as EXIF has it: a whole JPEG in a segment
    pictures = [b"\xff\xd8" + thumbnail + jpeg(picture(k))[2:] for k in range(3)]
    rest = rest.replace(b"\xff", b"")
    stream = rest.join([b"", *pictures, b"\xff\xd8\xff\xe0cut"])
    found = list(devices.split_jpegs(Blocks(stream, sizes)))
    assert found == [*pictures, b""]  # the last was cut off


def test_what_is_cut_off_costs_only_itself() -> None:
    whole = jpeg(PICTURE)
    half = whole[: len(whole) // 2]
    device = devices.Jpegs(io.BytesIO(whole + half + whole + b"\xff\xd8\xff\xe0\0\4ab" + whole + half), finite=True)
    found = []
    while (image := device.read()) is not None:
        found.append(image)
    assert len(found) == 3
    assert all((image == found[0]).all() for image in found)
    assert device.facts["damaged"] == 3


def test_an_endless_jpeg_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LARGEST_JPEG", 1000)
    with pytest.raises(UserError, match="a JPEG of more than"):
        list(devices.split_jpegs(io.BytesIO(b"\xff\xd8\xff\xda\0\2" + b"x" * 100_000)))


class FakePicamera2:
    """picamera2's interface as its manual (chapters 4 and 5) has it."""

    made: ClassVar[list[FakePicamera2]] = []

    def __init__(self, number: int) -> None:
        if number > 0:
            raise IndexError("list index out of range")
        self.calls: list[object] = []
        self.made.append(self)

    def create_video_configuration(self, main: dict[str, object], controls: dict[str, object]) -> dict[str, object]:
        return {"main": main, "controls": controls}

    def configure(self, configuration: dict[str, object]) -> None:
        self.calls.append(configuration)

    def start(self) -> None:
        self.calls.append("start")

    def capture_array(self, name: str) -> np.ndarray:
        assert name == "main"
        time.sleep(0.01)
        return PICTURE.copy()

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


def chosen(**words: str) -> object:
    return parse_args([f"{key}={value}" for key, value in words.items()], kinds.SOURCE_OPTIONS, "detect")


def test_picamera(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("picamera2")
    module.Picamera2 = FakePicamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    source = kinds.open_source("picamera", chosen=chosen(size="640x480", rate="15"))
    np.testing.assert_array_equal(await_frame(source)[1], PICTURE)
    source.close()
    wanted = {"main": {"size": (640, 480), "format": "RGB888"}, "controls": {"FrameRate": 15.0}}
    assert FakePicamera2.made[-1].calls == [wanted, "start", "stop", "close"]
    with pytest.raises(UserError, match=r"picamera:1: no such camera.*rpicam-hello"):
        kinds.open_source("picamera:1")
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(UserError, match="apt install python3-picamera2"):
        kinds.open_source("picamera")


def test_csi_is_a_gstreamer_pipeline() -> None:
    pipeline = devices.csi_pipeline(1, devices.Mode((1280, 720), 30.0))
    assert pipeline.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,")
    assert "framerate=30/1" in pipeline
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")
    if "GStreamer:                   NO" in cv2.getBuildInformation():
        with pytest.raises(UserError, match=r"built without GStreamer.*apt install python3-opencv"):
            kinds.open_source("csi:0")


class FakeCapture:
    """OpenCV's capture of a USB camera: notes what is set, has its own mind on sizes."""

    def __init__(self, number: int, backend: int) -> None:
        self.opened, self.set_to = (number, backend), {}

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, key: int, value: float) -> None:
        self.set_to[key] = value

    def get(self, key: int) -> float:
        facts = {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480, cv2.CAP_PROP_FPS: 25}
        return {**facts, cv2.CAP_PROP_FOURCC: cv2.VideoWriter_fourcc(*"YUYV")}.get(key, -1)

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.01)
        return True, PICTURE

    def release(self) -> None:
        pass


@pytest.mark.parametrize("word", ["2", "/dev/video2"])
def test_v4l2_mode(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *words: made.append(FakeCapture(*words)) or made[-1])
    source = kinds.open_source(word, chosen=chosen(size="1280x720", rate="30", format="mjpg"))
    info = source.info()
    source.close()
    assert made[0].opened[0] == 2
    assert list(made[0].set_to.items())[:4] == [  # the format first, since sizes depend on it
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30.0),
    ]
    assert info["announced_fps"] == 25
    asked = f"{word} was asked for 1280x720, 30 frames/s, MJPG, it gives 640x480, 25 frames/s, YUYV\n"
    assert capsys.readouterr().err == asked
    kinds.open_source(word, chosen=chosen(size="640x480", rate="25", format="yuyv")).close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words", [{"size": "1280"}, {"size": "0x9"}, {"format": "MJPEG"}, {"rate": "0"}, {"patience": "-1"}]
)
def test_bad_modes_are_one_line(words: dict[str, str]) -> None:
    with pytest.raises(UserError, match=next(iter(words))):
        chosen(**words)


def test_a_mode_is_for_cameras(pictures: Path) -> None:
    with pytest.raises(UserError, match="are for cameras"):
        kinds.open_source(str(pictures), chosen=chosen(size="64x64"))


@pytest.mark.parametrize(
    "word",
    ["0", "rtsp://x/y", "RTSP://x/y", "HTTP://x", "srt://x:1", "https://x", "a.mp4", "csi:0", "-", "picamera", "a ! b"],
)
def test_what_moves(word: str) -> None:
    assert kinds.is_moving(word)


def test_what_does_not(tmp_path: Path) -> None:
    assert not any(map(kinds.is_moving, ("photos", "a.jpg", "list.txt", "synthetic", str(tmp_path))))


def test_a_folder_that_grows(tmp_path: Path) -> None:
    write_image(str(tmp_path / "a.png"), PICTURE)
    (tmp_path / "bad.jpg").write_text("no picture")
    folder = WatchedFolder(str(tmp_path), period=0.02)
    assert await_frame(folder)[0].endswith("a.png")
    assert folder.read(0.2) is None  # once each
    whole = jpeg(PICTURE)
    with (tmp_path / "late.jpg").open("wb") as file:
        for k in range(4):  # it grows from look to look
            file.write(whole[k * len(whole) // 4 : (k + 1) * len(whole) // 4])
            file.flush()
            assert folder.read(0) is None  # one look
    name, image = await_frame(folder)
    assert name.endswith("late.jpg")
    assert image.shape == PICTURE.shape
    assert len(folder.left_out) == 1
    (tmp_path / "late.jpg").unlink()
    folder.read(0.1)
    assert set(folder._seen) == {"a.png", "bad.jpg"}  # what is gone is forgotten
    with pytest.raises(UserError, match="needs a folder"):
        WatchedFolder(str(tmp_path / "a.png"))


def test_what_stands_in_a_watched_folder_blocks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = jpeg(PICTURE)
    (tmp_path / "dangling.jpg").symlink_to("/nowhere")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "slow.jpg").write_bytes(whole[:100])  # a copy that rests for longer than the folder is watched
    folder = WatchedFolder(str(tmp_path), period=0.02)
    assert folder.read(0.3) is None
    assert "left out: " in capsys.readouterr().err
    assert [line.partition(" ")[0] for line in folder.left_out] == [str(tmp_path / "slow.jpg")]
    (tmp_path / "new.part").write_bytes(whole)
    (tmp_path / "new.part").rename(tmp_path / "new.jpg")
    assert await_frame(folder)[0].endswith("new.jpg")
    (tmp_path / "slow.jpg").write_bytes(whole)  # and is whole in the end
    assert await_frame(folder)[0].endswith("slow.jpg")
    assert folder.left_out == []
    assert folder.read(0.2) is None


def answering(
    kind: str, body: bytes = b"", status: str = "200 OK", extra: str = "", heads: list[bytes] | None = None
) -> Iterator[str]:
    """A web server that answers everybody the same; gives its address with a name and a password."""
    heads = [] if heads is None else heads

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    heads.append(client.recv(65536))
                    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
                    client.sendall(head.encode() + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://name:secret@127.0.0.1:{listener.getsockname()[1]}/x"


@pytest.mark.parametrize(
    ("kind", "body", "status", "extra", "said"),
    [
        ("text/html", b"hello", "200 OK", "", "answers with text/html, neither pictures nor a video"),
        ("image/jpeg", b"\xff\xd8\xffhello", "200 OK", "", "a damaged picture"),
        ("text/html", b"", "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n', "401.*name:password@host"),
        ("text/html", b"", "404 Not Found", "", "404: Not Found"),
    ],
)
def test_a_web_server_that_gives_no_frames(kind: str, body: bytes, status: str, extra: str, said: str) -> None:
    for address in answering(kind, body, status, extra):
        with pytest.raises(UserError, match=said) as raised:
            kinds.open_source(address)
        assert "secret" not in str(raised.value)


def test_one_picture_of_a_web_server_is_one_frame() -> None:
    for address in answering("image/png", png(PICTURE)):
        source = kinds.open_source(address, repeat=False)
        assert (source.read()[1] == PICTURE).all()
        assert source.read() is None
        assert source.ended


def test_a_redirect_takes_no_password_along() -> None:
    asked: list[bytes] = []
    for there in answering("image/png", png(PICTURE), heads=asked):
        target = there.replace("name:secret@", "")
        for here in answering("text/html", b"", "302 Found", f"Location: {target}\r\n", heads=asked):
            assert (kinds.open_source(here).read()[1] == PICTURE).all()
    assert [b"Authorization: Basic" in head for head in asked] == [True, False]


def test_a_camera_that_asks_for_the_digest_of_a_password() -> None:
    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            words = dict(re.findall(r'(\w+)="([^"]*)"', given))
            md5 = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
            known, asked = md5("name:realm:secret"), md5("GET:/x")
            if not given.startswith("Digest") or words.get("response") != md5(f"{known}:abc:{asked}"):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Digest realm="realm", nonce="abc"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(png(PICTURE))

        def log_message(self, *words: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}/x"
        assert (kinds.open_source(f"http://name:secret@{host}").read()[1] == PICTURE).all()
        with pytest.raises(UserError, match="401"):
            kinds.open_source(f"http://name:wrong@{host}")
        server.shutdown()


@pytest.mark.parametrize("source", ["/dev/videoX", "/dev/video", "99999999999999999999", "csi:0"])
def test_what_is_no_camera_is_one_line(source: str) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(UserError, match=f"source={source}: "):
        kinds.open_source(source)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"hello", "not one frame came; standard input takes JPEGs"), (jpeg(PICTURE)[:400], "came, 1 damaged pictures; ")],
)
def test_standard_input_without_a_frame(
    data: bytes,
    said: str,
    small_models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    assert main(["detect", str(small_models["raw"]), "source=-", "threads=1", f"project={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_in_no_message(
    small_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSource.__init__, "__defaults__", (0, 0.1, None))  # no second of patience
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def silent() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
                    client.close()

        threading.Thread(target=silent, daemon=True).start()
        address = f"http://name:secret@127.0.0.1:{listener.getsockname()[1]}/x"
        words = [f"source={address}", "patience=0", "threads=1", f"project={tmp_path}"]
        assert main(["detect", str(small_models["raw"]), *words]) == 2
    out, err = capsys.readouterr()
    assert "not one frame came" in err
    assert "secret" not in out + err


@pytest.mark.parametrize("words", [["detect"], ["detect", "watch=True", "n=1"], ["bench"], ["serve", "watch=True"]])
def test_images_take_no_words_for_cameras(
    words: list[str], small_models: dict[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *more = words
    more += [f"source={pictures}", "size=1280x720"] + ([] if command == "serve" else [f"project={tmp_path}/out"])
    assert main([command, str(small_models["raw"]), *more]) == 2
    assert "size=, rate= and format= are for cameras" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", closed)  # root reads all
    with pytest.raises(UserError, match=r"needs a folder \(Permission denied\)"):
        WatchedFolder(str(tmp_path))


def test_watch_is_an_option_of_detect(small_models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    words = [f"source={pictures}", "watch=True", "n=3", "runtime=onnxruntime", f"project={tmp_path}/out"]
    assert main(["detect", str(small_models["raw"]), *words]) == 0
    folder = tmp_path / "out" / "detect"
    report = json.loads((folder / "detections.json").read_text())
    assert sorted(entry["picture"] for entry in report["images"]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == ["0.jpg", "1.jpg", "2.jpg", "detections.json"]
