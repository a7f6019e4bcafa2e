"""Commands in processes of their own that need not wait for PyTorch: a Python that has loaded it forks for each.

Most of a short command's time is the import of large packages. ``Warm`` starts this file once. Its ``folder`` holds
programs of the names ``yolo``, ``yolo-musgd`` and ``python``, which pass their arguments, environment, folder and
standard streams to that process; it forks, and the child goes on as a new interpreter would: the .pth files run
again, then the script. What the child starts by ``sys.executable``, as a pipeline starts its steps, comes from there
too. What our plugin hooks into (Ultralytics) and our package are not loaded before, and neither is anything that starts
threads. A test of the interpreter's start asks for a fresh process, and so do other packages' ways to start Python.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import runpy
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import types
from importlib import import_module
from pathlib import Path

LARGE = ("torch", "cv2", "matplotlib.pyplot", "scipy.stats", "ray", "onnx")
LATER = ("torch._dynamo", "torchvision", "torch_pruning")  # before PyTorch 2.6 they start a thread, which a fork loses
SIGNALS = (signal.SIGINT, signal.SIGTERM)

CLIENT = """#!{python} -IS
import marshal, os, signal, socket, sys
words = ["{program}", *sys.argv[1:]]
if words[0] == "{python}" and not (
    words[1:2] == ["-c"] and "multiprocessing" not in words[2] or words[1:2] == ["-m"] and "yolo_musgd" in words[2]
):
    os.execv(words[0], words)
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
order = marshal.dumps((words, dict(os.environ), os.getcwd()))
socket.send_fds(server, [len(order).to_bytes(8, "big")], [0, 1, 2])
server.sendall(order)
for number in {signals}:
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
code = int(server.recv(9) or -9)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Warm:
    """Programs that start quickly.

    Attributes:
        folder: of ``yolo``, ``yolo-musgd`` and ``python``; for PATH, or to be called by their whole names.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        real = Path(sys.executable)
        places = {"python": real, "address": self.folder / "server", "signals": [*map(int, SIGNALS)]}
        for name, program in (("python", real), *((n, real.with_name(n)) for n in ("yolo", "yolo-musgd"))):
            file = self.folder / name
            file.write_text(CLIENT.format(program=program, **places))
            file.chmod(0o700)
        # the hook, and the measuring of coverage, are for the child, by its own environment
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")} | {"YOLO_MUSGD": "0"}
        self.server = subprocess.Popen([real, __file__, self.folder], stdin=subprocess.PIPE, env=environment)
        while not (self.folder / "server").exists():
            assert self.server.poll() is None, "the process that forks has not started"
            select.select([], [], [], 0.01)

    def close(self) -> None:
        """End the process that forks."""
        self.server.communicate()
        shutil.rmtree(self.folder)


def serve(folder: Path) -> tuple[list[str], dict[str, str], str]:
    """Fork for every order, which returns in the child; the parent ends when its input closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "server"))
        listener.listen()
        threads = not hasattr(import_module("torch"), "accelerator")
        for name in LARGE if threads else (*LARGE, *LATER):
            with contextlib.suppress(ImportError):
                import_module(name)
        gc.freeze()  # what lives by now is not looked at again, which a command would do twice when it ends
        while listener in select.select([listener, 0], [], [])[0]:
            client = listener.accept()[0]
            if not os.fork():
                break
            client.close()
            with contextlib.suppress(ChildProcessError):  # none is left
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        else:
            os._exit(0)
    os.setsid()
    with client:
        head, streams, *_ = socket.recv_fds(client, 8, 3)
        data = client.makefile("rb", buffering=0)
        size, order = int.from_bytes(head, "big"), b""
        while len(order) < size:
            order += data.read(size - len(order)) or os._exit(0)  # it was killed before it could say what it wants
        if child := os.fork():
            for stream in streams:
                os.close(stream)
            wait(child, client)
        data.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return marshal.loads(order)


def wait(child: int, client: socket.socket) -> None:
    """Pass the client's signals to the command, and to the client what it ended with; ends this process."""
    process = os.pidfd_open(child)
    while process not in (ready := select.select([process, client], [], [])[0]):
        assert client in ready
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, (client.recv(1) or bytes([signal.SIGKILL]))[0])  # no signal but an end: it was killed
    with contextlib.suppress(OSError):
        client.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def standard_streams(unbuffered: bool) -> None:
    """New ones: those of the start know of their files whether they are terminals and can be sought in."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def become(folder: Path, words: list[str], environment: dict[str, str], cwd: str) -> None:
    """What an interpreter does between its start and the first line of the script."""
    os.chdir(cwd)
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:] = [path for path in sys.path[1:] if path not in before]
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    standard_streams("PYTHONUNBUFFERED" in environment)
    option = words[1] if words[0] == sys.executable else ""
    sys.argv = [option, *words[3:]] if option else words
    sys.path[0] = {"": str(Path(words[0]).parent), "-c": "", "-m": cwd}[option]
    sys.executable = str(folder / "python")
    for place in site.getsitepackages():
        site.addsitedir(place)
    if option == "-m":
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    elif option == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[2], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    become(Path(sys.argv[1]), *serve(Path(sys.argv[1])))
