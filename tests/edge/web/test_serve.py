"""serve.py and web/{server,requests,metrics,shared}.py.

Real clients over the loopback, hostile ones among them, and a real browser.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_samples import REPO
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.power import sampler, system
from yolo_musgd.edge.serve import Watch
from yolo_musgd.edge.sources.base import Source
from yolo_musgd.edge.web import metrics
from yolo_musgd.edge.web.requests import BODY_BYTES, HEAD_BYTES, Refusal, parse
from yolo_musgd.edge.web.server import CONNECTIONS, Connection, Server
from yolo_musgd.edge.web.shared import PIXELS, STATUS_BYTES, Shared

GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"


class Served:
    """A ``serve`` in a process of its own."""

    def __init__(self, *words: object, program: tuple[str, ...] = ("-m", "yolo_musgd.edge")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", *map(str, words), "port=0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPO)},
        )  # fmt: skip
        self.address = ""

    def ready(self) -> Served:
        line = self.process.stdout.readline()
        assert line.startswith("-> http://"), line + (self.process.stderr.read() if not line else "")
        self.address = line[3:].strip()
        self.port = int(re.search(r":(\d+)/", self.address)[1])
        return self

    def get(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def status(self) -> dict[str, Any]:
        return json.loads(self.get("/api/status")[2])

    def raw(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(data)
        return client

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def served(small_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(
        small_models["raw"], "source=synthetic", "runtime=onnxruntime", "threads=1", "conf=0.9", "power=none"
    ).ready()
    deadline = time.monotonic() + 20
    while not made.status().get("fps"):
        assert time.monotonic() < deadline
    yield made
    code, out, err = made.stop()
    assert (code, err) == (0, "")
    assert re.search(r"\d+ frames, p50 [\d.]+ ms, p99 [\d.]+ ms", out)


def read_to_end(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(65536):
            found += block
    client.close()
    return found


def read_some(client: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    found = b""
    while not enough(found):
        block = client.recv(65536)
        assert block, found[-200:]
        found += block
    client.close()
    return found


def test_status_says_everything(served: Served, small_models: dict[str, Path]) -> None:
    code, headers, body = served.get("/api/status")
    status = json.loads(body)
    assert (code, headers["Content-Type"]) == (200, "application/json")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert status["model"] == "raw.onnx"
    assert status["frames"] > 0
    assert status["fps"] > 0
    assert status["latency_ms"]["p99"] >= status["latency_ms"]["p50"] > 0
    assert status["power_w"] is None  # not measured, and not invented
    assert status["waiting"] is None
    assert len(status["detections"]) > 3
    assert status["size"] == [640, 480]


def test_metrics_are_prometheus_text(served: Served) -> None:
    _, headers, body = served.get("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    kinds, names = set(), set()
    for line in body.decode().splitlines():
        if line.startswith("# TYPE"):
            kinds.add(line.split()[2])
        elif not line.startswith("#"):
            match = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.e]+', line)
            assert match, line
            names.add(match[1])
    assert names == kinds
    assert {"edge_frames_total", "edge_fps", "edge_latency_seconds", "edge_detections"} <= names
    assert "edge_power_watts" not in names


@given(st.text(max_size=30))
def test_labels_are_escaped(name: str) -> None:
    line = metrics.text({"detections": [{"name": name}]}).split("\n# HELP edge_detections")[-1]
    value = line[line.index('class="') + 7 : line.rindex('"} 1')]
    assert "\n" not in value
    assert (
        value.replace("\\\\", "\0").replace('\\"', '"').replace("\\n", "\n").replace("\0", "\\") == name or "\0" in name
    )


def test_the_stream_is_pictures_with_boxes(served: Served) -> None:
    cv2 = pytest.importorskip("cv2")
    data = read_some(
        served.raw(GET.format("/stream.mjpg", "").encode()), lambda found: found.count(b"--edge-frame") > 2
    )
    assert data.count(b"Content-Type: image/jpeg") >= 2
    start = data.index(b"\xff\xd8")
    picture = cv2.imdecode(np.frombuffer(data[start : data.index(b"\r\n--edge-frame", start)], np.uint8), 1)
    code, headers, body = served.get("/snapshot.jpg")
    snapshot = cv2.imdecode(np.frombuffer(body, np.uint8), 1)
    assert (code, picture.shape, snapshot.shape) == (200, (480, 640, 3), (480, 640, 3))
    assert "attachment" in headers["Content-Disposition"]
    from yolo_musgd.edge.pictures.images import synthetic_frame

    assert np.abs(snapshot.astype(int) - synthetic_frame()).mean() > 1  # something was drawn


def test_nobody_looks_no_frame_is_copied(served: Served) -> None:
    deadline = time.monotonic() + 10
    while served.status()["viewers"]:
        assert time.monotonic() < deadline
    client = served.raw(GET.format("/stream.mjpg", "").encode())
    while served.status()["viewers"] != 1:
        assert time.monotonic() < deadline
    client.close()
    while served.status()["viewers"] != 0:
        assert time.monotonic() < deadline


def test_events(served: Served) -> None:
    client = served.raw(GET.format("/api/events", "").encode())
    data = read_some(client, lambda found: found.count(b"\n\ndata: ") > 2 and found.endswith(b"\n\n"))
    head, _, events = data.partition(b"\r\n\r\n")
    assert b"text/event-stream" in head
    numbers = [json.loads(line[6:])["frames"] for line in events.splitlines() if line.startswith(b"data: ")]
    assert numbers == sorted(set(numbers))


def test_the_threshold(served: Served) -> None:
    def ask(body: str, kind: str = "application/json") -> int:
        return served.get("/api/conf", "POST", body, Content_Type=kind)[0]

    before = len(served.status()["detections"])
    assert ask('{"conf": 0.99}') == 200
    deadline = time.monotonic() + 10
    while len(served.status()["detections"]) >= before:
        assert time.monotonic() < deadline
    assert served.status()["conf"] == 0.99
    for bad in ('{"conf": 2}', '{"conf": true}', '{"conf": NaN}', "{}", "[]", "", "[" * 900, '{"conf": "0.5"}'):
        assert ask(bad) == 400, bad
    assert ask('{"conf": 0.1}', "text/plain") == 415  # what another site's page could send unasked
    assert served.status()["conf"] == 0.99
    assert ask('{"conf": 0.9}') == 200


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),  # a name that was made to point here
        (GET.format("/nothing", "").encode(), 404),
        (GET.format("/../../etc/passwd", "").encode(), 404),
        (GET.format("//[", "").encode(), 400),
        (GET.format("/api/conf", "").encode(), 405),
        (b"DELETE / HTTP/1.1\r\n\r\n", 405),
        (b"POST /api/conf HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /api/conf HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (f"POST /api/conf HTTP/1.1\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * (2 * HEAD_BYTES) + b"\r\n\r\n", 431),
        (b"\0\xff" * 10_000, 431),
    ],
)
def test_bad_requests(served: Served, request_: bytes, code: int) -> None:
    assert read_to_end(served.raw(request_)).startswith(f"HTTP/1.1 {code} ".encode())


@given(st.binary(max_size=300), st.integers(0, 300))
def test_requests_never_crash(data: bytes, cut: int) -> None:
    whole = b"GET /?" + data + b" HTTP/1.1\r\nA: " + data[::-1] + b"\r\n\r\n"
    for text in (data, data[:cut] + b"\r\n\r\n", whole, whole[:cut]):
        with contextlib.suppress(Refusal):
            request = parse(bytearray(text))
            assert request is None or request.path.startswith("/")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_request_in_two_pieces_is_one(cut: int) -> None:
    whole = b"POST /api/conf?a=b HTTP/1.1\r\nContent-Length: 4\r\nX: y\r\n\r\nbody"
    assert parse(bytearray(whole[:cut])) is None
    request = parse(bytearray(whole))
    assert request is not None
    assert (request.method, request.path, request.query, request.body) == ("POST", "/api/conf", {"a": "b"}, b"body")


def test_a_hundred_at_once(served: Served) -> None:
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: served.get("/api/status")[0], range(100)))
    assert answers == [200] * 100


def test_slow_loris_is_cut_off_and_others_are_served(served: Served) -> None:
    slow = [served.raw(b"GET / HTTP/1.1\r\nX: ") for _ in range(CONNECTIONS + 20)]  # more than there are places
    begin = time.monotonic()
    assert served.get("/api/status")[0] == 200
    assert time.monotonic() - begin < 4  # not after their five seconds
    last = slow[-1]
    with contextlib.suppress(OSError):
        while time.monotonic() - begin < 15:
            last.sendall(b"y")
            time.sleep(0.5)
    assert time.monotonic() - begin < 14  # its bytes bought it no time
    for client in slow:
        client.close()


class Reset(socket.socket):
    """A connection that the client resets while it is answered."""

    def send(self, *words: object) -> int:
        raise ConnectionResetError


@pytest.mark.parametrize("path", ["/", "/stream.mjpg", "/api/events", "/snapshot.jpg", "/nothing"])
def test_a_client_that_is_gone_while_it_is_answered(path: str) -> None:
    shared = Shared(0.25)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, shared, {}, None, "page")
        theirs, ours = socket.socketpair()
        gone = Reset(fileno=ours.detach())
        gone.setblocking(False)
        server.connections[gone] = Connection(gone, time.monotonic())
        server._selector.register(gone, selectors.EVENT_READ)
        theirs.sendall(GET.format(path, "").encode())
        assert server.turn()
        for number in (1, 2):
            shared.publish({"detections": []}, number, np.zeros((48, 64, 3), np.uint8))
            assert server.turn()
        assert server.connections == {}
        theirs.close()


def test_who_takes_nothing_is_cut_off(served: Served) -> None:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.port))
    client.sendall(GET.format("/stream.mjpg", "").encode())
    deadline = time.monotonic() + 40
    while served.status()["viewers"] != 1:
        assert time.monotonic() < deadline
    while served.status()["viewers"]:  # it reads nothing: the server gives it up
        assert time.monotonic() < deadline
        time.sleep(0.3)
    client.close()


def test_tokens(small_models: dict[str, Path]) -> None:
    words = [small_models["raw"], "source=synthetic", "runtime=onnxruntime", "threads=1", "power=none"]
    served = Served(*words, "host=0.0.0.0").ready()
    try:
        token = served.address.partition("?token=")[2]
        assert len(token) >= 20
        for path in ("/", "/api/status", "/stream.mjpg", "/snapshot.jpg", "/metrics", "/api/events", "/nothing"):
            assert served.get(path)[0] == 401
            assert served.get(path, Cookie="edge_token=" + "x" * 24)[0] == 401
        assert served.get("/api/conf", "POST", '{"conf": 0.1}', Content_Type="application/json")[0] == 401
        assert served.get("/metrics", Authorization=f"Bearer {token}")[0] == 200
        code, headers, _ = served.get(f"/?token={token}")
        assert (code, headers["Location"]) == (303, "/")
        cookie, *flags = headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(flags)
        assert served.get("/api/status", Cookie=cookie, Host="pi.local")[0] == 200
    finally:
        assert served.stop()[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["token=short"], "needs 12 letters"),
        (["token=with spaces in it"], "needs 12 letters"),
        (["host=no.such.host.invalid"], "cannot listen"),
        (["port=99999"], "must be in"),
        (["source=97"], "cannot be opened"),
    ],
)
def test_bad_words(
    words: list[str], said: str, small_models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["source=synthetic", "port=0"]
    given = [word for word in given if word.split("=")[0] not in words[0]]
    assert main(["serve", str(small_models["raw"]), *given, *words]) == 2
    assert said in capfd.readouterr().err


def test_a_taken_port_is_one_line(small_models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(small_models["raw"]), "source=synthetic", f"port={port}"]) == 2
    assert f"port={port}" in capsys.readouterr().err


def test_the_web_process_ends_with_the_detector(small_models: dict[str, Path]) -> None:
    words = [small_models["raw"], "source=synthetic", "runtime=onnxruntime", "threads=1", "power=none"]
    served = Served(*words).ready()
    served.process.kill()
    served.process.wait()
    deadline = time.monotonic() + 10
    with contextlib.suppress(OSError):
        while True:
            served.raw().close()
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_page_is_in_the_one_file(small_models: dict[str, Path], tmp_path: Path) -> None:
    from yolo_musgd.export.bundle import build_pyz

    pyz = build_pyz(tmp_path / "edge.pyz")
    words = [small_models["raw"], "source=synthetic", "runtime=onnxruntime", "threads=1", "power=none"]
    served = Served(*words, program=(str(pyz),)).ready()
    code, headers, body = served.get("/")
    assert served.stop()[::2] == (0, "")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    nonce = re.search(r"script-src 'nonce-([0-9a-f]{32})'", headers["Content-Security-Policy"])[1]
    assert body.count(nonce.encode()) == 2
    assert b"NONCE" not in body


def test_a_lost_camera_is_shown(small_models: dict[str, Path]) -> None:
    pytest.importorskip("cv2")
    from rtsp import RtspServer

    from yolo_musgd.edge.pictures.images import synthetic_frame

    camera = RtspServer(lambda k: np.roll(synthetic_frame(96, 128), k, 1))
    served = Served(small_models["raw"], f"source={camera.address}", "runtime=onnxruntime", "threads=1").ready()
    try:
        deadline = time.monotonic() + 40
        while not served.status().get("frames"):
            assert time.monotonic() < deadline
        camera.close()
        while not served.status()["waiting"]:
            assert time.monotonic() < deadline
        back = RtspServer(lambda k: np.roll(synthetic_frame(96, 128), k, 1), camera.port)
        while served.status()["waiting"]:
            assert time.monotonic() < deadline
        assert served.status()["lost"] == 1
        back.close()
    finally:
        served.stop()


def test_rails_without_a_total_are_told_one_by_one() -> None:
    running = sampler.Sampler(None)
    running.parts.append((time.perf_counter(), {"ina219@1-0040": 6.0, "USB": 0.5}))
    status = Watch({}, Source("x"), running, system.Watcher()).status([], (), 0.25)
    assert (status["power_w"], status["power_rails_w"]) == (None, {"ina219@1-0040": 6.0, "USB": 0.5})
    text = metrics.text(status)
    assert 'edge_power_rail_watts{rail="ina219@1-0040"} 6\n' in text
    assert "edge_power_watts" not in text


@contextlib.contextmanager
def web_of(shared: Shared) -> Iterator[str]:
    """The web side alone; the test is the detector. Gives the address."""
    page = (REPO / "yolo_musgd/edge/web/page.html").read_text(encoding="utf-8")
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, shared, {0: "dog"}, None, page)

        def run() -> None:
            while not stop.is_set():
                server.turn(0.02)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stop.set()
            thread.join()
            for connection in list(server.connections.values()):
                server._drop(connection)


def test_who_comes_while_the_model_loads_is_told_so_again_and_again() -> None:
    shared = Shared(0.25)
    with web_of(shared) as address, urllib.request.urlopen(f"{address}api/events", timeout=20) as events:

        def state() -> str:
            while not (line := events.readline()).startswith(b"data: "):
                assert line
            return json.loads(line[6:])["state"]

        assert [state() for _ in range(3)] == ["starting"] * 3  # without a word from the detector
        for status, expected in (
            ({"waiting": None, "frames": 0}, "starting"),
            ({"waiting": None, "frames": 1}, "live"),
            ({"waiting": "it ended", "frames": 1}, "lost"),
            ({"waiting": "no answer", "frames": 0}, "lost"),
        ):
            for _ in range(10):
                time.sleep(0.15)  # more often than ten times a second nobody is told
                shared.publish(status, 1, None)
                if (found := state()) == expected:
                    break
            assert found == expected


def test_the_page_says_starting_live_and_lost() -> None:
    from live_browser import Browser

    shared, frame = Shared(0.25), np.zeros((48, 64, 3), np.uint8)
    status: dict[str, Any] = {"model": "m", "runtime": "r", "source": "0", "frames": 0, "waiting": None, "conf": 0.25}
    status["power_rails_w"] = {"USB": 0.5, "VIN": 5.1}
    state = "document.getElementById('state')?.textContent"
    with web_of(shared) as address, Browser() as page:
        page.open(address)
        page.wait(f"{state} === 'Starting: loading the model'")
        time.sleep(5)  # longer than the page waits for an answer
        assert page.ask(f"[{state}, document.getElementById('state').className]") == [
            "Starting: loading the model",
            "",
        ]
        found = {"detections": [{"class": 0, "name": "dog", "score": 0.5, "box": [1, 2, 30, 40]}], "frames": 1}
        for told, picture, expected in (
            ({"detections": []}, None, "Starting: waiting for the first frame"),
            (found, frame, "Live"),
            (found | {"waiting": "no frame for 15 s"}, None, "Camera lost (no frame for 15 s); trying again"),
        ):
            for _ in range(100):
                time.sleep(0.15)  # more often than ten times a second nobody is told
                shared.publish(status | told, told.get("frames", 0), picture)
                if page.ask(state) == expected:
                    break
            assert page.ask(state) == expected
        assert page.ask("document.getElementById('state').className") == "bad"
        assert "Power\nno total\n" in page.ask("document.getElementById('list').innerText")
        assert "Power USB\n0.50 W" in page.ask("document.getElementById('list').innerText")
        assert page.complaints() == []


def test_a_frame_is_whole_or_not_there() -> None:
    shared = Shared(0.25)
    torn, stop = [], threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            shared.publish({"number": number}, number, np.full((300, 400, 3), number % 251, np.uint8))

    thread = threading.Thread(target=write)
    thread.start()
    taken = 0
    end = time.monotonic() + 20
    while taken < 50 and time.monotonic() < end:
        found = shared.take()
        if found is not None:
            taken += 1
            torn.append(
                not (found.frame == found.status["number"] % 251).all() or found.number != found.status["number"]
            )
    stop.set()
    thread.join()
    assert taken == 50
    assert not any(torn)


def test_large_frames_are_thinned_and_large_statuses_left_out() -> None:
    shared = Shared(0.25)
    frame = np.zeros((2160, 3840, 3), np.uint8)
    shared.publish({}, 1, frame)
    found = shared.take()
    assert found.status["frame_step"] == 2
    assert found.frame.shape == (1080, 1920, 3)
    assert found.frame.size <= PIXELS * 3
    many = [{"name": f"thing {k}", "score": 1 - k / 9000, "box": [100.25] * 4} for k in range(9000)]
    shared.publish({"fps": 3, "detections": many}, 2, None)  # max_det=9000: the surest ones are shown
    taken = shared.take()
    assert taken is not None
    assert taken.number == 2
    assert 1000 < len(taken.status["detections"]) < 9000
    assert taken.status["detections"] == many[: len(taken.status["detections"])]
    shared.publish({"x": "y" * STATUS_BYTES}, 3, None)
    assert shared.take().number == 2


AUDIT = r"""
(() => {
  const light = (text) => {
    const part = (c) => (c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    const [r, g, b] = text.match(/[\d.]+/g).map((c) => part(c / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\)$/.test(c) && c !== "transparent") return c;
    }
    return "rgb(255,255,255)";
  };
  const pale = [];
  for (const e of document.querySelectorAll("h1,h2,p,dt,dd,td,th,caption,button,a,label,output,li,time")) {
    if (!e.textContent.trim() || e.className === "away") continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) pale.push(e.textContent);
  }
  const low = [...document.querySelectorAll("button, a, input")].filter((e) => e.getBoundingClientRect().height < 40);
  const unnamed = [...document.querySelectorAll("button, a, input")].filter(
    (e) => !(e.textContent.trim() || e.labels?.length || e.ariaLabel));
  return { pale, scrolls: document.documentElement.scrollWidth, low: low.length, unnamed: unnamed.length,
    alt: document.images[0].alt, dark: matchMedia("(prefers-color-scheme: dark)").matches };
})()
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(served: Served, width: int, dark: bool, tmp_path: Path) -> None:
    from live_browser import Browser

    with Browser() as page:
        page.open(served.address, width, dark=dark)
        page.wait("document.getElementById('state')?.textContent === 'Live'")
        page.wait("document.images[0].naturalWidth === 640")
        page.wait("document.querySelectorAll('#rows tr').length > 2")
        audit = page.ask(AUDIT)
        assert audit["scrolls"] == width
        assert audit["dark"] == dark
        assert (audit["pale"], audit["low"], audit["unnamed"]) == ([], 0, 0)
        assert audit["alt"]
        page.screenshot(tmp_path / "page.png")
        if shots := os.environ.get("YOLO_MUSGD_SCREENSHOTS"):
            page.screenshot(Path(shots) / f"serve-{width}-{'dark' if dark else 'light'}.png")
        assert page.complaints() == []
        base = served.address
        asked = {address.removeprefix(base).partition("?")[0] for address in page.requested()}
        assert asked - {"about:blank"} == {"", "stream.mjpg", "api/events", "data:,"} - ({"data:,"} - asked)


