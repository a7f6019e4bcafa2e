"""Small dealings with Ultralytics that change nothing of it for good."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet_host(level: int = logging.WARNING) -> Iterator[None]:
    """Keep Ultralytics' log to ``level`` and above, for a call whose messages would mislead."""
    logger = import_module("ultralytics.utils").LOGGER
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def silent_host() -> Iterator[None]:
    """Errors alone: no log that names temporary files, and no warning of torch's tracer."""
    with quiet_host(logging.ERROR), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
