"""Commands in processes of their own that need not wait for PyTorch: a Python that has loaded it forks for each.

Most of a short command's time is the import of large packages. ``Warm`` starts this file once; for every command it
forks, and the child goes on as a new interpreter would: standard streams, folder, environment and arguments of the
command, the .pth files run again, then the script. What our plugin hooks into (Ultralytics) and our package are not
loaded before, and neither is anything that starts threads. A test of the interpreter's start asks for a fresh process.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import site
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

LARGE = ("torch", "torch._dynamo", "torchvision", "cv2", "matplotlib.pyplot", "scipy.stats", "ray")


class Warm:
    """The client's side: starts the process that forks, and runs commands by it, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "YOLO_MUSGD": "0"}  # the hook is for the child, by its own environment
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def close(self) -> None:
        """End the process that forks."""
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` (``[python, "-c", code]`` or ``[script, ...]``) as ``subprocess.run`` would.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            order = {"command": command, "env": dict(env), "cwd": cwd, "streams": streams}
            self.server.stdin.write(json.dumps(order) + "\n")
            self.server.stdin.flush()
            pid = int(self.server.stdout.readline())
            late = not select.select([self.server.stdout], [], [], timeout)[0]
            if late:
                os.kill(pid, signal.SIGKILL)
            code = int(self.server.stdout.readline())
            out.seek(0)
            err.seek(0)
            if late:
                raise subprocess.TimeoutExpired(command, timeout, out.read(), err.read())
            return subprocess.CompletedProcess(command, code, out.read(), err.read())


def serve() -> dict:
    """Fork for every order; returns the order in the child, and ends the parent when there are no more."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            return json.loads(line)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()


def become(order: dict) -> None:
    """What an interpreter does between its start and the first line of the script."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    for number, path in enumerate([os.devnull, *order["streams"]]):
        file = os.open(path, os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old one has read the next orders
    words = order["command"][order["command"][0] == sys.executable :]
    sys.argv = words[:1] + words[2:] if words[0] == "-c" else words
    sys.path[0] = "" if words[0] == "-c" else str(Path(words[0]).parent)
    for folder in site.getsitepackages():
        site.addsitedir(folder)
    if words[0] != "-c":
        runpy.run_path(words[0], run_name="__main__")
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(words[1], "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    for name in LARGE:
        with contextlib.suppress(ImportError):
            import_module(name)
    become(serve())
