"""What every power sensor is, and how files and programs are read without surprises.

All file paths are below ``root`` (``/`` on a board), so that tests can put a recorded tree in its place.
"""

import math
import os
import subprocess
from typing import Dict, Iterable, List, NamedTuple, Optional

from ..errors import SensorError


class Reading(NamedTuple):
    """One sample: watts in all, watts by rail, a running energy counter.

    ``watts`` is None for an energy counter's first sample, and where the total does not follow from the rails.
    """

    watts: Optional[float]
    rails: Dict[str, float]
    joules: Optional[float]  # only from sensors that count energy


def under(root: str, path: str) -> str:
    """Return the absolute ``path`` moved below ``root``."""
    return os.path.join(root, path.lstrip("/"))


def named(label: str, taken: Iterable[str]) -> str:
    """Return the label, or with a number behind it where another chip says the same."""
    name, count = label, 1
    while name in taken:
        count += 1
        name = "{} #{}".format(label, count)
    return name


def read_text(path: str) -> str:
    """Read a small sysfs file.

    Raises:
        SensorError: It is gone, or may not be read; the text names the file, its group and the way out.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except PermissionError:
        raise SensorError("cannot read {}: permission denied; {}".format(path, _rights(path)))
    except OSError as error:
        raise SensorError("cannot read {}: {}".format(path, error.strerror or error))


def _rights(path: str) -> str:
    try:
        import grp

        entry = os.stat(path)
        name = grp.getgrgid(entry.st_gid).gr_name
        if entry.st_mode & 0o040 and name != "root":
            return "add yourself to its group: sudo usermod -aG {} $USER, then log in again".format(name)
    except (OSError, KeyError, ImportError):
        pass
    return "it belongs to root: run with sudo, or sudo chmod a+r {}".format(path)


def read_number(path: str) -> float:
    """Read a number from a sysfs file; SensorError when it is none."""
    text = read_text(path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SensorError("{} holds {!r}, not a number".format(path, text[:40]))
    return value


def run_tool(words: List[str], timeout: float = 5.0) -> str:
    """Run a small program and return its output.

    Raises:
        SensorError: Not installed, no rights, failed or hung.
    """
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            universal_newlines=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise SensorError("{} is not installed".format(words[0]))
    except PermissionError:
        raise SensorError("{} may not be run: permission denied".format(words[0]))
    except (subprocess.TimeoutExpired, OSError) as error:
        raise SensorError("{} failed: {}".format(" ".join(words), type(error).__name__))
    if done.returncode != 0:
        hint = "; add yourself to the group video: sudo usermod -aG video $USER" if "VCHI" in done.stdout else ""
        raise SensorError("{} failed: {}{}".format(" ".join(words), done.stdout.strip()[:120] or done.returncode, hint))
    return done.stdout


class Sensor:
    """Base of all sensors: ``name`` (as in power=name), ``source``, ``uncertainty``, ``scope``, sampling ``period``."""

    name = ""
    uncertainty = ""
    scope = "whole board"
    period = 0.1  # seconds between samples

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.source = ""

    def read(self) -> Reading:
        """Take one sample; SensorError when the sensor is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop what the sensor started."""