def test_paused_before_the_first_picture_shows_one_picture(served: Served) -> None:
    from live_browser import Browser

    click = "addEventListener('DOMContentLoaded', () => document.getElementById('pause').click())"
    with Browser() as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=click)
        page.open(served.address)
        page.wait("document.getElementById('state')?.textContent === 'Picture paused, detection goes on'")
        page.wait("document.images[0].naturalWidth === 640")
        assert not any("/stream.mjpg" in address for address in page.requested())


def test_the_page_by_keyboard(served: Served) -> None:
    from live_browser import Browser

    with Browser() as page:
        page.open(served.address)
        page.wait("document.getElementById('state')?.textContent === 'Live'")
        page.wait("document.getElementById('conf').value === '0.9'")
        page.press("Tab", 9)
        assert page.ask("document.activeElement.id") == "conf"
        page.press("ArrowLeft", 37)
        page.wait("document.getElementById('shown').textContent === '0.89'")
        deadline = time.monotonic() + 10
        while served.status()["conf"] != 0.89:
            assert time.monotonic() < deadline
        page.wait("document.images[0].naturalWidth === 640")
        page.press("Tab", 9)
        assert page.ask("document.activeElement.textContent") == "Pause picture"
        page.press(" ", 32)
        page.wait("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
        assert page.ask("document.getElementById('pause').textContent") == "Pause picture"  # a toggle keeps its name
        page.wait("document.getElementById('state').textContent === 'Picture paused, detection goes on'")
        page.wait("document.images[0].src.startsWith('data:') && document.images[0].naturalWidth === 640")
        deadline = time.monotonic() + 10
        while served.status()["viewers"]:
            assert time.monotonic() < deadline
        page.press("Tab", 9)
        assert page.ask("document.activeElement.getAttribute('href')") == "/snapshot.jpg"
        assert page.ask("document.querySelector('#heard').getAttribute('role')") == "status"
    served.get("/api/conf", "POST", '{"conf": 0.9}', Content_Type="application/json")
