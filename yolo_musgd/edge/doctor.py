"""The ``doctor`` command: what this board has, what is missing, and the line that installs it."""

from typing import List

from . import __version__, options
from .bench import root
from .errors import EXIT_DONE
from .pictures import library
from .power import sampler, system
from .runtimes import open

DOCTOR_OPTIONS: options.Spec = {"power": ("auto", options.text, "the sensor to look for")}


def main(args: List[str]) -> int:
    """Print board, image libraries, runtimes, sensor and state; nothing is changed or written."""
    chosen = options.parse_args(args, DOCTOR_OPTIONS, "doctor", None)
    board = system.identity(root())
    print("edge {}".format(__version__))
    for key in ("board", "machine", "os", "kernel", "l4t", "python", "numpy", "cpu_cores", "memory_mb"):
        print("  {:<12} {}".format(key, board[key] if board[key] is not None else "-"))
    print("images: {}".format(library.backend() or "no library; install one: " + library.INSTALL))
    print("runtimes:")
    for name, there, words in open.installed():
        print("  {} {:<12} {}".format("yes" if there else "no ", name, words))
    choice = sampler.choose(chosen.power, root())
    print(
        "power sensor: {}".format(
            "{} ({})".format(choice.sensor.name, choice.sensor.source) if choice.sensor else "none"
        )
    )
    for name, reason in choice.tried.items():
        print("  {:<12} {}".format(name, reason))
    if choice.sensor is not None:
        choice.sensor.close()
    state = system.state(root())
    throttling = state["throttling"]
    print("state:")
    print(
        "  {:<12} {}".format(
            "temperature", ", ".join("{} {:.1f} C".format(*t) for t in state["temperatures_c"].items()) or "-"
        )
    )
    print("  {:<12} {}, nvpmodel {}".format("governor", state["governor"] or "-", state["nvpmodel"] or "-"))
    print(
        "  {:<12} {}".format(
            "throttling",
            "now: {}; since boot: {}".format(
                ", ".join(throttling["now"]) or "no", ", ".join(throttling["since_boot"]) or "no"
            )
            if throttling["source"]
            else "this board does not say",
        )
    )
    return EXIT_DONE
