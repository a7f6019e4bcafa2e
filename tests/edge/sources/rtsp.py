"""A small RTSP server for tests: one MJPEG track (RFC 2435) interleaved in the TCP connection, at a given rate."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track0\r\n"


def jpeg_parts(data: bytes) -> tuple[bytes, bytes, int, int]:
    """Quantization tables, entropy-coded scan, height and width of a baseline JPEG."""
    position, tables, height, width = 2, b"", 0, 0
    while True:
        marker, length = data[position + 1], struct.unpack(">H", data[position + 2 : position + 4])[0]
        body = data[position + 4 : position + 2 + length]
        if marker == 0xDB:
            while body:
                tables, body = tables + body[1:65], body[65:]
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", body[1:5])
        elif marker == 0xDA:
            return tables, data[position + 2 + length : -2], height, width
        position += 2 + length


def packets(image: np.ndarray, sequence: int, stamp: int) -> list[bytes]:
    """RTP packets of one picture."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    tables, scan, height, width = jpeg_parts(data)
    out, step = [], 1200
    for offset in range(0, len(scan), step):
        head = struct.pack(">I", offset) + bytes([1, 255, width // 8, height // 8])
        if not offset:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        last = offset + step >= len(scan)
        rtp = struct.pack(">BBHII", 0x80, 26 | last << 7, (sequence + len(out)) & 0xFFFF, stamp, 0x1234)
        out.append(rtp + head + scan[offset : offset + step])
    return out


class RtspServer:
    """Serves ``picture(k)``, uint8 BGR with sides that are multiples of 16, as rtsp://127.0.0.1:port/cam."""

    def __init__(self, picture: Callable[[int], np.ndarray], port: int = 0, rate: float = 20.0) -> None:
        self.picture, self.rate, self.frozen = picture, rate, False
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.address = f"rtsp://127.0.0.1:{self.port}/cam"
        self.sent = 0
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """As a server that is killed."""
        for connection in [self.listener, *self._connections]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while block := connection.recv(4096):
                buffer += block
                while b"\r\n\r\n" in buffer:
                    request, _, buffer = buffer.partition(b"\r\n\r\n")
                    self._answer(connection, request.decode().splitlines())

    def _answer(self, connection: socket.socket, lines: list[str]) -> None:
        method = lines[0].split()[0]
        sequence = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = SDP
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\nContent-Base: {self.address}/\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{extra}\r\n{body}".encode())
        if method == "PLAY":
            threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        sequence, begin, number = 0, time.perf_counter(), 0
        with contextlib.suppress(OSError):
            while True:
                if not self.frozen:
                    made = packets(self.picture(self.sent), sequence, int(90000 * number / self.rate))
                    for packet in made:
                        connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence += len(made)
                    self.sent += 1
                number += 1
                time.sleep(max(0.0, begin + number / self.rate - time.perf_counter()))
