"""The commands: one table for the command line, its help and completion, the Python API and the documentation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from yolo_musgd.edge.options import REQUIRED, Required, choices_of, kind_of, pairs
from yolo_musgd.edge.result import Result
from yolo_musgd.settings import Settings, SettingsError

START, OPTIMIZERS, SHRINK, BOARD, PARTS = (
    "Start here", "Optimizers", "Smaller and faster", "On a board, or on this machine", "Parts"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        main: ``module:function`` that takes the key=value pairs (a list of words if ``settings`` is None) and returns
            a `Result` or an exit code; imported when it is run.
        summary: one line for the overview.
        settings: ``module:class`` of its arguments, None for a command that reads its words itself.
        options: ``module:table`` of the options of a command without settings.
        group: heading in the overview.
        examples: two lines to copy, without the program's name.
        page: of the documentation, below docs/.
        files: what its bare words name, for a command that takes some.
        trains: whether it takes the arguments of ``yolo train``, too.
    """

    main: str
    summary: str
    settings: str | None = None
    options: str | None = None
    group: str = START
    examples: tuple[str, ...] = ()
    page: str = "reference/commands.md"
    files: str = ""
    trains: bool = False


COMMANDS: dict[str, Command] = {
    "doctor": Command(
        "yolo_musgd.doctor:main",
        "what is installed, whether the plugin is active, what is incompatible",
        "yolo_musgd.settings:Settings",
        examples=("doctor",),
        page="faq.md",
    ),
    "pipeline": Command(
        "yolo_musgd.pipeline.command:main",
        "from data to board: train, prune, fine-tune, quantize, check, bundle, with a report; goes on where it stopped",
        "yolo_musgd.pipeline.settings:PipelineSettings",
        examples=(
            "pipeline data=shapes.yaml target=raspberry-pi-5 dry_run=True",
            "pipeline data=data.yaml target=jetson-nano max_hours=8",
        ),
        page="pipeline.md",
    ),
    "optimizers": Command(
        "yolo_musgd.optim.registry:main",
        "every optimizer by name, with its memory, learning rate and source",
        "yolo_musgd.settings:Settings",
        group=OPTIMIZERS,
        examples=("optimizers",),
        page="which-optimizer.md",
    ),
    "compare": Command(
        "yolo_musgd.lab.command:main",
        "which optimizer converges faster: data sets x starts x optimizers x seeds, with a report",
        "yolo_musgd.lab.settings:CompareSettings",
        group=OPTIMIZERS,
        examples=(
            "compare data=bccd.yaml optimizers=[SGD,MuSGD] seeds=3 epochs=30 dry_run=True",
            "compare protocol=quick",
        ),
        page="compare.md",
    ),
    "steptime": Command(
        "yolo_musgd.lab.steptime:main",
        "time and memory of optimizer.step() side by side; plan=True shows how Muon's matrices are batched",
        "yolo_musgd.lab.settings:StepTimeSettings",
        group=OPTIMIZERS,
        examples=("steptime", "steptime models=yolo26n,yolo26s threads=2 steps=40"),
        page="which-optimizer.md",
    ),
    "demo": Command(
        "yolo_musgd.lab.demo:main",
        "two demonstrations of the source articles: Newton-Schulz against SVD, SGD against a Muon hybrid",
        "yolo_musgd.lab.settings:DemoSettings",
        group=OPTIMIZERS,
        examples=("demo", "demo seed=1 steps=400"),
        page="research.md",
    ),
    "federate": Command(
        "yolo_musgd.federated.command:main",
        "many clients, one model: federated training on Flower, simulated here; goes on where it stopped",
        "yolo_musgd.federated.settings:FederateSettings",
        group=OPTIMIZERS,
        examples=(
            "federate data=shapes.yaml clients=4 rounds=10",
            "federate data=bccd.yaml split=dirichlet:0.3 compress=topk:0.1 baselines=central",
        ),
        page="federated.md",
        trains=True,
    ),
    "federate-bundle": Command(
        "yolo_musgd.federated.boards:main",
        "the same federation for a server and its boards: keys, scripts and one page of commands, encrypted",
        "yolo_musgd.federated.settings:BundleSettings",
        group=OPTIMIZERS,
        examples=("federate-bundle", "federate-bundle host=192.168.1.10 boards=2"),
        page="federated.md",
        trains=True,
    ),
    "prune": Command(
        "yolo_musgd.prune.command:main",
        "fewer channels, then fine-tuning: a smaller, faster checkpoint that loads anywhere",
        "yolo_musgd.prune.settings:PruneSettings",
        group=SHRINK,
        examples=(
            "prune model=runs/detect/train/weights/best.pt data=data.yaml flops=-0.4 epochs=30",
            "prune model=best.pt recipe=prune-20.yaml",
        ),
        page="prune.md",
    ),
    "export": Command(
        "yolo_musgd.export.command:main",
        "a checkpoint for a board: ONNX, OpenVINO, NCNN; INT8 with its accuracy guarded; one folder with its evidence",
        "yolo_musgd.export.settings:ExportSettings",
        group=SHRINK,
        examples=(
            "export model=runs/detect/train/weights/best.pt target=raspberry-pi-5 precision=int8 data=data.yaml",
            "export model=best.pt target=x86 bundle=True",
        ),
        page="export.md",
    ),
    "quantize-ncnn": Command(
        "yolo_musgd.export.ncnn:main",
        "INT8 for a folder that yolo export format=ncnn made, for Raspberry Pis and phones",
        "yolo_musgd.export.settings:NcnnSettings",
        group=SHRINK,
        examples=(
            "quantize-ncnn model=best_ncnn_model source=datasets/mine/images/train",
            "quantize-ncnn model=best_ncnn_model source=photos images=128",
        ),
        page="export.md",
    ),
    "bundle": Command(
        "yolo_musgd.export.bundle:main",
        "a folder or archive to copy to a board: model, edge.pyz, requirements, run.sh, walkthrough",
        options="yolo_musgd.export.bundle:OPTIONS",
        group=BOARD,
        examples=(
            "bundle model=runs/export/exp/best_int8_onnx_model target=raspberry-pi-5",
            "bundle model=best.onnx target=x86 samples=photos",
        ),
        page="raspberry-pi.md",
    ),
    "bench": Command(
        "yolo_musgd.edge.bench:main",
        "FPS, latency percentiles, watts and joules per frame of a model on this machine",
        options="yolo_musgd.edge.bench:BENCH_OPTIONS",
        group=BOARD,
        examples=("bench model=best.onnx threads=[1,2,4]", "bench model=best.onnx source=0 soak=30"),
        page="tutorials/bench.md",
    ),
    "detect": Command(
        "yolo_musgd.edge.detect:main",
        "boxes on images, a video or a camera, as the board computes them (no torch)",
        options="yolo_musgd.edge.detect:DETECT_OPTIONS",
        group=BOARD,
        examples=("detect model=best.onnx source=photos", "detect model=best.onnx source=0 n=100"),
        page="tutorials/bench.md",
    ),
    "serve": Command(
        "yolo_musgd.edge.serve:main",
        "a page with the camera's picture, boxes, rates, watts and heat; JSON and Prometheus too (no torch)",
        options="yolo_musgd.edge.serve:SERVE_OPTIONS",
        group=BOARD,
        examples=("serve model=best.onnx source=0", "serve model=best.onnx source=rtsp://camera/stream host=0.0.0.0"),
        page="cameras.md",
    ),
    "race": Command(
        "yolo_musgd.edge.race:main",
        "the fastest of several artifacts, runtimes and threads on this machine that keeps its accuracy (no torch)",
        options="yolo_musgd.edge.race:RACE_OPTIONS",
        group=BOARD,
        examples=(
            "race model=[best.onnx,best_ncnn_model] labels=runs/export/exp/val.json",
            "race model=models threads=[1,2,4]",
        ),
        page="which-runtime.md",
    ),
    "val": Command(
        "yolo_musgd.edge.evaluate:main",
        "mAP50-95 of an exported model against YOLO labels on this machine (no torch)",
        options="yolo_musgd.edge.evaluate:VAL_OPTIONS",
        group=BOARD,
        examples=(
            "val model=best.onnx source=runs/export/exp/val.json",
            "val predictions=hailo.json label=Hailo-8L latency_ms=11.6 source=runs/export/exp/val.json",
        ),
        page="tutorials/bench.md",
    ),
    "idle": Command(
        "yolo_musgd.edge.idle:main",
        "watts and temperatures of this machine doing nothing",
        options="yolo_musgd.edge.idle:IDLE_OPTIONS",
        group=BOARD,
        examples=("idle", "idle seconds=60 power=auto"),
        page="tutorials/bench.md",
    ),
    "compare-bench": Command(
        "yolo_musgd.export.compare:main",
        "bench reports side by side: yolo-musgd compare-bench a.json b.json; table and picture",
        options="yolo_musgd.export.compare:OPTIONS",
        group=BOARD,
        examples=("compare-bench pi5.json nano.json", "compare-bench runs/bench/*/bench.json runs/val/val/val.json"),
        page="tutorials/bench.md",
        files="json",
    ),
}


