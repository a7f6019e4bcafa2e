"""Ends every command at its writes and at any time, and lets the same command go on: ``scripts/kills 220``.

After each end no file under its final name may be half written, and the same command must then finish with the result
of an undisturbed run: the same files, and in them the same figures but for times. Two processes that do the same work
at once must both finish with it. ``scripts/kills 50 bundle train`` tries some commands only,
``seed=1`` other places.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import random
import re
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent import futures
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from faults import FAULTS, SIGNALS, End, Fault, listing, run

Words = Callable[[Path], list[str]]
CODES = {"kill": (-9,), "term": (130,), "int": (130,), "full": (2,), "short": (2,)}
TRAIN = ("model=yolo26n.yaml", "imgsz=64", "batch=8", "nbs=8", "workers=0", "device=cpu", "amp=False")
CLOCK = {
    "s", "ms", "seconds", "time", "times", "date", "created", "started", "fps", "watch", "state", "runs", "rows",
    "idle", "machine", "sha256", "files", "memory", "peak", "sizes", "kb",
}  # fmt: skip


SEVERAL = ("export",)  # whose outcome is all of the project: two of them make two
ALONE = ("train",)  # Ultralytics does not guard a folder against a second training


class Case(NamedTuple):
    """A command under fire.

    Attributes:
        words: of the command, for results below the given folder.
        outcome: what an undisturbed run leaves there, without times.
        share: of all tries.
        host: patterns of the files that Ultralytics writes, not we.
        again: of the command that goes on, if it is not the same.
        codes: exit codes beside the usual ones.
        atomic: whether nothing but the whole result may be seen, and nothing may stay where the command could tidy up.
    """

    words: Words
    outcome: Callable[[Path], Any]
    share: int
    host: tuple[str, ...] = ()
    again: Words | None = None
    codes: tuple[int, ...] = ()
    atomic: bool = False


def flaw(file: Path) -> str:
    """What is wrong with a file, if it was cut; "" for a whole one."""
    try:
        _read(file)
    except Exception as error:
        return f"{file}: {type(error).__name__}: {str(error)[:120]}"
    return ""


def _read(file: Path) -> None:
    data, suffix = file.read_bytes(), file.suffix
    if suffix == ".json":
        json.loads(data)
    elif suffix == ".csv":
        assert data.endswith(b"\n")
        assert len({len(row) for row in csv.reader(io.StringIO(data.decode()))}) == 1
    elif suffix in (".png", ".jpg"):
        from PIL import Image

        Image.open(io.BytesIO(data)).load()
    elif suffix in (".pt", ".pyz"):
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    elif suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load_from_string(data))
    elif suffix == ".yaml":
        import yaml

        assert yaml.safe_load(data) is not None
    elif file.name.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.getmembers()
    elif suffix == ".gz":
        gzip.decompress(data)
    elif suffix == ".html":
        assert data.rstrip().endswith(b"</html>")
    else:
        assert data, "empty"


def shown(folder: Path) -> list[Path]:
    """Files below a folder under their final names: nothing on the way is hidden."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def visible(folder: Path) -> dict[str, str]:
    """The files below a folder under their final names, by their content."""
    names = {p.relative_to(folder).as_posix() for p in shown(folder)}
    return {name: digest for name, digest in listing(folder).items() if name in names}


