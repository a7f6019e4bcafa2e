"""The programs of warm.py behave as fresh ones do."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

TELL = "import sys, os; print(sys.argv[1:], os.environ['TOLD'], os.getcwd(), [p for p in sys.path if 'mine' in p])"
NESTED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TELL!r}, 'a b'])"


@pytest.mark.parametrize("code", [TELL, NESTED], ids=["itself", "what it starts by sys.executable"])
def test_arguments_environment_folder_and_path(run, tmp_path, code):
    done = run("python", "-c", code, "a b", env={"TOLD": "yes", "PYTHONPATH": "/mine"}, cwd=tmp_path)
    assert done.stdout == f"['a b'] yes {tmp_path} ['/mine']\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(7)", 7),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 15)", -15),
        ("import os; os._exit(3)", 3),
        ("pass", 0),
    ],
)
def test_exit_code(run, code, expected):
    assert run("python", "-c", code).returncode == expected


def test_the_plugin_is_active_unless_switched_off(run):
    code = "import ultralytics.cfg; print('adapt_factor' in ultralytics.utils.DEFAULT_CFG_DICT)"
    assert run("python", "-c", code).stdout.endswith("True\n")
    assert run("python", "-c", code, env={"YOLO_MUSGD": "0"}).stdout.endswith("False\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_command(programs, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([programs / "python", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        process.send_signal(number)
        if number == signal.SIGINT:
            assert b"KeyboardInterrupt" in process.stderr.read()
        assert process.wait(30) in ((1, -number) if number == signal.SIGINT else (-number,))
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
