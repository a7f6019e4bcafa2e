"""What the detector and the web process have in common: memory with the newest status and frame, and two controls.

One writes, the other reads, and nobody waits: the writer counts up before and after, and the reader tries again where
the count moved meanwhile.
"""

import json
import mmap
import os
import struct
from typing import Any, Dict, NamedTuple, Optional

import numpy as np

_HEAD = struct.Struct("<QIIII")  # count (odd while it is written), bytes of status, frame's number, height, width
_CONF, _VIEWERS = struct.Struct("<d"), struct.Struct("<I")
_CONF_AT, _VIEWERS_AT, _STATUS_AT = 64, 72, 4096
STATUS_BYTES = 1 << 18
PIXELS = 1920 * 1080  # a larger frame is thinned out
_FRAME_AT = _STATUS_AT + STATUS_BYTES


class Published(NamedTuple):
    """A moment of the detector: its status, and the frame that it belongs to, or None where nobody looks."""

    status: Dict[str, Any]
    number: int
    frame: Optional[np.ndarray]  # uint8 BGR; every ``status["frame_step"]``-th pixel


class Shared:
    """Made before the fork, used on both sides of it.

    Attributes:
        wake: Ends of a pipe: the web process reads a byte for every publication, and its end when the detector ends.
    """

    def __init__(self, conf: float) -> None:
        self._memory = mmap.mmap(-1, _FRAME_AT + PIXELS * 3)
        self._pixels = np.frombuffer(self._memory, np.uint8)
        self.wake = os.pipe()
        for end in self.wake:
            os.set_blocking(end, False)
        self.conf = conf

    @property
    def conf(self) -> float:
        """Lowest score that is kept; the page sets it."""
        return float(_CONF.unpack_from(self._memory, _CONF_AT)[0])

    @conf.setter
    def conf(self, value: float) -> None:
        _CONF.pack_into(self._memory, _CONF_AT, value)

    @property
    def viewers(self) -> int:
        """Clients that want pictures; without one no frame is copied."""
        return int(_VIEWERS.unpack_from(self._memory, _VIEWERS_AT)[0])

    @viewers.setter
    def viewers(self, value: int) -> None:
        _VIEWERS.pack_into(self._memory, _VIEWERS_AT, value)

    def publish(self, status: Dict[str, Any], number: int, frame: Optional[np.ndarray]) -> None:
        """Put the newest status there, and the frame with it; what was there is overwritten.

        Args:
            status: Ready for JSON; of more than STATUS_BYTES the last detections, the least sure ones, are left out.
            number: Of the frame.
            frame: uint8 BGR (h, w, 3), or None.
        """
        step = 1
        if frame is not None:
            while -(-frame.shape[0] // step) * -(-frame.shape[1] // step) > PIXELS:
                step += 1
            frame = frame[::step, ::step]
        text = json.dumps(dict(status, frame_step=step)).encode()
        while len(text) > STATUS_BYTES and status.get("detections"):
            status = dict(status, detections=status["detections"][: len(status["detections"]) // 2])
            text = json.dumps(dict(status, frame_step=step)).encode()
        if len(text) > STATUS_BYTES:
            return
        count = _HEAD.unpack_from(self._memory, 0)[0]
        height, width = frame.shape[:2] if frame is not None else (0, 0)
        _HEAD.pack_into(self._memory, 0, count + 1, 0, 0, 0, 0)
        self._memory[_STATUS_AT : _STATUS_AT + len(text)] = text
        if frame is not None:
            place = self._pixels[_FRAME_AT : _FRAME_AT + height * width * 3].reshape(height, width, 3)
            np.copyto(place, frame)
        _HEAD.pack_into(self._memory, 0, count + 2, len(text), number, height, width)
        try:
            os.write(self.wake[1], b"x")
        except BlockingIOError:  # the reader has enough to wake up for
            pass

    def take(self) -> Optional[Published]:
        """Return a copy of the newest publication; None before the first, or where it is being overwritten."""
        for _ in range(10):
            count, length, number, height, width = _HEAD.unpack_from(self._memory, 0)
            if count % 2 or not length:
                continue
            text = bytes(self._memory[_STATUS_AT : _STATUS_AT + length])
            pixels = self._pixels[_FRAME_AT : _FRAME_AT + height * width * 3].copy() if height else None
            if _HEAD.unpack_from(self._memory, 0)[0] == count:
                frame = pixels.reshape(height, width, 3) if pixels is not None else None
                return Published(json.loads(text.decode()), number, frame)
        return None
