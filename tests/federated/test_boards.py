"""``yolo-musgd federate-bundle``: its folder, and a real server with two boards on the loopback, encrypted.

Covers apps.py.
"""

from __future__ import annotations

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
    ],
)
def test_bad_input_makes_no_folder(tmp_path, words, line):
    given = {k: v for k, v in {"project": str(tmp_path / "p"), "val": "v.yaml", **words}.items() if v is not None}
    with pytest.raises(ValueError, match=line.replace("(", r"\(")):
        boards.main(given)
    assert not (tmp_path / "p").exists()


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
        os.killpg(self.running.pop(name).pid, signal.SIGKILL)

    def do(self, *words, cwd=None):
        done = subprocess.run(
            list(map(str, words)), env=self.env, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
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


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.5)
    pytest.fail(what())


def answers(port):
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@needs_openssl
def test_a_server_and_two_boards_with_certificates(machines, tiny_data, tmp_path):
    """One board is killed and started again; a board without a registered key, and one with another CA, are refused."""
    pytest.importorskip("flwr", reason="the extra federated is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = dict(word.split("=") for word in ("imgsz=64", "batch=8", "nbs=8", "workers=0", "amp=False", "seed=3"))
    made = make(tmp_path, val=str(tiny_data), port=str(port), rounds="4", timeout="60", **words)
    subprocess.run([made / "keys.sh"], check=True, capture_output=True)
    home = Path(machines.env["HOME"])
    (home / ".flwr").mkdir()
    (home / ".flwr" / "config.toml").write_text(
        f'[superlink.boards]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{made}/keys/ca.crt"\n'
    )
    machines.start("server", made / "server.sh")
    wait(lambda: answers(port), 120, lambda: machines.log("server"))
    for number in (1, 2):
        code, out = machines.do("flwr", "supernode", "register", made / "keys" / f"board-{number}.pub", "boards")
        assert code == 0, out
    for number in (1, 2, 3):
        place = tmp_path / f"place-{number}"
        place.mkdir()
        shutil.copy(made / "board.sh", place)
        shutil.copy(made / "keys" / "ca.crt", place)
        (place / "board.sh").write_text(
            (place / "board.sh")
            .read_text()
            .replace("exec flower-supernode", f"exec flower-supernode --port {port + number}")
            .replace("$HOME/federation", str(place / "federation"))
        )
        if number < 3:
            shutil.copy(made / "keys" / f"board-{number}.key", place)
            machines.start(f"board-{number}", place / "board.sh", f"board-{number}", tiny_data)
    stranger = tmp_path / "place-3"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", stranger / "board-3.key"], check=True
    )
    machines.start("board-3", stranger / "board.sh", "board-3", tiny_data)
    code, out = machines.do("flwr", "run", ".", "boards", cwd=made)
    assert code == 0, out
    table = home / "federation" / "server" / "results.csv"

    def rows():
        return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []

    def logs():
        return "\n".join(
            f"--- {name}\n{machines.log(name)[-3000:]}" for name in ("server", "board-1", "board-2", "board-3")
        )

    wait(lambda: len(rows()) >= 1, 300, logs)
    machines.kill("board-2")
    machines.start("board-2", tmp_path / "place-2" / "board.sh", "board-2", tiny_data)
    wait(lambda: len(rows()) == 4, 500, logs)
    assert rows()[0]["clients"] == "2"
    assert (home / "federation" / "server" / "weights" / "last.pt").stat().st_size > 1e6
    assert machines.running["board-3"].poll() is not None, logs()
