"""Tests, step times and training runs on one GPU, in one Markdown report; see scripts/gpu_check.

The report is written anew after every part, so that whatever ends this early leaves what there is until then.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "steptime", "train")
OPTIMIZERS = ("MuSGD", "auto", "SGD", "MuSGD-native")
STEPS = (
    *("torch SGD foreach", "torch SGD fused", "torch AdamW fused", "torch Muon + SGD", "MuSGD-native"),
    *("MuSGD", "MuSGD graph", "MuSGD recorded", "MuSGD article", "MuonSGD", "MuonAdamW"),
)
EPOCHS = {"fine-tuned": 20, "scratch": 60}
PACKAGES = "numpy matplotlib pillow pyyaml requests scipy psutil polars filelock jinja2 pytest pytest-timeout"
OURS = "import sys; from yolo_musgd.cli import main; sys.exit(main())"
YOLO = "import yolo_musgd.trainers; from ultralytics.cfg import entrypoint; entrypoint()"  # whether or not installed


@dataclasses.dataclass
class Words:
    """What may be typed as key=value."""

    wheels: str = ""  # folder of wheels to install; none: the Python that runs this has all
    data: str = ""  # data.yaml, several with commas; none: no training
    weights: str = ""  # checkpoint to fine-tune; none: from scratch alone
    device: str = "0"
    minutes: float = 8.0
    parts: str = ",".join(PARTS)
    models: str = "yolo26n,yolo26s,yolo26m"
    steps: str = ",".join(STEPS)  # optimizers whose steps are timed
    optimizers: str = ",".join(OPTIMIZERS)  # that train
    seeds: str = "0"
    jobs: int = 4  # runs at a time
    imgsz: int = 640
    batch: int = 16
    epochs: int = 0  # 0: 20 fine-tuned, 60 from scratch
    tests: str = "tests/cuda tests/optim/test_distributed.py -m cuda"
    out: str = "gpu-report"


def words_of(argv: list[str]) -> Words:
    """The words, typed ones over their defaults; a wrong one ends the program with one line."""
    fields = {f.name: f for f in dataclasses.fields(Words)}
    values: dict[str, object] = {}
    for word in argv:
        name, _, text = word.partition("=")
        if name not in fields or not text:
            known = ", ".join(f"{k}={f.default}" for k, f in fields.items())
            stop(f"{word!r} is none of the words: {known}")
        kind = type(fields[name].default)
        try:
            values[name] = kind(text)
        except ValueError:
            stop(f"{name} must be a number, got {text!r}")
    words = Words(**values)  # type: ignore[arg-type]
    for part in words.parts.split(","):
        if part not in PARTS:
            stop(f"parts must be among {', '.join(PARTS)}, got {part!r}")
    for file in [*filter(None, words.data.split(",")), *filter(None, [words.weights, words.wheels])]:
        if not Path(file).exists():
            stop(f"{file} does not exist")
    if Path(words.out, "report.md").exists():
        stop(f"out={words.out} holds a report already: choose another folder")
    return words


def stop(message: str) -> None:
    """One line, exit code 2."""
    print(f"gpu_check: {message}", file=sys.stderr)
    raise SystemExit(2)


class Check:
    """One run of this program: its clock, its folder, its report."""

    def __init__(self, words: Words):
        self.words, self.began = words, time.monotonic()
        self.folder = Path(words.out).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = sys.executable
        self.parts: dict[str, str] = {}  # heading -> Markdown
        self.env = {
            **os.environ, "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
            "YOLO_CONFIG_DIR": tempfile.mkdtemp(prefix="gpu-check-"), "PYTHONDONTWRITEBYTECODE": "",  # it starts many
        }  # fmt: skip

    def left(self) -> float:
        """Seconds until the limit, less what the report itself needs."""
        return self.words.minutes * 60 - 5 - (time.monotonic() - self.began)

    def start(self, log: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """A process in a group of its own, which :func:`end` ends whole; its output goes to a file."""
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                command, cwd=ROOT, env={**self.env, **env}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def call(self, log: str, share: float, *command: str, least: float = 1.0) -> tuple[int | None, str]:
        """Exit code (None: out of time) and output of a command that may take this share of the time left."""
        process = self.start(log, *command)
        try:
            code: int | None = process.wait(max(least, share * self.left()))
        except subprocess.TimeoutExpired:
            end(process)
            code = None
        return code, (self.folder / log).read_text(errors="replace")

    def write(self) -> None:
        """The report as it stands."""
        took = time.monotonic() - self.began
        head = f"# yolo-musgd on {platform.node() or 'a machine'}, device={self.words.device}\n\n"
        words = " ".join(f"{k}={v}" for k, v in vars(self.words).items())
        head += f"`{words}`\n\n{took:.0f} s of {self.words.minutes * 60:.0f} s.\n"
        text = head + "".join(f"\n## {name}\n\n{body.strip()}\n" for name, body in self.parts.items())
        new = self.folder / "report.md.new"
        new.write_text(text)
        new.replace(self.folder / "report.md")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                continue


def install(check: Check) -> None:
    """An environment over the machine's own packages, with what it lacks from the folder of wheels."""
    place = Path(tempfile.mkdtemp(prefix="gpu-check-venv-"))
    made = subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(place)], check=False)
    if made.returncode:
        stop("wheels= needs `python3 -m venv`, which failed here; install python3-venv, or what is missing by hand")
    check.python = str(place / "bin" / "python")
    offline = (check.python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", check.words.wheels)
    for more in (PACKAGES.split(), ["--no-deps", "ultralytics", "ultralytics-thop", "nvidia-ml-py"]):
        code, log = check.call("install.log", 0.5, *offline, *more)
        if code:
            check.parts["Installation"] = fenced(log)
            check.write()
            stop(f"the wheels could not be installed, see {check.folder / 'install.log'}")


FACTS = """
import json, platform, torch, ultralytics
on = torch.cuda.is_available()
p = torch.cuda.get_device_properties(0) if on else None
print(json.dumps({
    "GPU": f"{p.name}, {p.total_memory / 2**30:.0f} GiB, compute {p.major}.{p.minor}" if on else "none: CUDA not run",
    "CUDA, cuDNN": f"{torch.version.cuda}, {torch.backends.cudnn.version()}" if on else "none",
    "torch": torch.__version__, "ultralytics": ultralytics.__version__, "Python": platform.python_version(),
    "system": platform.platform(), "threads": torch.get_num_threads()}))
"""


def facts(check: Check) -> None:
    """Machine and versions."""
    code, log = check.call("facts.log", 0.5, check.python, "-c", FACTS, least=60)
    if code != 0:
        check.parts["Machine"] = fenced(log)
        check.write()
        stop(f"torch and ultralytics cannot be imported, see {check.folder / 'facts.log'}; give wheels=FOLDER")
    rows = json.loads(log.strip().splitlines()[-1])
    commands = {
        "commit": ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        "driver": ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
    }
    for name, command in commands.items():
        try:
            rows[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            rows[name] = "unknown"
    rows["seeds"] = check.words.seeds
    check.parts["Machine"] = table(("", ""), list(rows.items()))


def tests(check: Check) -> None:
    """What pytest says."""
    command = (check.python, "-m", "pytest", "-p", "no:cacheprovider", "-rf", "--durations=5", "-vv")
    code, log = check.call("tests.log", 0.4, *command, *check.words.tests.split())
    verdict = {0: "All passed.", None: "Out of time; these had run:"}.get(code, "**Failed:**")
    lines = [x for x in log.splitlines() if " PASSED" in x or " SKIPPED" in x or " FAILED" in x or x.startswith("E  ")]
    kinds = {word: sum(f" {word}" in x for x in lines) for word in ("PASSED", "FAILED", "SKIPPED")}
    counts = ", ".join(f"{n} {word.lower()}" for word, n in kinds.items())
    bad = [x for x in lines if " FAILED" in x or x.startswith("E  ")][:60]
    check.parts["Tests"] = f"{verdict} {counts}." + (f"\n\n{fenced(chr(10).join(bad))}" if bad else "")


def steptime(check: Check) -> None:
    """The tables of `yolo-musgd steptime`, model by model, and the goals."""
    words, rows, text = check.words, [], ""
    for model in words.models.split(","):
        words_ = (
            f"models={model}", f"optimizers={words.steps}", f"device={words.device}",
            f"imgsz={words.imgsz}", f"batch={words.batch}",
            *(("threads=1", "steps=2") if words.device == "cpu" else (f"threads={os.cpu_count() or 1}", "steps=30")),
            f"project={check.folder / 'steptime'}", f"name={model}",
        )  # fmt: skip
        code, log = check.call(f"steptime-{model}.log", 0.4, check.python, "-c", OURS, "steptime", *words_)
        done = check.folder / "steptime" / model
        if code == 0:
            rows += json.loads((done / "steptime.json").read_text())["rows"]
            text += (done / "steptime.md").read_text() + "\n"
        else:
            text += f"{model}: {'out of time' if code is None else fenced(log[-1500:])}\n\n"
        check.parts["Step time"] = goals(rows) + "\n\n" + text
        check.write()


def goals(rows: list[dict[str, object]]) -> str:
    """What was hoped for against what was measured."""
    ours = {r["model"]: r for r in rows if r["optimizer"] == "MuSGD"}
    recorded = {r["model"]: r for r in rows if r["optimizer"] == "MuSGD recorded"}
    lines = []
    for model, row in ours.items():
        share, ratio = row["share_of_iteration"], row["vs_native"]
        telemetry = None
        if model in recorded and share:
            whole = row["median_ms"] / share
            telemetry = (recorded[model]["median_ms"] - row["median_ms"]) / whole
        for name, value, most in (
            ("step / native's", ratio, 0.5),
            ("step of an iteration", share, 0.05),
            ("telemetry of an iteration", telemetry, 0.01),
        ):
            said = "not measured" if value is None else f"{value:.3f}"
            lines.append((model, name, f"{most}", said, "" if value is None else "yes" if value <= most else "no"))
    return table(("model", "MuSGD's", "at most", "measured", "reached"), lines)


@dataclasses.dataclass
class Run:
    """One training run."""

    data: str
    start: str
    optimizer: str
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{Path(self.data).parent.name}-{self.start}-{self.optimizer}-{self.seed}"


def runs_of(words: Words) -> list[Run]:
    """All runs, the most telling first: fine-tuning, which is short, then from scratch; every seed after all of one."""
    starts = ["fine-tuned"] * bool(words.weights) + ["scratch"]
    return [
        Run(data, start, optimizer, int(seed), words.epochs or EPOCHS[start])
        for seed in words.seeds.split(",")
        for data in filter(None, words.data.split(","))
        for start in starts
        for optimizer in words.optimizers.split(",")
    ]


def train(check: Check) -> None:
    """Training runs, so many at a time, until all are done or the time is up."""
    words, waiting, going = check.words, runs_of(check.words), {}
    everything = list(waiting)
    threads = str(max(1, (os.cpu_count() or 1) // max(words.jobs, 1)))
    while (waiting or going) and check.left() > 0:
        while waiting and len(going) < words.jobs:
            run = waiting.pop(0)
            model = words.weights if run.start == "fine-tuned" else "yolo26n.yaml"
            arguments = (
                f"data={Path(run.data).resolve()}", f"model={model}", f"optimizer={run.optimizer}", f"seed={run.seed}",
                f"epochs={run.epochs}", f"imgsz={words.imgsz}", f"batch={words.batch}", f"device={words.device}",
                "amp=True", "patience=0", "plots=False", "cache=ram", f"workers={threads}",
                f"project={check.folder / 'runs'}", f"name={run.name}", "exist_ok=True",
            )  # fmt: skip
            command = (check.python, "-c", YOLO, "train", *arguments)
            going[run.name] = check.start(f"train-{run.name}.log", *command, OMP_NUM_THREADS=threads)
        time.sleep(0.5)
        going = {name: process for name, process in going.items() if process.poll() is None}
    for process in going.values():
        end(process)
    check.parts["Training"] = training_table(check, everything)


def training_table(check: Check, runs: list[Run]) -> str:
    """What the runs reached, finished or not."""
    rows = []
    for run in runs:
        file, result = check.folder / "runs" / run.name / "results.csv", ["0", "", "", ""]
        if file.exists():
            with file.open() as lines:
                found = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(lines)]
            maps = [float(row["metrics/mAP50-95(B)"]) for row in found]
            if maps:
                seconds = float(found[-1]["time"]) / len(maps)
                result = [str(len(maps)), f"{maps[-1]:.3f}", f"{max(maps):.3f}", f"{seconds:.1f}"]
        elif (check.folder / f"train-{run.name}.log").exists():
            result[1] = "see its log"
        rows.append((Path(run.data).parent.name, run.start, run.optimizer, str(run.seed), f"{run.epochs}", *result))
    header = ("data", "start", "optimizer", "seed", "epochs", "done", "mAP50-95, last", "best", "s an epoch")
    note = f"{check.words.jobs} runs at a time shared the device: seconds compare only within this table."
    return table(header, rows) + f"\n\n{note} A run with fewer epochs done than planned was cut off by the limit."


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines)


def fenced(text: str) -> str:
    """Output as it is."""
    return f"```\n{text.strip()}\n```"


def main() -> int:
    """Run the parts that are asked for; 0 if nothing failed, whether or not the time sufficed."""
    check = Check(words_of(sys.argv[1:]))
    if check.words.wheels:
        install(check)
    facts(check)
    check.write()
    for part in (tests, steptime, train):
        if part.__name__ in check.words.parts.split(","):
            if check.left() > 0:
                part(check)
            else:
                check.parts[part.__name__.capitalize()] = "The time was up."
            check.write()
    report = check.folder / "report.md"
    print(report.read_text())
    print(f"report: {report}")
    return int("**Failed:**" in check.parts.get("Tests", ""))


if __name__ == "__main__":
    sys.exit(main())
