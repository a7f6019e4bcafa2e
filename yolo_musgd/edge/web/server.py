"""A small web server on one thread: every socket is asked when it is ready, and none is waited for.

Bounded in everything: connections, bytes of a request, time for it, time without progress, and what is kept for a slow
client, which is a reference to one picture. A client that is behind gets the newest picture next, none in between.
"""

import errno
import json
import os
import selectors
import socket
import time
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from ..pictures import draw
from ..pictures.images import encode_image
from . import metrics
from .requests import COOKIE, Refusal, Request, check, new_conf, parse
from .shared import Published, Shared

CONNECTIONS = 128
REQUEST_SECONDS = 5.0  # until a request is whole
PROGRESS_SECONDS = 10.0  # in which a client must take something
SNAPSHOT_SECONDS = 5.0
LINGER_SECONDS = 1.0
EVENTS_A_SECOND = 10.0
STARTING_SECONDS = 1.0  # between two events while the detector starts
SEND_BUFFER = 1 << 17  # bytes that the kernel keeps for a client
WORDS = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
SAFE = (
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\nX-Frame-Options: DENY\r\nConnection: close\r\n"
)
BOUNDARY = "edge-frame"


def reply(status: int, body: bytes = b"", kind: str = "text/plain; charset=utf-8", extra: str = "") -> bytes:
    """Return a whole answer."""
    head = "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}{}\r\n"
    return head.format(status, WORDS[status], kind, len(body), extra, SAFE).encode("latin-1") + body


def opening(kind: str) -> bytes:
    """Return the head of an answer without an end."""
    return "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{}\r\n".format(kind, SAFE).encode("latin-1")


class Connection:
    """A client: what it sent so far, what it gets yet, and what comes after that.

    Attributes:
        feed: ``stream``, ``events`` or ``snapshot`` once it asked for one, ``done`` once all was sent, else empty.
        seen: Number of the last picture or event that it got.
        deadline: When it is closed unless something happens.
    """

    def __init__(self, client: socket.socket, now: float) -> None:
        self.client, self.got, self.out = client, bytearray(), memoryview(b"")
        self.feed, self.seen, self.deadline, self.born = "", 0, now + REQUEST_SECONDS, now
        self.asked = False


