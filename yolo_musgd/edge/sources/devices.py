"""Cameras and streams: OpenCV's captures, libcamera through picamera2, and JPEGs one after the other."""

import base64
import re
import sys
from typing import Any, BinaryIO, Dict, Iterator, NamedTuple, Optional, Tuple
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import UserError, first_line
from ..pictures import library
from ..pictures.images import decode_image
from .base import Device

TIMEOUT = 10.0  # seconds without an answer from a stream
LARGEST_JPEG = 64 << 20  # bytes; more without an end is no picture
HINTS = {
    "camera": "; v4l2-ctl --list-devices names those that are here",
    "stream": "; is it there? A camera that asks for a name and a password: rtsp://name:password@host/...",
}
OPENCV = "sudo apt install python3-opencv, or python3 -m pip install opencv-python-headless"


class Mode(NamedTuple):
    """What a camera is asked for; None leaves it to the camera."""

    size: Optional[Tuple[int, int]] = None  # width, height
    rate: Optional[float] = None  # frames a second
    format: Optional[str] = None  # pixel format, four letters such as MJPG or YUYV


def shown(address: str) -> str:
    """Return an address, or a pipeline, without the names and passwords in it."""
    bare = re.sub(r"(?<=://)(?:[^/\s]*@|[^/@\s]*:(?!\d+/)\S*@)", "***@", address)  # either may hold an @ or a /
    return re.sub(r"(?i)(?<=[?&\s])((?:user|usr|login|pass|pwd|token)[\w-]*=)[^&\s]*", r"\1***", bare)


class Capture(Device):
    """Anything that OpenCV opens.

    Args:
        what: File, address, number of a camera, or GStreamer pipeline.
        kind: video, camera, pipeline or stream.
        mode: Of a camera.
        name: For messages, in place of ``what``.

    Raises:
        UserError: It cannot be opened, or this OpenCV has not what it needs.
    """

    def __init__(self, what: str, kind: str, mode: Mode = Mode(), name: str = "") -> None:  # noqa: B008 - it is frozen
        Device.__init__(self)
        cv2, name = library.cv2, name or shown(what)
        if cv2 is None:
            raise UserError("source={}: a {} needs OpenCV: {}".format(name, kind, OPENCV))
        if kind == "pipeline" and not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise UserError(
                "source={}: this OpenCV was built without GStreamer, as pip's always is: sudo apt install "
                "python3-opencv, and no opencv from pip beside it".format(name)
            )
        try:
            self._cv2, self._capture = cv2, _opened(cv2, what, kind)
        except (cv2.error, OverflowError) as error:  # a number that is no camera's
            raise UserError("source={}: the {} cannot be opened ({})".format(name, kind, first_line(error)))
        if not self._capture.isOpened():
            raise UserError("source={}: the {} cannot be opened{}".format(name, kind, HINTS.get(kind, "")))
        if kind == "camera":
            self._set(mode)
        self.finite = kind == "video" or (kind == "stream" and self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0)
        size = [int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or None
        self.facts: Dict[str, Any] = {"sizes": ["{}x{}".format(*size)], "announced_fps": rate}
        if kind == "camera":
            self._compare(name, mode, (size[0], size[1]), rate)

    def _set(self, mode: Mode) -> None:
        cv2, capture = self._cv2, self._capture
        if mode.format:  # first: a format has its own sizes and rates
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*mode.format))
        if mode.size:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, mode.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, mode.size[1])
        if mode.rate:
            capture.set(cv2.CAP_PROP_FPS, mode.rate)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def _compare(self, name: str, mode: Mode, size: Tuple[int, int], rate: Optional[float]) -> None:
        """Tell where the camera has not what it was asked for; it then takes what is next to it."""
        code = int(self._capture.get(self._cv2.CAP_PROP_FOURCC))
        letters = "".join(chr(code >> shift & 0x7F) for shift in (0, 8, 16, 24)) if code > 0 else None
        pairs = [("{}x{}".format(*size), "{}x{}".format(*mode.size))] if mode.size and size != mode.size else []
        if mode.rate and rate and abs(rate / mode.rate - 1) > 0.02:
            pairs.append(("{:g} frames/s".format(rate), "{:g} frames/s".format(mode.rate)))
        if mode.format and letters and letters != mode.format:
            pairs.append((letters, mode.format))
        if pairs:
            gives, asked = (", ".join(words) for words in zip(*pairs))
            print("{} was asked for {}, it gives {}".format(name, asked, gives), file=sys.stderr)

    def read(self) -> Optional[np.ndarray]:
        """See Device.read."""
        done, image = self._capture.read()
        return image if done else None

    def rewind(self) -> None:
        """See Device.rewind."""
        self._capture.set(self._cv2.CAP_PROP_POS_FRAMES, 0)

    def close(self) -> None:
        """See Device.close."""
        self._capture.release()


