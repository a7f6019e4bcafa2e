"""The three ways in which a command can end early, each with its exit code."""

import re

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class UserError(ValueError):
    """Bad input or a missing piece: one line for the user that says what, why and how to fix it (exit code 2)."""

    def __str__(self) -> str:
        return _BREAKS.sub(" ", ValueError.__str__(self))  # what others named may hold line breaks


class SensorError(UserError):
    """A power sensor that is absent, unreadable or gone; `auto` then tries the next one."""


class RuntimeMissing(UserError):  # noqa: N818 - it reads as what happened
    """The inference runtime that was asked for is not installed; the text names the package."""


EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def first_line(error: BaseException) -> str:
    """Return an error's first non-empty line, shortened, for a one-line message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__
