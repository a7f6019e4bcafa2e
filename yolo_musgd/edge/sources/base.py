"""What every source of frames is; images in memory, a video file, and a folder that grows."""

import os
import stat
import sys
import time
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

from ..errors import UserError, first_line
from ..pictures.images import IMAGE_SUFFIXES, Frame, read_image


class Source:
    """Frames on demand.

    Attributes:
        live: Frames are read or waited for one by one, so reading is part of the work; else they lie in memory.
        kind: In the report.
        ended: No frame will come any more.
    """

    live = False
    kind = "images"
    ended = False

    def __init__(self, description: str) -> None:
        self.description = description

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """Return the next frame with its name; None at the end, or where none came in ``timeout`` seconds."""
        raise NotImplementedError

    def info(self) -> Dict[str, Any]:
        """Return what the report says about the source."""
        return {"kind": self.kind, "source": self.description}

    def close(self) -> None:
        """Release a camera or a file."""

    def __iter__(self) -> Iterator[Frame]:
        while True:
            frame = self.read()
            if frame is None:
                return
            yield frame


class ImageSource(Source):
    """Images held in memory and repeated for as long as frames are asked for."""

    def __init__(self, description: str, frames: List[Frame], kind: str = "images", left_out: int = 0) -> None:
        Source.__init__(self, description)
        self.frames, self.kind, self.left_out = frames, kind, left_out
        self._next = 0

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """See Source.read; never ends."""
        frame = self.frames[self._next % len(self.frames)]
        self._next += 1
        return frame

    def info(self) -> Dict[str, Any]:
        """See Source.info."""
        sizes = sorted({image.shape[1::-1] for _, image in self.frames}, key=lambda size: size[0] * size[1])
        shown = ["{}x{}".format(*size) for size in sizes]
        if len(shown) > 4:
            shown = [shown[0], "to", shown[-1]]
        counts = {"images": len(self.frames), "left_out": self.left_out}
        return dict(counts, kind=self.kind, source=self.description, sizes=shown)


class Device:
    """An open camera, stream or file.

    Attributes:
        finite: Its end is an end, not a loss.
        facts: ``sizes`` and ``announced_fps``, as far as it says.
    """

    finite = False

    def __init__(self) -> None:
        self.facts: Dict[str, Any] = {"sizes": [], "announced_fps": None}

    def read(self) -> Optional[np.ndarray]:
        """Wait for the next frame, uint8 BGR (height, width, 3); None when there is none any more."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Go back to the first frame."""

    def close(self) -> None:
        """Release it."""


class VideoSource(Source):
    """A video that is read frame by frame, none dropped.

    Args:
        description: Of the report.
        device: The open video.
        repeat: Start again at its end.
    """

    live = True
    kind = "video"

    def __init__(self, description: str, device: Device, repeat: bool) -> None:
        Source.__init__(self, description)
        self._device, self._repeat, self._count = device, repeat, 0

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """See Source.read."""
        image = self._device.read()
        if image is None and self._repeat and self._count:
            self._device.rewind()
            image = self._device.read()
        if image is None:
            self.ended = True
            return None
        self._count += 1
        return "frame {}".format(self._count), image

    def info(self) -> Dict[str, Any]:
        """See Source.info; the rate is what the file announces."""
        return dict(self._device.facts, kind=self.kind, source=self.description)

    def close(self) -> None:
        """See Source.close."""
        self._device.close()


class WatchedFolder(Source):
    """The images of a folder, each once, and those that appear in it later; a file is read once it grows no more.

    Attributes:
        left_out: Why others were not read; the first hundred. One that changes afterwards is tried again.
    """

    live = True
    kind = "watched folder"

    def __init__(self, folder: str, channels: int = 3, period: float = 0.5) -> None:
        Source.__init__(self, folder)
        try:
            os.listdir(folder)
        except OSError as error:
            raise UserError("source={}: watch=True needs a folder ({})".format(folder, error.strerror))
        self.left_out: List[str] = []
        self._channels, self._period = channels, period
        self._waiting: Dict[str, Any] = {}  # what is there and not read yet: its state when it was seen last
        self._seen: Dict[str, Any] = {}  # what is there and was read: None, or the state in which it was no image
        self._ready: List[str] = []

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """See Source.read; ends only when the folder is gone."""
        until = None if timeout is None else time.perf_counter() + timeout
        while True:
            while self._ready:
                frame = self._take(self._ready.pop(0))
                if frame is not None:
                    return frame
            self._look()
            if self.ended or (until is not None and time.perf_counter() >= until):
                return None
            if not self._ready:
                time.sleep(self._period)

    def _take(self, name: str) -> Optional[Frame]:
        path = os.path.join(self.description, name)
        try:
            image = read_image(path, self._channels)
        except UserError as error:
            if os.path.exists(path):  # else it was taken away meanwhile
                self._seen[name] = self._waiting[name]
                said = first_line(error)
                print("left out: {}".format(said), file=sys.stderr)
                if len(self.left_out) < 100 and said not in self.left_out:
                    self.left_out.append(said)
            return None
        ours = (path + " ", path + ":")
        self.left_out[:] = [line for line in self.left_out if not line.startswith(ours)]  # it came right
        return path, image

    def _look(self) -> None:
        try:
            there = [entry for entry in os.scandir(self.description) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
        except OSError:
            self.ended = not os.path.isdir(self.description)
            return
        states = {entry.name: _state(entry.path) for entry in there if not entry.name.startswith(".")}
        new = {name: state for name, state in states.items() if state and self._seen.get(name, 0) not in (None, state)}
        self._ready = sorted(name for name in new if new[name] == self._waiting.get(name))
        self._waiting = new
        self._seen = {name: state for name, state in self._seen.items() if name in states}
        self._seen.update(dict.fromkeys(self._ready))


def _state(path: str) -> Any:
    """Size and time of a file; None for what is empty, gone, no file, or a link to nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if found.st_size and stat.S_ISREG(found.st_mode) else None
