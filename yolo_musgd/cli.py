"""The command ``yolo-musgd <command> key=value``; training itself is Ultralytics' ``yolo train optimizer=MuSGD``."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from yolo_musgd import __version__
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import describe, nearest, pairs


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        main: ``module:function`` that takes the key=value pairs (a list of words if ``settings`` is None) and returns
            the exit code; imported when it is run.
        summary: one line for the overview.
        settings: ``module:class`` of its arguments, None for a command that reads its words itself.
        words: put before the user's words, for a module that holds several commands.
        options: ``module:table`` of the options of a command without settings, for its help.
    """

    main: str
    summary: str
    settings: str | None = None
    words: tuple[str, ...] = ()
    options: str | None = None


COMMANDS: dict[str, Command] = {
    "doctor": Command(
        "yolo_musgd.doctor:main",
        "what is installed, whether the plugin is active, what is incompatible",
        "yolo_musgd.settings:Settings",
    ),
    "optimizers": Command(
        "yolo_musgd.optim.registry:main",
        "every optimizer by name, with its memory, learning rate and source",
        "yolo_musgd.settings:Settings",
    ),
    "steptime": Command(
        "yolo_musgd.lab.steptime:main",
        "time and memory of optimizer.step() side by side; plan=True shows how Muon's matrices are batched",
        "yolo_musgd.lab.settings:StepTimeSettings",
    ),
    "demo": Command(
        "yolo_musgd.lab.demo:main",
        "two demonstrations of the source articles: Newton-Schulz against SVD, SGD against a Muon hybrid",
        "yolo_musgd.lab.settings:DemoSettings",
    ),
    "pipeline": Command(
        "yolo_musgd.pipeline.command:main",
        "from data to board: train, prune, fine-tune, quantize, check, bundle, with a report; goes on where it stopped",
        "yolo_musgd.pipeline.settings:PipelineSettings",
    ),
    "prune": Command(
        "yolo_musgd.prune.command:main",
        "fewer channels, then fine-tuning: a smaller, faster checkpoint that loads anywhere",
        "yolo_musgd.prune.settings:PruneSettings",
    ),
    "compare": Command(
        "yolo_musgd.lab.command:main",
        "which optimizer converges faster: data sets x starts x optimizers x seeds, with a report",
        "yolo_musgd.lab.settings:CompareSettings",
    ),
    "export": Command(
        "yolo_musgd.export.command:main",
        "a checkpoint for a board: ONNX, OpenVINO, NCNN; INT8 with its accuracy guarded; one folder with its evidence",
        "yolo_musgd.export.settings:ExportSettings",
    ),
    "bench": Command(
        "yolo_musgd.edge.__main__:main",
        "FPS, latency percentiles, watts and joules per frame of a model on this machine",
        words=("bench",),
        options="yolo_musgd.edge.bench:BENCH_OPTIONS",
    ),
    "detect": Command(
        "yolo_musgd.edge.__main__:main",
        "boxes on images, a video or a camera, as the board computes them (no torch)",
        words=("detect",),
        options="yolo_musgd.edge.detect:DETECT_OPTIONS",
    ),
    "val": Command(
        "yolo_musgd.edge.__main__:main",
        "mAP50-95 of an exported model against YOLO labels on this machine (no torch)",
        words=("val",),
        options="yolo_musgd.edge.evaluate:VAL_OPTIONS",
    ),
    "idle": Command(
        "yolo_musgd.edge.__main__:main",
        "watts and temperatures of this machine doing nothing",
        words=("idle",),
        options="yolo_musgd.edge.idle:IDLE_OPTIONS",
    ),
    "bundle": Command(
        "yolo_musgd.export.bundle:main",
        "a folder or archive to copy to a board: model, edge.pyz, requirements, run.sh, walkthrough",
        options="yolo_musgd.export.bundle:OPTIONS",
    ),
    "quantize-ncnn": Command(
        "yolo_musgd.export.ncnn:main",
        "INT8 for a folder that yolo export format=ncnn made, for Raspberry Pis and phones",
        "yolo_musgd.export.settings:NcnnSettings",
    ),
    "compare-bench": Command(
        "yolo_musgd.export.compare:main",
        "bench reports side by side: yolo-musgd compare-bench a.json b.json; table and picture",
        options="yolo_musgd.export.compare:OPTIONS",
    ),
}


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def usage() -> str:
    """The text of ``yolo-musgd help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  yolo-musgd {name.ljust(width)}   {c.summary}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            f"yolo-musgd {__version__}: better optimizers for small YOLO models, and a pipeline to the edge board.",
            "",
            "Train with Ultralytics' own command; the plugin is active once installed:",
            "  yolo train optimizer=MuSGD model=yolo26n.yaml data=shapes.yaml imgsz=128 epochs=30",
            "",
            "Everything after training (arguments are key=value, as Ultralytics has them):",
            *lines,
            "  yolo-musgd help COMMAND",
        ]
    )


def help_of(name: str) -> str:
    """The text of ``yolo-musgd help <name>``."""
    command = COMMANDS[name]
    lines = [f"yolo-musgd {name}: {command.summary}"]
    if command.settings is None:
        return f"{lines[0]}\n{describe(_load(command.options or ''))}"
    fields = dataclasses.fields(_load(command.settings))
    width = max((len(f.name) for f in fields), default=0)
    return "\n".join([*lines, *(f"  {(f.name + '=').ljust(width + 1)} {_help_of(f)}" for f in fields)])


def _help_of(field: dataclasses.Field[Any]) -> str:
    """What a setting means, the values it takes where the text does not name them all, and its default."""
    text, choices = field.metadata["help"], field.metadata["choices"] or ()
    unnamed = "" if all(word in text for word in choices) else f": {', '.join(choices)}"
    return f"{text}{unnamed} (default {field.default!r})"


def parse_pairs(name: str, words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words of a command as a dictionary.

    Raises:
        UserError: a word without ``=``, or a key that the command does not know (with the nearest it does).
    """
    known = _load(COMMANDS[name].settings or "").names()
    return pairs(words, known, f"yolo-musgd {name}", see=f"yolo-musgd help {name}", last_wins=True, mark="")


