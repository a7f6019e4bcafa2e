"""The ``serve`` command: detects on a camera, and shows it on a page of its own, for people and for programs."""

import math
import os
import pkgutil
import re
import secrets
import signal
import socket
import sys
import time
import warnings
from collections import deque
from contextlib import suppress
from typing import Any, Deque, Dict, List, Optional, Tuple

import numpy as np

from . import options
from .bench import root
from .choice import apply_choice
from .detect import MODEL_OPTIONS, Detector, as_records, require
from .errors import UserError
from .pictures import images, library
from .power import sampler, system
from .result import Result
from .runtimes.artifact import Artifact, open_artifact, usual_conf
from .runtimes.base import Runtime
from .runtimes.open import open_runtime
from .sources import kinds
from .sources.base import Source, WatchedFolder
from .stats import rounded, summarize
from .web.server import Server
from .web.shared import Shared

RECENT = 1000  # frames that the page's percentiles are of
SAMPLES = 600  # of the power sensor and of the temperatures, that are kept
STATUS_SECONDS = 0.05  # between two publications, at least
TOKEN_LENGTH = 12  # letters of a token that the user chooses, at least
NICE = 10  # how far the web process stands back for the detector

SERVE_OPTIONS = dict(MODEL_OPTIONS)
SERVE_OPTIONS.update(
    {
        "source": (options.REQUIRED, options.text, kinds.KINDS),
        **kinds.SOURCE_OPTIONS,
        "patience": (
            None,
            options.optional(options.number(0, 1e7)),
            "seconds for which a lost camera is tried again; none: for ever",
        ),
        "watch": (False, options.flag, "the images that appear in the folder"),
        "threads": (None, options.optional(options.number(1, 1024, int)), "CPU threads; auto takes every core"),
        "conf": (
            None,
            options.optional(options.number(0.0, 1.0)),
            "lowest score at first, the page has a slider; auto is the artifact's, else 0.25",
        ),
        "host": (
            "127.0.0.1",
            options.text,
            "address to listen on; anything else than the default needs the token that is printed",
        ),
        "port": (8000, options.number(0, 65535, int), "port; 0 takes a free one"),
        "token": (
            None,
            options.text,
            "token of your own, twelve letters at least; default: a new one where one is needed",
        ),
        "stream": (10.0, options.number(0.1, 120), "most pictures a second of the stream"),
        "seconds": (None, options.optional(options.number(0.1, 1e9)), "end after so long"),
        "power": ("auto", options.text, "auto, none, " + ", ".join(sampler.NAMES)),
    }
)


