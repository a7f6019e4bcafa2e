"""What every source of frames is; images in memory, a video file, and a folder that grows."""

import os
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
        left_out: Why others were not read; the first hundred.
    """

    live = True
    kind = "watched folder"

    def __init__(self, folder: str, channels: int = 3, period: float = 0.5) -> None:
        Source.__init__(self, folder)
        if not os.path.isdir(folder):
            raise UserError("source={}: watch=True needs a folder".format(folder))
        self.left_out: List[str] = []
        self._channels, self._period = channels, period
        self._sizes: Dict[str, int] = {}  # of what is there and not read yet, in bytes
        self._seen: Dict[str, bool] = {}  # what is there and was read
        self._ready: List[str] = []

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """See Source.read; ends only when the folder is gone."""
        until = None if timeout is None else time.perf_counter() + timeout
        while True:
            while self._ready:
                path = os.path.join(self.description, self._ready.pop(0))
                try:
                    return path, read_image(path, self._channels)
                except UserError as error:
                    if len(self.left_out) < 100:
                        self.left_out.append(first_line(error))
            self._look()
            if self.ended or (until is not None and time.perf_counter() >= until):
                return None
            if not self._ready:
                time.sleep(self._period)

    def _look(self) -> None:
        try:
            there = [entry for entry in os.scandir(self.description) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
            sizes = {entry.name: entry.stat().st_size for entry in there if not entry.name.startswith(".")}
        except FileNotFoundError:  # a file went between the two calls, or the folder itself
            self.ended = not os.path.isdir(self.description)
            return
        new = [name for name in sizes if name not in self._seen]
        self._ready = sorted(name for name in new if sizes[name] and self._sizes.get(name) == sizes[name])
        self._sizes = {name: sizes[name] for name in new}
        self._seen = {name: True for name in list(self._seen) + self._ready if name in sizes}
