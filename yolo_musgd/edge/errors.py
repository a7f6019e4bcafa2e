"""The three ways in which a command can end early, each with its exit code."""


class EdgeError(Exception):
    """Bad input or a missing piece: one line for the user that says what, why and how to fix it (exit code 2)."""


class SensorError(EdgeError):
    """A power sensor that is absent, unreadable or gone; `auto` then tries the next one."""


class RuntimeMissing(EdgeError):  # noqa: N818 - it reads as what happened
    """The inference runtime that was asked for is not installed; the text names the package."""


EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
