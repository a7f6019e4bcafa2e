"""Ends ``bundle`` at each of its writes by SIGKILL, SIGTERM, SIGINT or a full disk: ``python tests/export/faults.py``.

Python announces what it is about to do to the file system (audit events); the hook counts these and strikes at the
chosen one. Each try is a fork, so that the imports are paid for once.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

FAULTS = ("kill", "term", "int", "full")
EVENTS = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.link",
    "shutil.copyfile", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp",
}  # fmt: skip
FILLS = {"open", "os.mkdir", "shutil.copyfile", "tempfile.mkdtemp"}  # what a full disk refuses


def _is_write(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open" and isinstance(arguments[2], int):
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in EVENTS


def _strike(fault: str) -> None:
    if fault == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[fault])


def run(work: Callable[[], int], fault: str = "", at: int = 0, after: float = 0.0) -> tuple[int, int]:
    """Run ``work`` in a fork and end it before its write number ``at`` (or ``after`` seconds).

    Returns:
        How it ended (exit code, or minus the signal), and its writes if nothing ended it.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if _is_write(event, arguments):
                count += 1
                if (fault == "full" and 0 < at <= count and event in FILLS) or (fault != "full" and count == at):
                    _strike(fault)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.addaudithook(hook)
        code = 99
        try:
            code = work()
        finally:
            os.write(write, str(count).encode())
            os._exit(code)
    os.close(write)
    if after:
        time.sleep(after)
        os.kill(pid, {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[fault])
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(read, "rb") as pipe:
        count = int(pipe.read() or b"0")
    return os.waitstatus_to_exitcode(status), count


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder by its content."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256(p.read_bytes()).hexdigest() for p in files}


class Bundling:
    """``bundle`` of one model, again and again; what it should make is known from an undisturbed run."""

    def __init__(self, model: Path, samples: Path, root: Path) -> None:
        import onnxruntime  # noqa: F401  (once, and not in every fork)

        import yolo_musgd.export.bundle  # noqa: F401
        from yolo_musgd.cli import main

        self.model, self.samples, self.root, self.main = model, samples, root, main
        self.tries, started = 0, time.monotonic()
        code, self.writes = run(self.work(root / "whole"))
        self.seconds = time.monotonic() - started
        assert code == 0
        self.whole = listing(root / "whole")

    def work(self, project: Path) -> Callable[[], int]:
        words = [f"model={self.model}", f"samples={self.samples}", f"project={project}"]
        return lambda: self.main(["bundle", *words])

    def survives(self, fault: str, at: int = 0, after: float = 0.0) -> bool:
        """Whether the fault struck; what it left must be whole, and the same command must then make everything."""
        self.tries += 1
        project = self.root / f"{self.tries}-{fault}-{at}"
        code, _ = run(self.work(project), fault, at, after)
        done = code == 0
        if not done:
            assert code == {"kill": -9, "term": 130, "int": 130, "full": 2}[fault], (fault, at, code)
            hidden = {name for name in listing(project) if name.startswith(".")}
            shown = {name: digest for name, digest in listing(project).items() if name not in hidden}
            assert shown.items() <= self.whole.items(), (fault, at, set(shown) - set(self.whole))
            folder, archive = project / "edge-x86", project / "edge-x86.tar.gz"
            assert not folder.exists() or (archive.exists() and shown == self.whole), (fault, at)
            assert fault == "kill" or not hidden, (fault, at, hidden)
            if not folder.exists():
                assert run(self.work(project))[0] == 0, (fault, at)
        left = listing(project)
        assert {name: left[name] for name in left if not name.startswith(".")} == self.whole, (fault, at)
        return not done


def main() -> int:
    """Every write, every fault, and a hundred kills at any time; prints counts."""
    sys.path.insert(0, str(Path(__file__).parent))
    from detectors import detector

    struck: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "samples").mkdir()
        from yolo_musgd.edge.pictures.images import synthetic_frame, write_image

        write_image(str(root / "samples" / "a.png"), synthetic_frame(64, 64))
        bundling = Bundling(detector(root / "best.onnx"), root / "samples", root)
        for fault in FAULTS:
            for at in range(1, bundling.writes + 1):
                struck[fault] += bundling.survives(fault, at)
        chance = random.Random(0)
        for _ in range(100):
            struck["kill at any time"] += bundling.survives("kill", after=chance.uniform(0.0, bundling.seconds))
        print(f"{bundling.writes} writes a run; struck and survived: {dict(struck)}; lost or half: 0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