def _opened(cv2: Any, what: str, kind: str) -> Any:
    if kind == "pipeline":
        return cv2.VideoCapture(what, cv2.CAP_GSTREAMER)
    if kind == "camera":
        number = int(what[10:] if what.startswith("/dev/video") else what)
        return cv2.VideoCapture(number, cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY)
    if kind == "stream":
        try:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(TIMEOUT * 1e3), cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            return cv2.VideoCapture(what, cv2.CAP_FFMPEG, limits + [int(TIMEOUT * 1e3)])
        except (AttributeError, TypeError, cv2.error):  # before OpenCV 4.5.2; its FFmpeg waits for 30 seconds
            pass
    return cv2.VideoCapture(what)


def csi_pipeline(sensor: int, mode: Mode) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera; it keeps no more than the newest frame."""
    caps = "video/x-raw(memory:NVMM)"
    if mode.size:
        caps += ",width={},height={}".format(*mode.size)
    if mode.rate:
        caps += ",framerate={:g}/1".format(mode.rate)
    return (
        "nvarguscamerasrc sensor-id={} ! {} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false".format(sensor, caps)
    )


class Picamera(Device):
    """A camera of libcamera through picamera2, as on every Raspberry Pi OS since bullseye.

    Args:
        number: Of the camera.
        mode: Size and rate; the pixel format is always the one that OpenCV has.

    Raises:
        UserError: picamera2 is not here, or there is no such camera.
    """

    def __init__(self, number: int, mode: Mode) -> None:
        Device.__init__(self)
        try:
            camera_class = __import__("picamera2").Picamera2
        except Exception as error:  # without libcamera's own module the import fails in several ways
            raise UserError(
                "source=picamera needs picamera2 ({}): sudo apt install python3-picamera2, and a virtual environment "
                "made with --system-site-packages".format(first_line(error))
            )
        size = mode.size or (1280, 720)
        try:
            self._camera = camera_class(number)
        except Exception as error:  # IndexError without a camera, RuntimeError while another program has it
            raise UserError(
                "source=picamera:{}: no such camera, or another program has it ({}); rpicam-hello --list-cameras "
                "names those that are here".format(number, first_line(error))
            )
        controls = {"FrameRate": float(mode.rate)} if mode.rate else {}
        main = {"size": size, "format": "RGB888"}  # libcamera's name for bytes in the order blue, green, red
        try:
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except Exception as error:
            self._camera.close()
            raise UserError("source=picamera:{}: {}".format(number, first_line(error)))
        self.facts = {"sizes": ["{}x{}".format(*size)], "announced_fps": mode.rate}

    def read(self) -> Optional[np.ndarray]:
        """See Device.read."""
        image: np.ndarray = self._camera.capture_array("main")
        return image

    def close(self) -> None:
        """See Device.close."""
        self._camera.stop()
        self._camera.close()


def split_jpegs(file: BinaryIO) -> Iterator[bytes]:
    """Yield the JPEGs of a stream one by one; what lies between them (the heads of a multipart answer) is skipped.

    Segments are stepped over by their length, so that a thumbnail inside of one ends no picture. A picture that the
    stream's end or the next one cuts off is given as no bytes.
    """
    read = getattr(file, "read1", file.read)
    buffer, position, start = bytearray(), 0, -1
    while True:
        block = read(1 << 16)
        if not block:
            if start >= 0:
                yield b""
            return
        buffer += block
        while True:
            if start < 0:
                start = buffer.find(b"\xff\xd8\xff")
                if start < 0:
                    del buffer[:-2]
                    break
                position = start + 2
            end, position = _end_of_jpeg(buffer, position)
            if end == NEXT:
                yield b""
                start, position = position, position + 2
                continue
            if end < 0:
                if len(buffer) - start > LARGEST_JPEG:
                    raise UserError("a JPEG of more than {} MiB".format(LARGEST_JPEG >> 20))
                break
            yield bytes(buffer[start:end])
            del buffer[:end]
            start = -1


NEXT = -2


def _end_of_jpeg(buffer: bytearray, position: int) -> Tuple[int, int]:
    """Walk on from ``position``; returns the picture's end, -1, or NEXT at another's start, and how far it got."""
    while True:
        found = buffer.find(b"\xff", position)
        if found < 0:
            return -1, len(buffer)
        if found + 4 > len(buffer) and buffer[found + 1 : found + 2] != b"\xd9":
            return -1, found
        marker = buffer[found + 1]
        if marker == 0xD9:
            return found + 2, found + 2
        if marker == 0xD8:
            return NEXT, found
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD7 or marker == 0x01:  # stuffing, filling, restarts
            position = found + (1 if marker == 0xFF else 2)
            continue
        after = found + 2 + (buffer[found + 2] << 8 | buffer[found + 3])
        if after > len(buffer):
            return -1, found
        position = after


class Still(Device):
    """One picture."""

    finite = True

    def __init__(self, image: np.ndarray) -> None:
        Device.__init__(self)
        self.facts["sizes"] = ["{}x{}".format(image.shape[1], image.shape[0])]
        self._image, self._left = image, True

    def read(self) -> Optional[np.ndarray]:
        """See Device.read."""
        left, self._left = self._left, False
        return self._image if left else None

    def rewind(self) -> None:
        """See Device.rewind."""
        self._left = True


class Jpegs(Device):
    """JPEGs from a pipe or from a camera's web server; ``facts["damaged"]`` counts those that could not be read."""

    def __init__(self, file: BinaryIO, finite: bool) -> None:
        Device.__init__(self)
        self.facts["damaged"] = 0
        self.finite, self._file, self._pictures = finite, file, split_jpegs(file)

    def read(self) -> Optional[np.ndarray]:
        """See Device.read; a damaged picture is skipped."""
        for data in self._pictures:
            image = _decoded(data)
            if image is not None:
                return image
            self.facts["damaged"] += 1
        return None

    def close(self) -> None:
        """See Device.close."""
        self._file.close()