class Argument(NamedTuple):
    """One argument of a command.

    Attributes:
        name: before the ``=``.
        default: value it has unless given; None is explained by ``help``, REQUIRED is none.
        help: one line.
        choices: words it takes, where they can be listed.
        kind: its type in Python, as an annotation; ``Words`` is text, a path, or a list or mapping of them.
    """

    name: str
    default: Any
    help: str
    choices: tuple[str, ...]
    kind: str


def load(path: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def arguments(name: str) -> list[Argument]:
    """The arguments of a command, in order."""
    command = COMMANDS[name]
    if command.settings is None:
        table = load(command.options or "").items()
        return [
            Argument(key, default, text, choices_of(parser), kind_of(parser)) for key, (default, parser, text) in table
        ]
    return [_argument(field) for field in dataclasses.fields(load(command.settings))]


def _argument(field: dataclasses.Field[Any]) -> Argument:
    """Of a setting; values that its text does not name are added to it."""
    meta = field.metadata
    choices: tuple[str, ...] = meta["choices"] or (("True", "False") if meta["kind"] is bool else ())
    unnamed = meta["choices"] and not all(word in meta["help"] for word in choices)
    text = meta["help"] + (f": {', '.join(choices)}" if unnamed else "")
    words = f"Literal[{', '.join(map(json.dumps, meta['choices']))}]" if meta["choices"] else "Words"
    kind = words if meta["kind"] is str else meta["kind"].__name__
    kind += " | None" if field.default is None and not meta["required"] else ""
    return Argument(field.name, REQUIRED if meta["required"] else field.default, text, choices, kind)


def parse_pairs(name: str, words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words of a command as a dictionary.

    Raises:
        UserError: a word without ``=``, or a key that the command does not know (with the nearest it does) or no longer
            has (with the one of today).
    """
    cls: type[Settings] = load(COMMANDS[name].settings or "")
    for word in words:
        key = word.partition("=")[0].lstrip("-")
        if key in cls.renamed:
            raise SettingsError(f"{key}= is now {cls.renamed[key]}=; see: yolo-musgd help {name}")
    return pairs(words, cls.names(), f"yolo-musgd {name}", see=f"yolo-musgd help {name}", last_wins=True, mark="")


def run(name: str, words: Sequence[str]) -> Result | int:
    """Run a command with its words; a mistake in them, or a file that is nowhere, is found before torch is loaded.

    Returns:
        what it found, or for the commands that only print their exit code.

    Raises:
        UserError: bad input.
    """
    command = COMMANDS[name]
    given: Mapping[str, str] | list[str] = list(words)
    if command.settings is not None:
        given = parse_pairs(name, words)
        load(command.settings).read(given).check_files()
    found: Result | int = load(command.main)(given)
    return found


__all__ = ["COMMANDS", "REQUIRED", "Argument", "Command", "Required", "arguments", "load", "parse_pairs", "run"]
