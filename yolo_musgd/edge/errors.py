"""The three ways in which a command can end early, each with its exit code."""


class UserError(ValueError):
    """Bad input or a missing piece: one line for the user that says what, why and how to fix it (exit code 2)."""


class SensorError(UserError):
    """A power sensor that is absent, unreadable or gone; `auto` then tries the next one."""


class RuntimeMissing(UserError):  # noqa: N818 - it reads as what happened
    """The inference runtime that was asked for is not installed; the text names the package."""


EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def first_line(error: Exception) -> str:
    """Return an error's first non-empty line, shortened, for a one-line message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__
