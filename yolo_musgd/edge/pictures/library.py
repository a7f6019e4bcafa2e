"""The image library of this machine: OpenCV where it is there, else Pillow. An absent one is None here."""

import os
from typing import Any, Optional

from ..errors import UserError
from ..interrupts import held_back

INSTALL = "python3 -m pip install opencv-python-headless   (or: sudo apt install python3-opencv; or pip's pillow)"


def _load(name: str, *parts: str) -> Any:
    try:
        with held_back():
            module = __import__(name)
            for part in parts:
                __import__("{}.{}".format(name, part))
        return module
    except Exception:  # absent, or its native libraries are
        return None


os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # what went wrong is said once, by us
cv2: Any = _load("cv2")
pillow: Any = _load("PIL", "Image", "ImageDraw", "ImageOps")


def backend() -> Optional[str]:
    """Return what reads, resizes and writes images here: ``opencv``, ``pillow`` or None."""
    if cv2 is not None:
        return "opencv"
    return "pillow" if pillow is not None else None


def require() -> None:
    """Raise UserError with the line to type where there is neither."""
    if backend() is None:
        raise UserError("images need OpenCV or Pillow, and neither is here: {}".format(INSTALL))
