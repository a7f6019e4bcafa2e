"""The command ``yolo-musgd <command> key=value``; training itself is Ultralytics' ``yolo train optimizer=MuSGD``."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence

from yolo_musgd import __version__
from yolo_musgd.commands import COMMANDS, arguments, run
from yolo_musgd.completion import script
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.interrupts import terminated_as_interrupted
from yolo_musgd.edge.options import help_table, nearest
from yolo_musgd.resources import FIRST_COMMAND


def usage() -> str:
    """The text of ``yolo-musgd help``."""
    width = max(map(len, COMMANDS))
    lines = [
        f"yolo-musgd {__version__}: better optimizers for small YOLO models, and a pipeline to the edge board.",
        "",
        "Train with Ultralytics' own command; the plugin is active once installed:",
        f"  {FIRST_COMMAND}",
        "",
        "Everything after training (arguments are key=value, as Ultralytics has them):",
    ]
    for group in dict.fromkeys(c.group for c in COMMANDS.values()):
        lines += ["", group]
        lines += [f"  {name.ljust(width)}   {c.summary}" for name, c in COMMANDS.items() if c.group == group]
    return "\n".join(
        [
            *lines,
            "",
            "  yolo-musgd help COMMAND          its arguments, with examples",
            "  yolo-musgd completion SHELL      completion of commands and arguments: bash, zsh or fish",
            "  yolo-musgd --version",
        ]
    )


def help_of(name: str) -> str:
    """The text of ``yolo-musgd help <name>``."""
    command = COMMANDS[name]
    rows = [(a.name, a.default, a.help) for a in arguments(name)]
    parts = [f"yolo-musgd {name}: {command.summary}"]
    parts += ["", help_table(rows)] if rows else []
    parts += ["", "examples:", *(f"  yolo-musgd {example}" for example in command.examples)]
    return "\n".join([*parts, "", f"more: docs/{command.page}"])


COMPLETION = """yolo-musgd completion SHELL: completion of commands, arguments and their values

  bash   yolo-musgd completion bash > ~/.local/share/bash-completion/completions/yolo-musgd
  zsh    source <(yolo-musgd completion zsh)      at the end of ~/.zshrc
  fish   yolo-musgd completion fish > ~/.config/fish/completions/yolo-musgd.fish

For this terminal only: source <(yolo-musgd completion bash), or in fish: yolo-musgd completion fish | source"""


_HOSTS = ("train", "predict", "track")  # modes that people look for here; export and val are ours and theirs


def _unknown(name: str) -> UserError:
    guess = nearest(name, [*COMMANDS, "help", "version", "completion", *_HOSTS])
    if guess in _HOSTS:
        more = " optimizer=MuSGD" if guess == "train" else ""
        return UserError(f"unknown command {name!r}; that is Ultralytics' own command: yolo {guess}{more} ...")
    return UserError(f"unknown command {name!r}; " + (f"did you mean {guess}?" if guess else "see: yolo-musgd help"))


_OF_THE_PATH = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)  # another one mends it


def exit_code(work: Callable[[], int], name: str = "yolo-musgd") -> int:
    """What ``work`` returns; 2 for bad input and 130 for Ctrl-C, with one line in place of a traceback.

    SIGTERM counts as Ctrl-C, so that a service manager's or a scheduler's stop leaves no half-written folder either.
    """
    try:
        with terminated_as_interrupted():
            code = work()
        print(end="", flush=True)  # here, where a closed pipe can be told from a fault
        return code
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # | head: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains while it ends
        return 141  # as a program that SIGPIPE ended
    except OSError as error:
        known = isinstance(error, (PermissionError, NotADirectoryError, shutil.Error))  # the last: a copy that failed
        if not known and error.errno not in _OF_THE_PATH:
            raise  # nothing that the user can put right
        print(f"{name}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _dispatch(words: Sequence[str]) -> int:
    name = words[0].lstrip("-") if words else "help"
    if name in ("version", "v", "V"):
        print(__version__)
        return 0
    if name in ("help", "h"):
        topic = words[1] if len(words) > 1 and words[1] != "help" else ""
        if topic == "completion":
            print(COMPLETION)
            return 0
        if topic and topic not in COMMANDS:
            raise _unknown(topic)
        print(help_of(topic) if topic else usage())
        return 0
    if name == "completion":
        print(COMPLETION if {"-h", "--help", "help"} & set(words[1:]) else script(words[1:]))
        return 0
    if name not in COMMANDS:
        raise _unknown(name)
    if any(w in ("-h", "--help", "help") for w in words[1:]):
        print(help_of(name))
        return 0
    found = run(name, words[1:])
    return found if isinstance(found, int) else found.show()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 done, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    return exit_code(lambda: _dispatch(words))


if __name__ == "__main__":
    sys.exit(main())
