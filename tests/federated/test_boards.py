"""``yolo-musgd federate-bundle``: its folder, and a real server with two boards on the loopback, encrypted.

Covers apps.py.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10, which Flower does not run on
    tomllib = None

from yolo_musgd.federated import boards
from yolo_musgd.federated.settings import FederateSettings

needs_openssl = pytest.mark.skipif(
    None in (shutil.which("openssl"), shutil.which("ssh-keygen")), reason="keys.sh calls openssl and ssh-keygen"
)


def make(folder, **words):
    return Path(boards.main({"project": str(folder), "val": "val.yaml", **words}).folder)


@pytest.mark.skipif(tomllib is None, reason="Flower needs Python 3.11")
def test_the_run_config_holds_what_was_asked(tmp_path):
    made = make(tmp_path, rounds="3", strategy="fedmuon", imgsz="96", optimizer="SGD", boards="3", server_lr="0.5")
    config = tomllib.loads((made / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert json.loads(config.pop("train")) == {"imgsz": 96}
    expected = {
        "rounds": 3,
        "strategy": "fedmuon",
        "optimizer": "SGD",
        "val": "val.yaml",
        "clients": 3,
        "split": "folders",
    }
    assert {k: config[k] for k in expected} == expected
    assert FederateSettings(**config).server_lr == 0.5


@pytest.mark.skipif(tomllib is None, reason="Flower needs Python 3.11")
def test_the_run_config_holds_letters_beyond_ascii(tmp_path):
    made = make(tmp_path, val='Ä/\U0001f600 "x".yaml')
    config = tomllib.loads((made / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    assert config["val"] == 'Ä/\U0001f600 "x".yaml'


def test_the_page_has_a_line_for_every_board(tmp_path):
    made = make(tmp_path, boards="2", host="10.0.0.5", port="9555")
    page = (made / "README.md").read_text()
    for number in (1, 2):
        assert f"flwr supernode register keys/board-{number}.pub boards" in page
        assert f"ssh board-{number} ./board.sh board-{number} " in page
    assert "10.0.0.5:9555" in page
    server, board = ((made / f"{name}.sh").read_text() for name in ("server", "board"))
    assert "--enable-supernode-auth" in server
    assert "--ssl-keyfile" in server
    assert "--insecure" not in server + board
    assert "FLWR_TELEMETRY_ENABLED=0" in server
    assert "FLWR_TELEMETRY_ENABLED=0" in board
    assert all(os.access(made / f"{name}.sh", os.X_OK) for name in ("server", "board", "keys"))


@needs_openssl
def test_keys_are_for_their_owner_only_and_never_made_over_others(tmp_path):
    made = make(tmp_path, host="fed.example")
    subprocess.run([made / "keys.sh"], check=True, capture_output=True)
    before = {p.name: p.read_bytes() for p in (made / "keys").iterdir()}
    assert {"ca.crt", "server.crt", "server.key", "board-1.key", "board-1.pub", "board-2.key"} <= before.keys()
    assert all(p.stat().st_mode & 0o077 == 0 for p in (made / "keys").glob("*.key"))
    verify = ["openssl", "verify", "-CAfile", "keys/ca.crt", "-verify_hostname", "fed.example", "keys/server.crt"]
    assert "OK" in subprocess.run(verify, cwd=made, check=True, capture_output=True, text=True).stdout
    again = subprocess.run([made / "keys.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert before == {p.name: p.read_bytes() for p in (made / "keys").iterdir()}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"val": None}, "val= is missing"),
        ({"host": "a b; rm"}, "host=a b; rm: must be the server's IP address or name"),
        ({"data": "x.yaml"}, "data= is for a simulation"),
        ({"rounds": "0"}, "rounds must be in"),
        ({"epochs": "2"}, "epochs= is not for a federation"),
        ({"port": "0"}, "port must be in"),
        ({"compress": "zip"}, "compress=zip: must be none, half"),
    ],
)
def test_bad_input_makes_no_folder(tmp_path, words, line):
    given = {k: v for k, v in {"project": str(tmp_path / "p"), "val": "v.yaml", **words}.items() if v is not None}
    with pytest.raises(ValueError, match=line.replace("(", r"\(")):
        boards.main(given)
    assert not (tmp_path / "p").exists()


def board(made, folder, supernode):
    """board.sh with another program in place of Flower's, and with minutes that pass at once."""
    for name, text in (("flower-supernode", supernode), ("sleep", f"echo $1 >>{folder}/slept")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o700)
    return subprocess.Popen(
        [made / "board.sh", "board-1", "data.yaml"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip


@pytest.mark.parametrize(("codes", "calls", "code"), [([1, 1, 0], 3, 0), ([2], 1, 2), ([1] * 9, 5, 1), ([0], 1, 0)])
def test_a_board_that_is_not_taken_tries_again_in_a_minute(tmp_path, codes, calls, code):
    """Flower takes a board that was cut off back when its last sign of life is a minute old; it exits with 1 before."""
    made = make(tmp_path)
    (tmp_path / "codes").write_text("".join(f"{c}\n" for c in codes))
    called = f'echo "$@" >>{tmp_path}/called; exit "$(sed -n "$(wc -l <{tmp_path}/called)p" {tmp_path}/codes)"'
    process = board(made, tmp_path, called)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    lines = (tmp_path / "called").read_text().splitlines()
    assert len(lines) == calls
    assert all("--auth-supernode-private-key board-1.key" in line for line in lines)
    slept = (tmp_path / "slept").read_text().split() if (tmp_path / "slept").exists() else []
    assert slept == ["60"] * (calls if code == 1 else calls - 1)


def test_a_board_that_is_stopped_stops_its_supernode(tmp_path):
    process = board(
        make(tmp_path),
        tmp_path,
        f"trap 'echo stopped >{tmp_path}/end; kill $!; exit' TERM\necho up\ntail -f /dev/null & wait",
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.wait(60) == 143
    wait((tmp_path / "end").exists, 60, lambda: "it runs on")


class Machines:
    """Processes of a federation, each in its own group and with its own log."""

    def __init__(self, folder, home):
        self.folder, self.env = folder, {**os.environ, "HOME": str(home), "FLWR_HOME": str(home / ".flwr")}
        self.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "FLWR_TELEMETRY_ENABLED": "0"}
        self.running = {}

    def start(self, name, *words, cwd=None):
        with (self.folder / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                list(map(str, words)),
                env=self.env,
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.running[name]

    def kill(self, name):
        with contextlib.suppress(ProcessLookupError):  # it has ended, and all that it started
            os.killpg(self.running.pop(name).pid, signal.SIGKILL)

    def do(self, *words, cwd=None):
        done = subprocess.run(
            list(map(str, words)), env=self.env, cwd=cwd, capture_output=True, text=True, check=False, timeout=600
        )
        return done.returncode, done.stdout + done.stderr

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")


@pytest.fixture
def machines(tmp_path):
    (tmp_path / "home").mkdir()
    made = Machines(tmp_path, tmp_path / "home")
    yield made
    for name in list(made.running):
        made.kill(name)


@pytest.fixture(scope="module")
def unit():
    """Seconds in which this machine, as busy as it is, starts Python with PyTorch: every message to a board does."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import ultralytics, torch"], check=True, capture_output=True)
    return max(3.0, time.monotonic() - began)


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f"waited {seconds:.0f} s\n{what()}")


def answers(port):
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


def own_place(made, folder, name, port):
    """What is copied to a board, in a folder of its own; all boards of this test are one machine."""
    folder.mkdir()
    shutil.copy(made / "keys" / "ca.crt", folder)
    text = (made / "board.sh").read_text().replace("flower-supernode --", f"flower-supernode --port {port} --")
    if (key := made / "keys" / f"{name}.key").exists():
        shutil.copy(key, folder)
        text = text.replace("in 1 2 3 4 5;", "in $(seq 20);").replace("sleep 60", "sleep 10")
    else:
        words = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", folder / f"{name}.key"]
        subprocess.run(words, check=True)
    (folder / "board.sh").write_text(text.replace("$HOME/federation", str(folder / "federation")))
    (folder / "board.sh").chmod(0o700)
    return folder / "board.sh"


@pytest.mark.slow
@pytest.mark.timeout(5400)  # what it waits for is measured in `unit`
@needs_openssl
def test_a_server_and_two_boards_with_certificates(machines, tiny_data, tmp_path, unit):
    """One board is killed in the third round and started again; a board without a registered key is refused."""
    pytest.importorskip("flwr", reason="the extra federated is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = dict(word.split("=") for word in ("imgsz=64", "batch=8", "nbs=8", "workers=0", "amp=False", "seed=3"))
    made = make(tmp_path, val=str(tiny_data), port=str(port), rounds="6", timeout=f"{max(120, 5 * unit):.0f}", **words)
    subprocess.run([made / "keys.sh"], check=True, capture_output=True)
    home = Path(machines.env["HOME"])
    (home / ".flwr").mkdir()
    (home / ".flwr" / "config.toml").write_text(
        f'[superlink.boards]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{made}/keys/ca.crt"\n'
    )
    machines.start("server", made / "server.sh")
    wait(lambda: answers(port), 20 * unit, lambda: machines.log("server"))
    names = [f"board-{number}" for number in (1, 2, 3)]
    for name in names[:2]:
        code, out = machines.do("flwr", "supernode", "register", made / "keys" / f"{name}.pub", "boards")
        assert code == 0, out
    for number, name in enumerate(names, 1):
        script = own_place(made, tmp_path / f"place-{number}", name, port + number)
        machines.start(name, script, name, tiny_data)
    code, out = machines.do("flwr", "run", ".", "boards", cwd=made)
    assert code == 0, out
    results = home / "federation" / "server"

    def rows():
        table = results / "results.csv"
        return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []

    def logs():
        return "\n".join(f"--- {name}\n{machines.log(name)[-3000:]}" for name in ("server", *names))

    begun = tmp_path / "place-2" / "federation" / "training-3"  # a client's mark while it trains round 3
    wait(begun.exists, 150 * unit, logs)
    machines.kill("board-2")
    machines.start("board-2", tmp_path / "place-2" / "board.sh", "board-2", tiny_data)
    wait(lambda: len(rows()) == 6, 150 * unit, logs)
    found = [(row["clients"], row["left_out"]) for row in rows()]
    assert found[:3] == [("2", ""), ("2", ""), ("1", "board-2")]  # Flower tells after a minute without a sign of life
    assert found[5] == ("2", "")
    assert (results / "weights" / "last.pt").stat().st_size > 1e6
    assert "Exit Code: 305" in machines.log("board-3")
    assert "Exit Code: 305" not in machines.log("board-1")
