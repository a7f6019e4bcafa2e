"""Small dealings with Ultralytics that change nothing of it for good."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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


VERBOSE: ContextVar[bool] = ContextVar("VERBOSE", default=False)
"""Whether the user asked to see what `silent_host` hides."""


@contextmanager
def silent_host() -> Iterator[None]:
    """Errors alone: no log that names temporary files, no warning of torch's tracer, no output of converters."""
    if VERBOSE.get():
        yield
        return
    with quiet_host(logging.ERROR), warnings.catch_warnings(), _hidden_descriptors():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _hidden_descriptors() -> Iterator[None]:
    """Nothing reaches the terminal, from programs (pnnx) and C++ code neither, which know nothing of ``sys.stdout``."""
    try:
        kept = [os.dup(number) for number in (1, 2)]
    except OSError:  # a service without a terminal
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        _flush()
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        _flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # pythonw has none, others closed theirs
            stream.flush()
