"""The command line of edge.pyz: ``python3 edge.pyz <command> [model] key=value ...``."""

import importlib
import io
import os
import sys
from typing import List, Optional

from . import __version__
from .errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, UserError
from .interrupts import terminated_as_interrupted

COMMANDS = {  # command -> (module, function, what it does)
    "bench": ("bench", "main", "FPS, latency percentiles, watts and joules per frame; writes bench.json, .md, .png"),
    "detect": ("detect", "main", "boxes on images, a video or a camera; writes pictures and detections.json"),
    "serve": ("serve", "main", "a page with the camera's picture, boxes, FPS, watts and heat; JSON and Prometheus too"),
    "race": ("race", "main", "the fastest of several artifacts, runtimes and threads here that keeps its accuracy"),
    "val": ("evaluate", "main", "mAP50-95 against YOLO labels on this hardware; writes val.json"),
    "idle": ("idle", "main", "watts and temperatures of the board doing nothing"),
    "doctor": ("doctor", "main", "what is here: board, runtimes, sensors, and what to install"),
}


def usage() -> str:
    """Return the list of commands."""
    lines = ["edge {}: small YOLO detectors on a board".format(__version__), ""]
    lines += ["  {:<8} {}".format(name, row[2]) for name, row in COMMANDS.items()]
    lines += ["  {:<8} {}".format("help", "this list, or the options of a command: help bench"), ""]
    lines.append("example: python3 edge.pyz bench model.onnx source=samples power=auto")
    return "\n".join(lines)


def help_text(args: List[str]) -> str:
    """Return the usage, or the options of the command in ``args[0]``."""
    if not args or args[0] not in COMMANDS:
        return usage()
    from .options import describe

    module = importlib.import_module("." + COMMANDS[args[0]][0], __package__)
    table = getattr(module, args[0].upper() + "_OPTIONS")
    return "{}: {}\n\n{}".format(args[0], COMMANDS[args[0]][2], describe(table))


def main(args: Optional[List[str]] = None) -> int:
    """Run one command; returns 0 done, 2 bad input (one line on stderr says what), 130 interrupted."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("help", "-h", "--help"):
        print(help_text(words[1:]))
        return EXIT_DONE
    if words[0] in ("version", "--version"):
        print(__version__)
        return EXIT_DONE
    if hasattr(sys.stdout, "reconfigure"):  # Python 3.7; file names need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, sys.stdout.encoding, "backslashreplace", line_buffering=True)
    try:
        if words[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(words[0], list(COMMANDS), 1)
            hint = "did you mean {}?".format(near[0]) if near else "commands: {}".format(", ".join(COMMANDS))
            raise UserError("unknown command {!r}; {}".format(words[0], hint))
        module, function, _ = COMMANDS[words[0]]
        run = getattr(importlib.import_module("." + module, __package__), function)
        with terminated_as_interrupted():
            found = run(words[1:])
        return int(found if isinstance(found, int) else found.show())
    except UserError as error:
        print("edge: {}".format(error), file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:  # a file that may not be read, a card that fails
        if error.filename is None:
            raise
        print("edge: cannot use {}: {}".format(error.filename, error.strerror), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("edge: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
