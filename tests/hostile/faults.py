"""Ends work at one of its writes, or at any time: SIGKILL, SIGTERM, SIGINT, a full disk, a file cut short.

Python announces what it is about to do to the file system (audit events); the hook counts these and strikes at the
chosen one. Each try is a fork, so that the imports are paid for once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
FAULTS = (*SIGNALS, "full", "short")
EVENTS = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.link",
    "shutil.copyfile", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp",
}  # fmt: skip
FILLS = {"open", "os.mkdir", "shutil.copyfile", "tempfile.mkdtemp"}  # what a full disk refuses


class Fault(NamedTuple):
    """What ends the work, and when.

    Attributes:
        kind: one of FAULTS; "" for none. ``short`` lets no file grow beyond ``at`` bytes, whoever writes it.
        at: number of the write, from 1; 0 if it is the time that counts.
        after: seconds after the start, for a signal.
    """

    kind: str = ""
    at: int = 0
    after: float = 0.0


class End(NamedTuple):
    """How it ended: exit code, or minus the signal; its writes, if it counted them; and what it said."""

    code: int
    writes: int
    said: str


FORKING = threading.Lock()  # filelock prepares each fork, and refuses another meanwhile


def _is_write(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open" and isinstance(arguments[2], int):
        return arguments[0] != os.devnull and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in EVENTS


def run(work: Callable[[], int], fault: Fault = Fault()) -> End:  # noqa: B008 - a tuple
    """Run ``work`` in a fork and end it by ``fault``."""
    output, said = os.pipe()
    counted, counts = os.pipe()
    with FORKING:
        pid = os.fork()
    if not pid:
        _child(work, fault, said, counts)
    os.close(said)
    os.close(counts)
    timer = threading.Timer(fault.after, _signal, (pid, SIGNALS[fault.kind])) if fault.after else None
    if timer:
        timer.start()
    with os.fdopen(output, "rb") as text, os.fdopen(counted, "rb") as number:
        words, writes = text.read().decode(errors="replace"), int(number.read() or b"0")
    status = os.waitpid(pid, 0)[1]
    if timer:
        timer.cancel()
    return End(os.waitstatus_to_exitcode(status), writes, words)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        os.kill(pid, number)


def _child(work: Callable[[], int], fault: Fault, said: int, counts: int) -> None:
    count, code = 0, 99

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if _is_write(event, arguments):
            count += 1
            if fault.kind == "full" and 0 < fault.at <= count and event in FILLS:
                raise OSError(errno.ENOSPC, "No space left on device")
            if fault.kind in SIGNALS and count == fault.at:
                os.kill(os.getpid(), SIGNALS[fault.kind])

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    try:
        if fault.kind == "short":
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, resource.RLIM_INFINITY))
        sys.addaudithook(hook)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        code = 98
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os.write(counts, str(count).encode())
        os._exit(code)


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder by its content."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256(p.read_bytes()).hexdigest() for p in files}