class Watch:
    """The detector's figures of the last thousand frames, and of the board.

    Args:
        facts: What does not change: model, runtime, threads.
        source: Of the frames.
        watts: A sampler that runs.
        watcher: Of the board, that runs.
    """

    def __init__(self, facts: Dict[str, Any], source: Source, watts: sampler.Sampler, watcher: system.Watcher) -> None:
        self.facts, self.source, self.watts, self.watcher = facts, source, watts, watcher
        self.frames = 0
        self._begin = time.time()
        self._totals: Deque[float] = deque(maxlen=RECENT)
        self._ends: Deque[float] = deque(maxlen=RECENT)
        self._slow: Dict[str, Any] = {}
        self._slow_at = -math.inf

    def add(self, seconds: float) -> None:
        """Count a frame that took ``seconds`` from the frame to its boxes."""
        self.frames += 1
        self._totals.append(seconds)
        self._ends.append(time.perf_counter())

    def _figures(self) -> Dict[str, Any]:
        """What need not be told at every frame: percentiles, rate, heat and power; renewed twice a second."""
        now = time.perf_counter()
        if now - self._slow_at < 0.5:
            return self._slow
        recent = [end for end in self._ends if now - end < 5]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        board = self.watcher.samples[-1] if self.watcher.samples else None
        since = self.watts.times[-1] if self.watts.times else -math.inf
        parts = self.watts.parts[-1] if self.watts.parts else None
        self._slow = {
            "fps": rate,
            "latency_ms": self.latency_ms(),
            "power_w": self.watts.watts[-1] if now - since < 5 else None,
            "power_rails_w": parts[1] if parts and now - parts[0] < 5 else {},
            "power_sensor": self.watts.sensor.name if self.watts.sensor else None,
            "temperatures_c": board["temperatures_c"] if board else {},
            "throttled": board["throttled"] if board and board["throttling_known"] else None,
        }
        self._slow_at = now
        return self._slow

    def latency_ms(self) -> Optional[Dict[str, Any]]:
        """Return the summary of the last thousand frames."""
        return summarize(np.array(self._totals) * 1e3)

    def status(self, found: List[Dict[str, Any]], shape: Tuple[int, ...], conf: float) -> Dict[str, Any]:
        """Return all that ``/api/status`` says; what was not measured is None."""
        source = self.source.info()
        status = dict(
            self.facts,
            time=time.time(),
            uptime_s=time.time() - self._begin,
            waiting=getattr(self.source, "waiting", None),
            frames=self.frames,
            dropped=source.get("dropped"),
            lost=source.get("lost"),
            size_changes=source.get("size_changes"),
            size=[shape[1], shape[0]] if shape else None,
            conf=conf,
            last_ms=self._totals[-1] * 1e3 if self._totals else None,
            detections=found,
            **self._figures(),
        )
        result: Dict[str, Any] = rounded(status, 3)
        return result


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket.

    Raises:
        UserError: No such address, or the port is taken.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        raise _unbound(host, port, error)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise _unbound(host, port, error)
    return listener


def _unbound(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError("cannot listen on host={} port={}: {}; give another port=".format(host, port, reason))


def token_for(host: str, token: Optional[str]) -> Optional[str]:
    """Return the token that clients need: the user's, a new one, or None on the loopback.

    Raises:
        UserError: The user's is too short, or does not fit into an address.
    """
    if token is not None:
        if not re.match(r"[0-9A-Za-z_-]{%d,128}$" % TOKEN_LENGTH, token):
            raise UserError("token=: needs {} letters, digits, - or _ at least".format(TOKEN_LENGTH))
        return token
    return None if host in ("127.0.0.1", "localhost", "::1") else secrets.token_urlsafe(18)


def stand_back() -> None:
    """Let the detector go first: less of the processor, and no wake-up that interrupts it (Linux)."""
    os.nice(NICE)
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def start_web(listener: socket.socket, shared: Shared, artifact: Artifact, token: Optional[str]) -> int:
    """Fork the web process; returns its number. It stands back for the detector, and ends with it.

    Raises:
        UserError: A system without fork.
    """
    if not hasattr(os, "fork"):
        raise UserError("serve needs Linux or macOS: here is no os.fork")
    page = pkgutil.get_data(__package__ + ".web", "page.html")
    assert page is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: numpy's, that hold nothing here
        number = os.fork()
    if number:
        listener.close()
        os.close(shared.wake[0])
        return number
    code = 1
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)  # the detector is told, and closes the pipe
        os.close(shared.wake[1])
        stand_back()
        if library.cv2 is not None:
            library.cv2.setNumThreads(1)
        Server(listener, shared, artifact.names, token, page.decode("utf-8")).run()
        code = 0
    except BaseException as error:  # the process ends here, whatever it was
        print("the web process failed: {}: {}".format(type(error).__name__, error), file=sys.stderr)
    finally:
        os._exit(code)


