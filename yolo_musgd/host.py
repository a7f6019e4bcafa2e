"""Small dealings with Ultralytics that change nothing of it for good."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet_host() -> Iterator[None]:
    """Silence Ultralytics' logger below warnings, for a call whose message would mislead."""
    logger = import_module("ultralytics.utils").LOGGER
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
