"""Holds Ctrl-C back while a native package is imported."""

import os
import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple


@contextmanager
def held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end of the block only, in the main thread.

    Native packages (onnxruntime, OpenCV) answer an interrupt during their import with an ImportError: without this
    they would count as not installed, and the work would go on with something else.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: List[Tuple[int, Any]] = []
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    kept = {number: signal.signal(number, lambda *given: came.append(given)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number, frame in came[:1]:
            handler = kept[number]
            if callable(handler):
                handler(number, frame)
            elif handler != signal.SIG_IGN:
                os.kill(os.getpid(), number)