def main(args: List[str]) -> Result:
    """Run ``serve model= source=`` until Ctrl-C."""
    chosen = options.parse_args(args, SERVE_OPTIONS, "serve")
    require(chosen.source, "source", "serve")
    library.require()
    token = token_for(chosen.host, chosen.token)
    apply_choice(chosen, system.board_name(root()))
    artifact = open_artifact(require(chosen.model, "model", "serve"), chosen.imgsz)
    chosen.conf = usual_conf(artifact, chosen.conf)
    kinds.camera_mode(chosen.source, chosen)
    listener = listen(chosen.host, chosen.port)
    port, shared = listener.getsockname()[1], Shared(chosen.conf)
    web = start_web(listener, shared, artifact, token)
    try:
        source = (
            WatchedFolder(chosen.source, artifact.channels)
            if chosen.watch
            else kinds.open_source(chosen.source, artifact.imgsz, chosen=chosen)
        )
        try:
            shown = "[{}]".format(chosen.host) if ":" in chosen.host else chosen.host
            print("-> http://{}:{}/{}".format(shown, port, "?token=" + token if token else ""), flush=True)
            runtime = open_runtime(artifact, chosen.runtime, chosen.threads, chosen.engine, chosen.precision)
            return _serve(chosen, artifact, runtime, source, shared, web)
        finally:
            source.close()
    except KeyboardInterrupt:  # before the first frame
        return Result("serve", "ended before the first frame")
    finally:
        os.close(shared.wake[1])
        _await(web)


def _serve(chosen: Any, artifact: Artifact, runtime: Runtime, source: Source, shared: Shared, web: int) -> Result:
    sensor = sampler.choose(chosen.power, root()).sensor
    watts, watcher = sampler.Sampler(sensor, SAMPLES).start(), system.Watcher(root(), keep=SAMPLES).start()
    facts = {
        "model": os.path.basename(artifact.path.rstrip("/")),
        "sha256": artifact.sha256,
        "precision": artifact.precision,
        "runtime": "{} {}".format(runtime.name, runtime.version),
        "threads": runtime.threads,
        "source": source.description,
    }
    watch = Watch(facts, source, watts, watcher)
    try:
        _loop(chosen, Detector(artifact, runtime, chosen.conf, chosen.iou, chosen.max_det), watch, shared, web)
    except KeyboardInterrupt:  # how it is meant to end
        pass
    finally:
        watts.stop()
        watcher.stop()
        runtime.close()
    latency = watch.latency_ms()
    words = "p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**latency) if latency else "none timed"
    figures = {"frames": watch.frames, "latency_ms": latency}
    return Result("serve", "{} frames, {}".format(watch.frames, words), figures=figures)


def _loop(chosen: Any, detector: Detector, watch: Watch, shared: Shared, web: int) -> None:
    """Detect on the newest frame, again and again, and publish; a client is never waited for."""
    begin = time.perf_counter()
    published = pictured = checked = -math.inf
    found = []  # type: List[Dict[str, Any]]
    shape = ()  # type: Tuple[int, ...]
    while chosen.seconds is None or time.perf_counter() - begin < chosen.seconds:
        frame = watch.source.read(0.5)
        if frame is None and watch.source.ended:
            return
        if frame is not None:
            detector.conf = shared.conf
            rows = detector(frame[1])
            watch.add(sum(detector.times))
            found, shape = as_records(rows, detector.artifact.names), frame[1].shape
        now = time.perf_counter()
        if now - published >= STATUS_SECONDS:
            published = now
            looked_at = frame is not None and shared.viewers and now - pictured >= 1 / chosen.stream
            pictured = now if looked_at else pictured
            picture = images.to_colour(frame[1]) if frame is not None and looked_at else None
            shared.publish(watch.status(found, shape, shared.conf), watch.frames, picture)
        if now - checked > 1:
            checked = now
            if os.waitpid(web, os.WNOHANG)[0]:
                raise UserError("the web process ended; start serve again")


def _await(web: int) -> None:
    """Wait a moment for the web process, which ends when the pipe does."""
    for _ in range(50):
        try:
            if os.waitpid(web, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.02)
    os.kill(web, signal.SIGKILL)
