"""Gives every argument of every command values that it cannot have: ``scripts/words``, or ``scripts/words 500 [seed]``

A wrong answer is a traceback, a refusal of several lines, an exit code other than 0 or 2, a hang, or a file
opened for writing outside of the working folder. The quick part, test_words.py, tries some in the gate.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from faults import End, Fault, run

LIMIT = 120.0  # seconds; a machine may be busy, a hang is for ever
LONG, DEEP = "x" * 5000, "[" * 3000
VALUES = (
    "", " ", "nan", "inf", "-inf", "1e999", "-1", "0", "1e-320", "9" * 400, "9" * 5000, "1_0", "0x10", "1,5", "True",
    "None", "null", "auto", "é猫", "\u202e", "a\nb", "a\tb", "a\0b", "\udcff", "../../x", "..", "/proc", "/dev/zero",
    "/dev/full", "/proc/self/mem", "a'b", 'a"b', "$x_{$", "<script>", "|", "[", "]", "[]", "[,]", "{", "{}", "{a: 1}",
    "&a [*a]", "!!python/x", "%s%n", "{0.__class__}", LONG, f"{LONG}.pt", f"{LONG}.yaml", DEEP, "{here}/pipe",
    "{here}/folder", "{here}/socket.pt", "{here}/loop.yaml", "{here}/dangling.onnx", "{here}/cut.onnx", "{here}/cut.pt",
    "{here}/cut.json", "{here}/odd.yaml", "{here}/zip.pt", "{here}/pickle.pt", "{here}/empty.txt", "{here}/bytes.csv",
    "{here}/closed",
)  # fmt: skip


class Wrong(NamedTuple):
    """A wrong answer."""

    words: list[str]
    why: str


def ground(here: Path) -> None:
    """Files and things that are none, by the names that VALUES has."""
    os.mkfifo(here / "pipe")
    (here / "folder").mkdir()
    (here / "closed").mkdir(mode=0o500)
    (here / "loop.yaml").symlink_to(here / "loop.yaml")
    (here / "dangling.onnx").symlink_to(here / "absent")
    for name, data in {
        "cut.onnx": b"\x08\x07\x12\x0bpytorch\x1a",
        "cut.pt": b"PK\x03\x04",
        "cut.json": b'{"schema": "yolo-musgd/bench/1"',
        "odd.yaml": b"on: [1, {2: 3}]\nnames: {1e999: a}\npath: [x]\nval: {}\n\xff",
        "zip.pt": b"PK\x05\x06" + b"\0" * 18,
        "pickle.pt": b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00false\x85R.",
        "empty.txt": b"",
        "bytes.csv": bytes(range(256)),
    }.items():
        (here / name).write_bytes(data)
    socket.socket(socket.AF_UNIX).bind("socket.pt")  # in the working folder: its path must be short


def cases() -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """Command -> words that it needs, and all of its arguments."""
    from yolo_musgd.commands import COMMANDS, arguments

    needed = {
        "pipeline": ["data={here}/set.yaml", "dry_run=True"], "prune": ["model={here}/cut.pt"],
        "compare": ["data={here}/set.yaml", "dry_run=True"], "export": ["model={here}/cut.pt"],
        "bench": ["model={here}/cut.onnx", "power=none"], "detect": ["model={here}/cut.onnx", "source={here}/folder"],
        "val": ["model={here}/cut.onnx", "source={here}/folder"], "bundle": ["model={here}/cut.onnx"],
        "quantize-ncnn": ["model={here}/folder", "source={here}/folder"], "idle": ["seconds=0.5", "power=none"],
        "compare-bench": ["{here}/cut.json"], "steptime": ["steps=1", "plan=True", "models=[yolo26n]"],
        "demo": ["steps=1", "pictures=False"], "race": ["model={here}/folder", "source={here}/images"],
        "serve": ["model={here}/cut.onnx", "source={here}/images", "seconds=0.1", "power=none"],
        "federate": ["data={here}/set.yaml", "model={here}/cut.pt"], "federate-bundle": ["project={here}/folder"],
    }  # fmt: skip
    found = {}
    for name in COMMANDS:
        table = [argument.name for argument in arguments(name)]
        if name in needed:
            found[name] = ([*needed[name], *(["project=out"] if "project" in table else [])], tuple(table))
    return found


def inputs(seed: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Every command with every argument and value, in a mixed order; the argument replaces one that is needed."""
    every = [
        (name, [w for w in base if w.partition("=")[0] != key] + [f"{key}={value}"])
        for name, (base, keys) in cases().items()
        for key in keys
        for value in VALUES
    ]
    random.Random(seed).shuffle(every)
    yield from every


def answer(words: list[str], here: Path) -> str:
    """Why the answer to these words is wrong; "" for a right one."""
    words = [w.replace("{here}", str(here)) for w in words]
    began = time.monotonic()
    end = run(lambda: _main(words, here), Fault("kill", after=LIMIT))
    if time.monotonic() - began > LIMIT:
        return f"takes longer than {LIMIT:g} s"
    return judged(end)


def _main(words: list[str], here: Path) -> int:
    from yolo_musgd.cli import main

    def outside(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = str(Path(os.fsdecode(arguments[0])).resolve()) if isinstance(arguments[0], (str, bytes)) else ""
            if path and not path.startswith((str(here), tempfile.gettempdir(), "/dev/null")):
                os.write(2, f"\nOUTSIDE {path!r}\n".encode(errors="backslashreplace"))

    sys.addaudithook(outside)
    return main(words)


def judged(end: End) -> str:
    """What is wrong with how a command ended."""
    if "Traceback" in end.said:
        return end.said[-1500:]
    if "\nOUTSIDE " in end.said:
        return end.said[-600:]
    if end.code not in (0, 2):
        return f"exit code {end.code}: {end.said[-300:]}"
    said = [line for line in end.said.splitlines() if line.startswith(("yolo-musgd: ", "error: "))]
    refused = len(said) == 1 and said[0] == end.said.splitlines()[-1]
    return "" if end.code == 0 or refused else f"says {end.said[-600:]!r}"


def prepare(here: Path) -> None:
    """Make ``here`` the working folder, with its things and a small data set."""
    os.chdir(here)
    ground(here)
    (here / "images").mkdir()
    from yolo_musgd.edge.pictures.images import synthetic_frame, write_image

    write_image(str(here / "images" / "a.png"), synthetic_frame(40, 40))
    (here / "images" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (here / "set.yaml").write_text(f"path: {here}\ntrain: images\nval: images\nnames: [a]\n")


def main(count: int, seed: int) -> int:
    """Try so many, or all; print counts and the wrong answers."""
    import conftest  # noqa: F401  a configuration of Ultralytics' own
    import torch
    import ultralytics  # noqa: F401

    torch.set_num_threads(1)
    tried: Counter[str] = Counter()
    wrong: list[Wrong] = []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "a", "b", "c")  # a name that leads up ends in the folder all the same
        here.mkdir(parents=True)
        prepare(here)
        for name, words in inputs(seed):
            if sum(tried.values()) == count:
                break
            tried[name] += 1
            why = answer([name, *words], here)
            if why:
                wrong.append(Wrong([name, *words], why))
                print(f"{[w[:80] for w in wrong[-1].words]}\n{why}", flush=True)
        os.chdir("/")
    print(f"tried {sum(tried.values())}: {dict(tried)}; wrong {len(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    given, sys.argv[1:] = [int(word) for word in sys.argv[1:]], []
    sys.exit(main(given[0] if given else -1, given[1] if len(given) > 1 else 0))
