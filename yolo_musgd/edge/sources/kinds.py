"""Tells from the word behind ``source=`` what it is, and opens it."""

import os
import re
import sys
from importlib.util import find_spec
from typing import Any, List, Optional, Tuple

from .. import options
from ..errors import UserError
from ..pictures import library
from ..pictures.images import list_images, readable, synthetic_frame
from .base import ImageSource, Source, VideoSource
from .devices import Capture, Jpegs, Mode, Picamera, csi_pipeline, shown, web_stream
from .live import LiveSource

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
KINDS = "image, folder, list, video, camera (0, picamera, csi:0), rtsp://, http(s)://, GStreamer pipeline or - (JPEGs)"


def _size(value: str) -> Tuple[int, int]:
    """A frame's width and height: 1280x720."""
    match = re.match(r"(\d{1,5})[xX](\d{1,5})$", value)
    if match is None or "0" in match.groups():
        raise ValueError("expected widthxheight, such as 1280x720")
    return int(match.group(1)), int(match.group(2))


def _fourcc(value: str) -> str:
    if not re.match(r"[ -~]{4}$", value):
        raise ValueError("expected the four letters of a pixel format, such as MJPG or YUYV")
    return value.upper()


SOURCE_OPTIONS = {
    "size": (None, options.optional(_size), "frames of a camera, such as 1280x720"),
    "rate": (None, options.optional(options.number(0.1, 1000)), "frames a second of a camera"),
    "format": (None, options.optional(_fourcc), "pixel format of a USB camera, such as MJPG"),
    "patience": (60.0, options.optional(options.number(0, 1e7)), "seconds for which a lost camera is tried again"),
}  # type: options.Spec


def usual_camera() -> str:
    """Return the ``source=`` that most likely is the camera here: libcamera's, where picamera2 is."""
    return "picamera" if find_spec("picamera2") is not None else "0"


def is_moving(source: str) -> bool:
    """Whether frames come from a camera, a stream or a video, and not from image files."""
    return _kind(source) not in ("images", "synthetic")


def _kind(source: str) -> str:
    if re.match(r"(/dev/video)?[0-9]+$", source):
        return "camera"
    if source == "-":
        return "pipe"
    if source == "synthetic":
        return "synthetic"
    for kind, pattern in (("picamera", r"picamera(:\d+)?$"), ("csi", r"csi(:\d+)?$"), ("web", r"(?i)https?://")):
        if re.match(pattern, source):
            return kind
    if re.match(r"[A-Za-z][\w+.-]*://", source):  # rtsp, rtmp, udp, ...: what FFmpeg knows
        return "stream"
    if " ! " in source:
        return "pipeline"
    return "video" if source.lower().endswith(VIDEO_SUFFIXES) else "images"


def camera_mode(source: str, chosen: Any) -> Mode:
    """Return what a camera is asked for, by the values of SOURCE_OPTIONS.

    Raises:
        UserError: The source is no camera, and cannot be asked for anything.
    """
    mode = Mode(chosen.size, chosen.rate, chosen.format)
    if mode != Mode() and _kind(source) not in ("camera", "picamera", "csi"):
        raise UserError("source={}: size=, rate= and format= are for cameras".format(shown(source)))
    return mode


def open_source(
    source: Optional[str],
    size: Tuple[int, int] = (480, 640),
    limit: int = 64,
    chosen: Any = None,
    repeat: bool = True,
) -> Source:
    """Open what ``source=`` names.

    Args:
        source: One of KINDS; None or ``synthetic`` gives one drawn picture.
        size: (height, width) of the network's input; where no image library can resize, the drawn picture has it.
        limit: Most images that are held in memory.
        chosen: Has the values of SOURCE_OPTIONS; None for their defaults.
        repeat: Start a video again at its end.

    Raises:
        UserError: It is not there, cannot be opened, or needs something that is not installed.
    """
    source = "synthetic" if source is None else source
    kind, mode = _kind(source), camera_mode(source, chosen) if chosen is not None else Mode()
    if kind == "synthetic":
        height, width = (480, 640) if library.backend() else size
        frame = synthetic_frame(height, width)
        return ImageSource("synthetic {}x{}".format(width, height), [("synthetic", frame)], "synthetic")
    if kind == "video":
        if not os.path.isfile(source):
            raise UserError("source={}: no such file".format(source))
        return VideoSource(source, Capture(source, "video"), repeat)
    if kind == "images":
        left_out: List[str] = []
        frames = list(readable(list_images(source)[:limit], left_out))
        return ImageSource(source, [(os.path.basename(path), image) for path, image in frames], left_out=len(left_out))
    return _open_live(source, kind, mode, chosen.patience if chosen is not None else 60.0, repeat)


def _open_live(source: str, kind: str, mode: Mode, patience: Optional[float], repeat: bool) -> Source:
    number = int(source.partition(":")[2] or 0) if kind in ("picamera", "csi") else 0
    if kind == "web":
        device = web_stream(source)
        if device.finite:
            return VideoSource(shown(source), device, repeat)
        return LiveSource(shown(source), "stream", lambda: web_stream(source), patience, device=device)
    library.require()
    if kind == "pipe":
        return LiveSource("standard input", kind, lambda: Jpegs(sys.stdin.buffer, finite=True), patience)
    if kind == "picamera":
        return LiveSource(source, "camera", lambda: Picamera(number, mode), patience)
    if kind == "csi":
        return LiveSource(
            source, "camera", lambda: Capture(csi_pipeline(number, mode), "pipeline", name=source), patience
        )
    return LiveSource(shown(source), kind, lambda: Capture(source, kind, mode), patience)