class Server:
    """Serves until the detector's end of the pipe closes.

    Args:
        listener: A bound socket.
        shared: What the detector publishes.
        names: Of the classes.
        token: That clients must bring; None on the loopback.
        page: The page's HTML with ``NONCE`` where a number used once goes.
    """

    def __init__(
        self, listener: socket.socket, shared: Shared, names: Dict[int, str], token: Optional[str], page: str
    ) -> None:
        self.shared, self.names, self.token, self.page = shared, names, token, page
        self.newest: Optional[Published] = None
        self.picture = b""
        self.picture_number = self.event_number = 0
        self.event = b""
        self._event_at = self._swept = 0.0
        self.connections: Dict[socket.socket, Connection] = {}
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(shared.wake[0], selectors.EVENT_READ)
        self.routes: Dict[Tuple[str, str], Callable[[Request, Connection], bytes]] = {
            ("GET", "/"): self._page,
            ("GET", "/stream.mjpg"): self._stream,
            ("GET", "/snapshot.jpg"): self._snapshot,
            ("GET", "/api/status"): self._status,
            ("GET", "/api/events"): self._events,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/api/conf"): self._conf,
        }

    def run(self) -> None:
        """Serve."""
        while self.turn():
            pass

    def turn(self, timeout: float = 0.25) -> bool:
        """Do what there is to do; False when the detector has ended."""
        for key, mask in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj == self.shared.wake[0]:
                if not self._wake():
                    return False
            else:
                connection = self.connections.get(key.fileobj)  # type: ignore[call-overload]
                if connection is not None:  # else closed by what came before it in this turn
                    self._serve(connection, mask)
        self._sweep()
        if self.newest is None:  # a model may take minutes to load, and a page must not take that for a dead board
            self._tell(STARTING_SECONDS)
        return True

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # no descriptor left: room by the sweep
                self._sweep(force=True)
            return
        now = time.monotonic()
        if len(self.connections) >= CONNECTIONS:
            idle = [c for c in self.connections.values() if not c.asked or c.feed == "done"]
            if not idle:
                client.close()
                return
            self._drop(min(idle, key=lambda connection: connection.born))
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[client] = Connection(client, now)
        self._selector.register(client, selectors.EVENT_READ)

    def _drop(self, connection: Connection) -> None:
        if self.connections.pop(connection.client, None) is None:  # dropped already, in the midst of an answer
            return
        self._selector.unregister(connection.client)
        connection.client.close()
        self._count()

    def _count(self) -> None:
        self.shared.viewers = sum(c.feed in ("stream", "snapshot") for c in self.connections.values())

    def _serve(self, connection: Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                block = connection.client.recv(4096)
                if not block:
                    self._drop(connection)
                    return
                if not connection.asked:  # what comes after a request is read and forgotten
                    connection.got += block
                    self._read(connection)
            if connection.out and connection.client in self.connections:
                self._write(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)

    def _read(self, connection: Connection) -> None:
        try:
            request = parse(connection.got)
            if request is None:
                return
            connection.asked = True
            self._give(connection, self._answer(request, connection))
        except Refusal as refusal:
            connection.asked = True
            self._give(connection, reply(refusal.status, (str(refusal) + "\n").encode()))

    def _answer(self, request: Request, connection: Connection) -> bytes:
        check(request, self.token)
        method = "GET" if request.method == "HEAD" else request.method
        route = self.routes.get((method, request.path))
        if route is None:
            known = any(path == request.path for _, path in self.routes)
            raise Refusal(405, "not this method") if known else Refusal(404, "nothing here")
        if request.method == "HEAD":
            route = self.routes[("GET", request.path)] if request.path in ("/", "/api/status", "/metrics") else None
            return reply(200) if route is None else route(request, connection).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        return route(request, connection)

    def _page(self, request: Request, connection: Connection) -> bytes:
        if "token" in request.query:  # into a cookie, and out of the address
            cookie = "Set-Cookie: {}={}; HttpOnly; SameSite=Strict; Path=/\r\nLocation: /\r\n"
            return reply(303, extra=cookie.format(COOKIE, self.token) if self.token else "Location: /\r\n")
        nonce = os.urandom(16).hex()
        policy = (
            "Content-Security-Policy: default-src 'none'; img-src 'self' data:; connect-src 'self'; "
            "style-src 'nonce-{0}'; script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'\r\n"
        ).format(nonce)
        return reply(200, self.page.replace("NONCE", nonce).encode(), "text/html; charset=utf-8", policy)

    def _stream(self, request: Request, connection: Connection) -> bytes:
        connection.feed = "stream"
        return opening("multipart/x-mixed-replace; boundary=" + BOUNDARY)

    def _snapshot(self, request: Request, connection: Connection) -> bytes:
        connection.feed, connection.seen = "snapshot", self.picture_number
        connection.deadline = time.monotonic() + SNAPSHOT_SECONDS
        return b""

    def _events(self, request: Request, connection: Connection) -> bytes:
        connection.feed, connection.seen = "events", self.event_number
        return opening("text/event-stream; charset=utf-8") + b"retry: 2000\n\n" + self._as_event()

    def _as_event(self) -> bytes:
        return b"data: " + json.dumps(self.status()).encode() + b"\n\n"

    def status(self) -> Dict[str, Any]:
        """Return the detector's status, with the number of viewers and ``state``: starting, live, or lost."""
        viewers = sum(connection.feed == "stream" for connection in self.connections.values())
        content = self.newest.status if self.newest else {"waiting": "the detector is starting"}
        lost = self.newest is not None and content.get("waiting")
        state = "lost" if lost else "live" if content.get("frames") else "starting"
        return dict(content, state=state, viewers=viewers, conf=self.shared.conf)

    def _status(self, request: Request, connection: Connection) -> bytes:
        return reply(200, json.dumps(self.status()).encode(), "application/json")

    def _metrics(self, request: Request, connection: Connection) -> bytes:
        return reply(200, metrics.text(self.status()).encode(), metrics.TYPE)

    def _conf(self, request: Request, connection: Connection) -> bytes:
        self.shared.conf = new_conf(request)
        return reply(200, json.dumps({"conf": self.shared.conf}).encode(), "application/json")

    def _give(self, connection: Connection, data: bytes) -> None:
        connection.out = memoryview(data)
        if connection.feed != "snapshot":
            connection.deadline = time.monotonic() + PROGRESS_SECONDS
        self._count()
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        """Send what the client takes at this moment; then what its feed has newest, or the end."""
        while True:
            if connection.out:
                try:
                    sent = connection.client.send(connection.out)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._drop(connection)
                    return
                connection.out = connection.out[sent:]
                if sent:
                    connection.deadline = time.monotonic() + PROGRESS_SECONDS
                if connection.out:
                    self._watch(connection, True)
                    return
            if connection.feed in ("", "done"):
                if not connection.feed:
                    self._finish(connection)
                return
            connection.out = memoryview(self._next(connection))
            if not connection.out:
                self._watch(connection, False)
                return

    def _watch(self, connection: Connection, writing: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        self._selector.modify(connection.client, events)

    def _finish(self, connection: Connection) -> None:
        """Say that all is said, and wait a moment for the client's end: with bytes unread an answer may be lost."""
        try:
            connection.client.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)
            return
        connection.feed, connection.deadline = "done", time.monotonic() + LINGER_SECONDS
        self._watch(connection, False)

    def _next(self, connection: Connection) -> bytes:
        """What the feed has that this client has not had yet."""
        if connection.feed == "events":
            if connection.seen == self.event_number:
                return b""
            connection.seen = self.event_number
            return self.event
        if connection.seen == self.picture_number:
            return b""
        connection.seen = self.picture_number
        if connection.feed == "stream":
            head = "--{}\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n".format(BOUNDARY, len(self.picture))
            return head.encode() + self.picture + b"\r\n"
        connection.feed = ""
        name = time.strftime("edge-%Y%m%d-%H%M%S.jpg")
        return reply(200, self.picture, "image/jpeg", 'Content-Disposition: attachment; filename="{}"\r\n'.format(name))

    def _wake(self) -> bool:
        """Take the newest publication and give it to who waits; False at the pipe's end."""
        try:
            if not os.read(self.shared.wake[0], 4096):
                return False
        except BlockingIOError:
            return True
        taken = self.shared.take()
        if taken is None:
            return True
        self.newest = taken
        if taken.frame is not None and taken.number != self.picture_number and self.shared.viewers:
            self.picture = self._drawn(taken)
            self.picture_number = taken.number
        self._tell(1 / EVENTS_A_SECOND)
        return True

    def _tell(self, pause: float) -> None:
        """Give everybody what is new to them; an event at most every ``pause`` seconds."""
        now = time.monotonic()
        if now - self._event_at >= pause:
            self._event_at = now
            self.event_number += 1
            self.event = self._as_event()
        for connection in list(self.connections.values()):
            if connection.feed not in ("", "done") and not connection.out and connection.client in self.connections:
                self._write(connection)

    def _drawn(self, taken: Published) -> bytes:
        step = float(taken.status.get("frame_step", 1))
        rows = [
            [value / step for value in found["box"]] + [found["score"], float(found["class"])]
            for found in taken.status["detections"]
        ]
        assert taken.frame is not None
        return encode_image(".jpg", draw.draw(taken.frame, np.array(rows).reshape(-1, 6), self.names), 80)

    @staticmethod
    def _is_waited_for(c: Connection) -> bool:
        """Whether it is the client's turn (or the detector's, for a snapshot); between two pictures it is not."""
        return bool(c.out) or not c.asked or c.feed in ("done", "snapshot")

    def _sweep(self, force: bool = False) -> None:
        """Close who takes too long; told so where nothing was sent yet."""
        now = time.monotonic()
        if now - self._swept < 0.2 and not force:
            return
        self._swept = now
        late = [c for c in self.connections.values() if now > c.deadline and self._is_waited_for(c)]
        for connection in late:
            if connection.client not in self.connections:
                continue
            status = 503 if connection.feed == "snapshot" else 408
            if not connection.out and connection.feed != "done":
                try:
                    connection.client.send(reply(status, WORDS[status].encode() + b"\n"))
                except OSError:
                    pass
            self._drop(connection)
