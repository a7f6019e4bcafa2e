"""What Ctrl-C and SIGTERM do: they end a command alike, and wait while a native package is imported."""

import os
import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the words that say what goes on from there."""


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that a service manager's stop leaves nothing half-written either."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


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
