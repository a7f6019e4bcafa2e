"""A camera or a stream that is read in a thread of its own, so that what is detected on is always the newest frame."""

import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional

from ..errors import first_line
from ..pictures.images import Frame
from .base import Device, Source

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds before the next try to connect again
STALL = 15.0  # seconds without a frame after which a connection is given up; FFmpeg's own limit is shorter
HUNG = 3  # most threads that wait in a driver that never answers
GAPS = 100  # most that the report lists


class LiveSource(Source):
    """Keeps the newest frame only; a camera that is lost is told, tried again with growing pauses, and counted.

    Args:
        description: Of the report.
        kind: camera, stream, pipeline or pipe.
        connect: Opens the device, or raises UserError.
        patience: Seconds for which a lost camera is tried again; None for ever.
        stall: Seconds without a frame that count as a loss.
        device: What ``connect`` gave already, if it was called.

    Attributes:
        frames: That came.
        dropped: Of these, the ones that a newer one replaced before anybody asked.
        lost: How often the camera was lost.
        size_changes: How often frames had another size than the one before.
        waiting: Why no frame comes at this moment, or None.

    Raises:
        UserError: It cannot be opened at first.
    """

    live = True

    def __init__(
        self,
        description: str,
        kind: str,
        connect: Callable[[], Device],
        patience: Optional[float] = 60.0,
        stall: float = STALL,
        device: Optional[Device] = None,
    ) -> None:
        Source.__init__(self, description)
        self.kind, self._connect, self._patience, self._stall = kind, connect, patience, stall
        self.frames = self.dropped = self.lost = self.size_changes = 0
        self.waiting: Optional[str] = None
        self._fresh = threading.Condition()
        self._stop = threading.Event()
        self._frame: Optional[Frame] = None
        self._shape: Any = None
        self._gaps: List[Dict[str, Any]] = []
        self._lost_at = 0.0
        self._threads: List[threading.Thread] = []
        self._turn = 0  # the thread of this turn is listened to, older ones are stuck
        device = device or connect()
        self._facts = self._current = device.facts  # of the first device, and of the one that is open
        self._damaged = 0  # pictures, of those that are closed
        self._came_at = time.perf_counter()
        self._start(device)

    def _start(self, device: Optional[Device]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) > HUNG:
            return
        self._turn += 1
        thread = threading.Thread(target=self._work, args=(self._turn, device), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, turn: int, device: Optional[Device]) -> None:
        tries = 0
        while self._mine(turn):
            before = self.frames
            why = "it ended"
            try:
                device = device or self._connect()
                self._current = device.facts
                while True:
                    image = device.read()
                    if image is None or not self._put(turn, image):
                        break
            except Exception as error:  # whatever a driver raises
                why = first_line(error)
            finite = device is not None and device.finite
            if device is not None:
                _close(device)
                self._damaged += device.facts.get("damaged", 0)
                self._current = {}
                device = None
            if finite:
                self._end(turn)
                return
            self._lose(turn, why)
            tries = 0 if self.frames > before else tries + 1
            self._stop.wait(PAUSES[min(tries, len(PAUSES) - 1)])

    def _mine(self, turn: int) -> bool:
        return turn == self._turn and not self.ended and not self._stop.is_set()

    def _put(self, turn: int, image: Any) -> bool:
        with self._fresh:
            if not self._mine(turn):
                return False
            now = time.perf_counter()
            if self.waiting is not None:
                self._found_again(now)
            if self._shape is not None and image.shape != self._shape:
                self.size_changes += 1
                print(
                    "{0}: the frames' size changed from {1[1]}x{1[0]} to {2[1]}x{2[0]}".format(
                        self.description, self._shape, image.shape
                    ),
                    file=sys.stderr,
                )
            self._shape, self._came_at = image.shape, now
            self.frames += 1
            self.dropped += self._frame is not None
            self._frame = ("frame {}".format(self.frames), image)
            self._fresh.notify()
        return True

    def _found_again(self, now: float) -> None:
        seconds = now - self._lost_at
        print("{}: frames again after {:.1f} s".format(self.description, seconds), file=sys.stderr)
        if len(self._gaps) < GAPS:
            self._gaps.append({"after_frame": self.frames, "seconds": round(seconds, 3), "why": self.waiting})
        self.waiting = None

    def _lose(self, turn: int, why: str) -> None:
        with self._fresh:
            if not self._mine(turn):
                return
            if self.waiting is None:
                self.lost += 1
                self._lost_at = self._came_at  # the gap began after the last frame
                print("{}: lost ({}); trying again".format(self.description, why), file=sys.stderr)
            self.waiting = why

    def _end(self, turn: int) -> None:
        with self._fresh:
            if self._mine(turn):
                self.ended = True
                self._fresh.notify()

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """See Source.read: the newest frame that was not read yet; ends after ``patience`` seconds without one."""
        until = None if timeout is None else time.perf_counter() + timeout
        with self._fresh:
            while self._frame is None and not self.ended:
                now = time.perf_counter()
                if until is not None and now >= until:
                    return None
                self._check(now)
                self._fresh.wait(0.25 if until is None else min(0.25, max(until - now, 0.001)))
            frame, self._frame = self._frame, None
            return frame

    def _check(self, now: float) -> None:
        """Give up what is stuck, or everything when patience is over; called under the lock."""
        silent = now - self._came_at
        if self.waiting is None and silent > self._stall:
            self._lose(self._turn, "no frame for {:g} s".format(self._stall))
            self._start(None)
        if self.waiting is not None and self._patience is not None and silent > self._patience + self._stall:
            print("{}: given up after {:.0f} s".format(self.description, silent), file=sys.stderr)
            self.ended = True

    def info(self) -> Dict[str, Any]:
        """See Source.info."""
        with self._fresh:
            sizes = ["{1}x{0}".format(*self._shape)] if self._shape else self._facts["sizes"]
            return {
                "kind": self.kind,
                "source": self.description,
                "sizes": sizes,
                "announced_fps": self._facts["announced_fps"],
                "frames": self.frames,
                "dropped": self.dropped,
                "lost": self.lost,
                "size_changes": self.size_changes,
                "gaps": list(self._gaps),
                "damaged": self._damaged + self._current.get("damaged", 0),
            }

    def close(self) -> None:
        """See Source.close; a thread that is stuck in a driver is left behind."""
        self._stop.set()
        for thread in self._threads:
            thread.join(1.0)


def _close(device: Device) -> None:
    try:
        device.close()
    except Exception as error:  # an unplugged one; there is nothing left to release
        print("closing: {}".format(first_line(error)), file=sys.stderr)