def timeless(value: Any) -> Any:
    """A JSON value without what a clock said."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not CLOCK & set(re.split("[^a-z0-9]+", str(k).lower()))}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def figures(file: Path, project: Path) -> Any:
    """What a JSON file says, without times and without the place of the try."""
    return timeless(json.loads(file.read_text().replace(str(project), "PROJECT")))


def newest(project: Path, main: str) -> Path:
    """The result folder that was finished: the last one that holds ``main``."""
    return max((p.parent for p in project.glob(f"*/{main}")), key=lambda p: p.stat().st_mtime_ns)


def result(main: str, *others: str) -> Callable[[Path], Any]:
    """An outcome: the names of the folder that holds the JSON file ``main``, its figures, and the hashes of others."""

    def outcome(project: Path) -> Any:
        folder = newest(project, main)
        hashes = listing(folder)
        return sorted(hashes), figures(folder / main, project), {name: hashes[name] for name in others}

    return outcome


class Range:
    """What the commands work on, made once, and the folders of the tries."""

    def __init__(self, root: Path) -> None:
        from detectors import detector

        from yolo_musgd.edge.pictures.images import synthetic_frame, write_image

        self.root, self.tries = root, 0
        self.model = detector(root / "best.onnx")
        self.samples = root / "set" / "images"
        self.samples.mkdir(parents=True)
        (root / "set" / "labels").mkdir()
        for name in ("a", "b"):
            write_image(str(self.samples / f"{name}.png"), synthetic_frame(64, 64))
            (root / "set" / "labels" / f"{name}.txt").write_text("1 0.25 0.25 0.2 0.15\n")
        self.cases = self._cases()
        self._whole: dict[str, tuple[Any, int, float]] = {}

    @cached_property
    def data(self) -> Path:
        """data.yaml of a few drawn images."""
        import conftest
        import torch

        torch.set_num_threads(1)
        return conftest.make_tiny_data(self.root)

    @cached_property
    def weights(self) -> Path:
        """A checkpoint with random weights."""
        from checkpoints import save_random

        return save_random(self.root / "random.pt")

    def _cases(self) -> dict[str, Case]:
        model = f"model={self.model}"

        def edge(command: str, *more: str) -> Words:
            return lambda p: [command, model, f"project={p}", "name=out", *more]

        def made(command: str, *more: str) -> Words:
            return lambda p: [command, *more, f"project={p}", "name=out"]

        tiny = ("imgsz=64", "batch=8")
        return {
            "bundle": Case(
                lambda p: ["bundle", model, f"samples={self.samples}", f"project={p}"], visible, 70, atomic=True
            ),
            "detect": Case(edge("detect", f"source={self.samples}"), result("detections.json"), 20),
            "val": Case(edge("val", f"source={self.samples}"), result("val.json"), 20),
            "bench": Case(
                edge("bench", "n=3", "warmup=1", "idle=0", "power=none", "seconds=0"), result("bench.json"), 20
            ),
            "compare-bench": Case(
                lambda p: made("compare-bench", *self.reports)(p), result("compare.json", "compare.md"), 20
            ),
            "demo": Case(made("demo", "steps=20"), result("demo.json", "demo.md"), 8),
            "steptime": Case(
                made("steptime", "models=[yolo26n]", "optimizers=[MuSGD]", "steps=2", "imgsz=64"),
                result("steptime.json"),
                6,
            ),
            "quantize-ncnn": Case(
                lambda p: ["quantize-ncnn", f"model={self.network}", f"source={self.samples}", f"name={p / 'int8'}"],
                visible,
                20,
                atomic=True,
            ),
            "export": Case(
                lambda p: made("export", f"model={self.weights}", f"data={self.data}", "imgsz=64",
                               "runtime=onnxruntime", "calibration_images=8", "max_drop=1")(p),
                self._exported,
                6,
            ),
            "train": Case(
                lambda p: ["yolo", "train", *TRAIN, f"data={self.data}", "plots=False", "epochs=2", "optimizer=MuSGD",
                           f"project={p}", "name=out", "exist_ok=True"],
                self._trained,
                10,
                ("weights/*", "results.csv", "args.yaml", "*.jpg", "results.png"),
                self._train_on,
                (-15, -2, 1, 98),
            ),
            "prune": Case(
                lambda p: made("prune", f"model={self.weights}", f"data={self.data}", *tiny, "flops=-0.2", "epochs=1",
                               "images=16", "bench=none")(p),
                self._pruned,
                5,
                ("finetune/*", "finetune/weights/*", "val/*"),
                self._prune_on,
            ),
            "compare": Case(
                lambda p: made("compare", f"data={self.data}", "optimizers=[MuSGD]", "seeds=1", "epochs=1",
                               "train={imgsz: 64, batch: 5, device: cpu}")(p),
                self._compared,
                8,
                ("store/*/*", "store/*/weights/*"),
            ),
            "pipeline": Case(
                lambda p: made("pipeline", f"data={self.data}", "target=raspberry-pi-5", "model=yolo26n.yaml", *tiny,
                               "epochs=1", "finetune_epochs=1")(p),
                self._piped,
                3,
                ("logs/*", "run/*"),
            ),
        }  # fmt: skip

    @cached_property
    def network(self) -> Path:
        """A folder of ``yolo export format=ncnn``."""
        from ultralytics import YOLO

        return Path(YOLO(self.weights).export(format="ncnn", imgsz=64))

    @cached_property
    def reports(self) -> list[str]:
        """A bench.json and a val.json."""
        made = []
        for name in ("bench", "val"):
            end = run(self.work(self.cases[name].words(self.root / name)))
            assert end.code == 0, end.said
            made += map(str, (self.root / name).rglob(f"{name}.json"))
        return made

    @staticmethod
    def work(words: list[str]) -> Callable[[], int]:
        """A command, in this process."""
        if words[0] == "yolo":

            def train() -> int:
                from ultralytics.cfg import entrypoint

                from yolo_musgd import plugin

                plugin.register()
                entrypoint(" ".join(words))  # a place of its own for tests
                return 0

            return train
        from yolo_musgd.cli import main

        return lambda: main(words)

    @staticmethod
    def _exported(project: Path) -> Any:
        manifests = sorted(project.rglob("manifest.json"))
        assert manifests
        return [str(p.relative_to(project)) for p in shown(project)], [figures(m, project) for m in manifests]

    @staticmethod
    def _pruned(project: Path) -> Any:
        folder = newest(project, "report.md")
        record = figures(folder / "prune.json", project)
        record.pop("curves", None)
        record.pop("log", None)
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith("part-")), record

    @staticmethod
    def _prune_on(project: Path) -> list[str]:
        """As the message says: ``resume=`` where there is a pruned model, the same command elsewhere."""
        for folder in sorted(project.glob("out*")):
            if all((folder / n).is_file() for n in ("args.yaml", "base.pt", "pruned.pt", "prune.json")):
                return ["prune", f"resume={folder}"]
        return []

    @staticmethod
    def _trained(project: Path) -> Any:
        from yolo_musgd.train.records import read_steps

        folder = project / "out"
        with (folder / "results.csv").open(newline="") as file:  # Polars' threads would not outlive the next fork
            epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
        steps = read_steps(folder / "optimizer_steps.csv.gz")
        names = sorted(p.name for p in folder.iterdir() if p.name.startswith("optimizer") and p.suffix != ".part")
        return epochs, steps["epoch"].tolist(), steps["step"].tolist(), names

    @staticmethod
    def _train_on(project: Path) -> list[str]:
        import torch

        last = project / "out" / "weights" / "last.pt"
        with contextlib.suppress(Exception):
            epoch = torch.load(last, map_location="cpu", weights_only=False)["epoch"]
            if epoch == 0:
                return ["yolo", "train", "resume=True", f"model={last}"]
        return []

    @staticmethod
    def _compared(project: Path) -> Any:
        from yolo_musgd.lab.store import read_results

        runs = {}
        for record in sorted((project / "store").glob("*/run.json")):
            rows = read_results(record.parent / "results.csv")
            rows.pop("time", None)
            runs[record.parent.name] = rows
        return runs, sorted(str(p.relative_to(project)) for p in shown(project / "out"))

    @staticmethod
    def _piped(project: Path) -> Any:
        files = [str(p.relative_to(project)) for p in shown(project / "out")]
        pruned = {f.name: figures(f, project)["accuracy"] for f in sorted((project / "out").rglob("prune.json"))}
        return sorted(f for f in files if "/logs/" not in f), pruned

    def undisturbed(self, name: str) -> tuple[Any, int, float]:
        """Outcome, writes and seconds of a command that nothing ends."""
        if name not in self._whole:
            case, project = self.cases[name], self.root / f"{name}-whole"
            words, started = case.words(project), time.monotonic()
            end = run(self.work(words))
            assert end.code == 0, end.said
            self._whole[name] = case.outcome(project), end.writes, time.monotonic() - started
        return self._whole[name]

    def survives(self, name: str, fault: Fault, whole: Any) -> tuple[bool, str]:
        """Whether the fault struck, and what was lost; "" if nothing was."""
        case = self.cases[name]
        self.tries += 1
        project = self.root / f"{name}-{self.tries}"
        end = run(self.work(case.words(project)), fault)
        lost = self._after(case, project, end, fault, whole) if end.code else ""
        if end.code and not lost and self._differs(case, project, whole):
            lost = self._goes_on(case, project)
        lost = lost or self._differs(case, project, whole)
        if lost:
            lost = f"{name} {fault}: {lost}"
        else:
            shutil.rmtree(project, ignore_errors=True)
        return end.code != 0, lost

    @staticmethod
    def _differs(case: Case, project: Path, whole: Any) -> str:
        """How what is there differs from the undisturbed result, or ""."""
        try:
            found = case.outcome(project)
        except Exception as error:
            return f"no result: {type(error).__name__}: {error}"
        return "" if found == whole else f"another result: {difference(found, whole)}"

    @staticmethod
    def _after(case: Case, project: Path, end: End, fault: Fault, whole: Any) -> str:
        """What is wrong right after the fault."""
        if end.code not in CODES[fault.kind] + case.codes:
            return f"exit code {end.code}: {end.said[-1500:]}"
        if "Traceback" in end.said and not case.codes:
            return f"traceback: {end.said[-1500:]}"
        files = [p for p in shown(project) if not any(p.relative_to(project).match(h) for h in case.host)]
        if case.atomic and not visible(project).items() <= whole.items():
            return f"half of a result: {[str(p) for p in files]}"
        if case.atomic and fault.kind != "kill" and (left := listing(project).keys() - visible(project).keys()):
            return f"left behind: {sorted(left)}"
        return "; ".join(filter(None, map(flaw, files)))

    def _goes_on(self, case: Case, project: Path) -> str:
        words = (case.again(project) if case.again else []) or case.words(project)
        end = run(self.work(words))
        return f"going on: exit code {end.code}: {end.said[-1500:]}" if end.code else ""

    def races(self, name: str, whole: Any) -> str:
        """Two processes at the same work in the same place; what was wrong, or ""."""
        case = self.cases[name]
        self.tries += 1
        project = self.root / f"{name}-{self.tries}"
        with futures.ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda _: run(self.work(case.words(project))), range(2)))
        codes = [end.code for end in ends]
        if 0 not in codes or not {0, 2}.issuperset(codes) or any("Traceback" in end.said for end in ends):
            return f"{name} race: exit codes {codes}: {[end.said[-600:] for end in ends]}"
        flaws = "; ".join(filter(None, map(flaw, shown(project))))
        return flaws or ("" if name in SEVERAL else self._differs(case, project, whole))


def difference(found: Any, whole: Any) -> str:
    """Where two outcomes part, in a line."""
    if isinstance(found, dict) and isinstance(whole, dict):
        for key in sorted({*found, *whole}, key=str):
            if found.get(key) != whole.get(key):
                return f"{key}: {difference(found.get(key), whole.get(key))}"
    if isinstance(found, (list, tuple)) and isinstance(whole, (list, tuple)) and len(found) == len(whole):
        for place, (a, b) in enumerate(zip(found, whole, strict=True)):
            if a != b:
                return f"[{place}] {difference(a, b)}"
    return f"{str(found)[:300]} instead of {str(whole)[:300]}"


def faults(count: int, writes: int, seconds: float, seed: int) -> Iterable[Fault]:
    """So many faults of all kinds: at writes, which come in turn, at any time, and in the middle of a file."""
    chance = random.Random(seed)
    for k in range(count):
        kind = FAULTS[k % len(FAULTS)]
        if kind == "short":
            yield Fault(kind, chance.choice((0, 1, 100, 4096, 60_000, 300_000)))
        elif kind in SIGNALS and k % 2:
            yield Fault(kind, after=chance.uniform(0.05, seconds))
        else:
            yield Fault(kind, chance.randint(1, max(1, writes)))


def main(count: int, names: list[str], seed: int = 0) -> int:
    """Try so many ends, a share of them with each command; print a row a command, and what was lost."""
    place = tempfile.mkdtemp(prefix="yolo-musgd-kills-")
    lost, struck, sums = [], Counter(), [0, 0, 0]
    grounds = Range(Path(place))
    chosen = {k: v for k, v in grounds.cases.items() if not names or k in names}
    total = sum(case.share for case in chosen.values())
    print(f"{'command':<15}{'tries':>6}{'struck':>8}{'lost':>6}{'races':>7}{'writes':>8}{'s':>7}", flush=True)
    for number, (name, case) in enumerate(chosen.items()):
        started, wrong, hits = time.monotonic(), [], 0
        whole, writes, seconds = grounds.undisturbed(name)
        tries = list(faults(max(2, round(count * case.share / total)), writes, seconds, 100 * seed + number))
        for fault in tries:
            hit, why = grounds.survives(name, fault, whole)
            hits += hit
            struck[fault.kind] += hit
            wrong += [why] if why else []
        race = "" if name in ALONE else grounds.races(name, whole)
        spent = time.monotonic() - started
        sums = [a + b for a, b in zip(sums, (len(tries), hits, len(wrong)), strict=True)]
        row = f"{name:<15}{len(tries):>6}{hits:>8}{len(wrong):>6}{int(bool(race)):>7}{writes:>8}{spent:>7.0f}"
        print("\n".join([row, *wrong, *filter(None, [race])]), flush=True)
        lost += [*wrong, *filter(None, [race])]
    print(f"{'all':<15}{sums[0]:>6}{sums[1]:>8}{sums[2]:>6}   by kind: {dict(struck)}")
    if not lost:
        shutil.rmtree(place)
    return 1 if lost else 0


if __name__ == "__main__":
    given, sys.argv[1:] = sys.argv[1:], []  # Ultralytics reads them where it is imported
    names, seeds = ([w for w in given[1:] if w.startswith("seed=") == is_seed] for is_seed in (False, True))
    sys.exit(main(int(given[0]) if given else 220, names, int(seeds[0][5:]) if seeds else 0))