def _decoded(data: bytes) -> Optional[np.ndarray]:
    try:
        return decode_image(data, 3) if data else None
    except Exception:  # of several kinds, see pictures.images
        return None


def _asked(address: str) -> Any:
    """Ask a web server; name and password go to it alone, not along a redirect; as a digest where it asks."""
    from urllib import request

    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    question = request.Request(parts._replace(netloc=host).geturl())
    keys = request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username:
        name, password = unquote(parts.username), unquote(parts.password or "")
        keys.add_password(None, "{}://{}/".format(parts.scheme, host), name, password)
        secret = base64.b64encode("{}:{}".format(name, password).encode()).decode()
        question.add_unredirected_header("Authorization", "Basic " + secret)  # unasked: some cameras never ask
    opener = request.build_opener(request.HTTPBasicAuthHandler(keys), request.HTTPDigestAuthHandler(keys))
    return opener.open(question, timeout=TIMEOUT)


def web_stream(address: str) -> Device:
    """Open http(s)://: a camera's MJPEG or a picture by ourselves, so that no OpenCV is needed; a video through OpenCV.

    Raises:
        UserError: Nobody answers, or not with a picture.
    """
    from http.client import HTTPException

    name = shown(address)
    try:
        answer = _asked(address)
        kind = answer.headers.get_content_type()
        if kind.startswith("multipart/"):
            return Jpegs(answer, finite=False)
        data = answer.read(LARGEST_JPEG) if kind.startswith("image/") else b""
        answer.close()
    except HTTPException as error:
        raise UserError("source={}: no answer of a web server ({})".format(name, first_line(error)))
    except (OSError, ValueError) as error:  # URLError is an OSError
        hint = ": http://name:password@host/..." if getattr(error, "code", 0) == 401 else ""  # HTTPError's
        raise UserError("source={}: {}{}".format(name, first_line(error), hint))
    if kind.startswith("image/"):
        image = _decoded(data)
        if image is None:
            raise UserError("source={}: a damaged picture".format(name))
        return Still(image)
    if kind in ("text/html", "application/json"):
        raise UserError("source={}: answers with {}, neither pictures nor a video".format(name, kind))
    return Capture(address, "stream")