_HOSTS = ("train", "predict", "track")  # modes that people look for here; export and val are ours and theirs


def _unknown(name: str) -> UserError:
    guess = nearest(name, [*COMMANDS, "help", "version", *_HOSTS])
    if guess in _HOSTS:
        more = " optimizer=MuSGD" if guess == "train" else ""
        return UserError(f"unknown command {name!r}; that is Ultralytics' own command: yolo {guess}{more} ...")
    return UserError(f"unknown command {name!r}; " + (f"did you mean {guess}?" if guess else "see: yolo-musgd help"))


def _run(name: str, words: Sequence[str]) -> int:
    command = COMMANDS[name]
    arguments = [*command.words, *words] if command.settings is None else parse_pairs(name, words)
    return int(_load(command.main)(arguments))


_OF_THE_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)  # another one mends it


def _on_terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def exit_code(work: Callable[[], int], name: str = "yolo-musgd") -> int:
    """What ``work`` returns; 2 for bad input and 130 for Ctrl-C, with one line in place of a traceback.

    SIGTERM counts as Ctrl-C, so that a service manager's or a scheduler's stop leaves no half-written folder either.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may set handlers
    previous = signal.signal(signal.SIGTERM, _on_terminate) if in_main_thread else None
    try:
        code = work()
        sys.stdout.flush()  # here, where a closed pipe can be told from a fault
        return code
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # | head: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains while it ends
        return 141  # as a program that SIGPIPE ended
    except OSError as error:
        if not isinstance(error, (PermissionError, NotADirectoryError)) and error.errno not in _OF_THE_PATH:
            raise  # nothing that the user can put right
        print(f"{name}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _dispatch(words: Sequence[str]) -> int:
    name = words[0].lstrip("-") if words else "help"
    if name in ("version", "V"):
        print(__version__)
        return 0
    if name in ("help", "h"):
        topic = words[1] if len(words) > 1 and words[1] != "help" else ""
        if topic and topic not in COMMANDS:
            raise _unknown(topic)
        print(help_of(topic) if topic else usage())
        return 0
    if name not in COMMANDS:
        raise _unknown(name)
    if any(w in ("-h", "--help", "help") for w in words[1:]):
        print(help_of(name))
        return 0
    return _run(name, words[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 done, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _dispatch(words))


if __name__ == "__main__":
    sys.exit(main())
