"""Runs one step's command in a process that ends when the pipeline does.

``python -m yolo_musgd.pipeline.child yolo train ...``: the pipeline holds the other end of its input. When that closes,
because the pipeline was killed, so does this process; no training goes on that nobody waits for and that a second run
would collide with.
"""

from __future__ import annotations

import os
import runpy
import sys

from filelock import FileLock

from yolo_musgd.lab.worker import end_with_parent

LOCK = "YOLO_MUSGD_STEP_LOCK"  # environment: file that a step holds as long as it lives


def main(words: list[str]) -> int:
    """Run ``yolo ...``, ``yolo-musgd ...`` or ``python -m module ...``; returns the exit code."""
    end_with_parent()
    if LOCK in os.environ:
        held = FileLock(os.environ[LOCK])  # the system frees it, however this ends
        held.acquire()
    if words[0] == "yolo-musgd":
        words = ["python", "-m", "yolo_musgd.cli", *words[1:]]
    if words[0] == "python":
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__")
        return 0
    sys.argv = words  # Ultralytics keeps them when it is imported
    from ultralytics.cfg import entrypoint

    from yolo_musgd import plugin

    plugin.register()
    entrypoint()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
