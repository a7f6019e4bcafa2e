"""Reads what boards print: tegrastats, vcgencmd, meters' CSV. Pure functions; bad input gives None, not nonsense."""

import csv
import math
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import SensorError

# NAME now/average[/peak], each in milliwatts with or without the unit; memory fields (MB, kB) have the same form
_RAIL = re.compile(r"(?:^|\s)([A-Z][A-Z0-9_]*) (-?\d{1,7})(?:mW)?/(-?\d{1,7})(?:mW)?(?:/(-?\d{1,7})(?:mW)?)?(?=\s|$)")
_TEMPERATURE = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_]*)@(-?\d{1,4}(?:\.\d+)?)C(?=[\s/]|$)")
_GPU = re.compile(r"GR3D_FREQ (?:(\d{1,3})%)?(?:@\[?(\d{1,6}))?")  # a Thor gives its clocks alone
_CPU_CORE = re.compile(r"(\d{1,3})%@(\d{1,6})")
_PMIC = re.compile(r"^\s*(\w+?)_([AV]) (?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)([AV])\s*$")
_MEMORY = ("RAM", "SWAP", "IRAM")  # look like rails when the line is cut before their unit
_NO_RAIL = (*_MEMORY, "NC")  # a channel with nothing on it


class Tegra(NamedTuple):
    """One tegrastats line: watts by rail, degrees Celsius by sensor, GPU load (%) and clock (MHz), CPU clocks (MHz)."""

    rails: Dict[str, float]
    temperatures: Dict[str, float]
    gpu_percent: Optional[int]
    gpu_mhz: Optional[int]
    cpu_mhz: List[int]


def parse_tegrastats(line: str) -> Tegra:
    """Parse one line of tegrastats from JetPack 4 to 7 (no unit or mW; two or three figures; any order of rails).

    The first figure of a rail is the present value; averages are dropped. Temperature sentinels (100C of the fixed PMIC
    sensor, -256C of a sleeping one) are dropped too.
    """
    found = [match for match in _RAIL.finditer(line) if match.group(1) not in _NO_RAIL]
    rails = {match.group(1): int(match.group(2)) / 1000.0 for match in found}
    temperatures = {}
    for match in _TEMPERATURE.finditer(line):
        if is_real_temperature(match.group(1), float(match.group(2))):
            temperatures[match.group(1)] = float(match.group(2))
    gpu = _GPU.search(line)
    cores = line[line.find("CPU [") : line.find("]", line.find("CPU ["))] if "CPU [" in line else ""
    return Tegra(
        rails,
        temperatures,
        int(gpu.group(1)) if gpu and gpu.group(1) else None,
        int(gpu.group(2)) if gpu and gpu.group(2) else None,
        [int(match.group(2)) for match in _CPU_CORE.finditer(cores)],
    )


def is_real_temperature(name: str, celsius: float) -> bool:
    """False for the constants that absent or sleeping sensors give."""
    if name.upper().startswith("PMIC") and celsius == 100.0:
        return False
    return -40.0 <= celsius <= 150.0


def parse_pmic(output: str) -> Dict[str, float]:
    """Parse ``vcgencmd pmic_read_adc`` of a Raspberry Pi 5 into watts by rail.

    A rail needs both its current and its voltage; EXT5V and BATT have a voltage only and give no watts.

    Raises:
        SensorError: Another board (the firmware answers with an error), or nothing usable in the output.
    """
    values: Dict[str, Dict[str, float]] = {}
    for line in output.splitlines():
        match = _PMIC.match(line)
        if match and match.group(2) == match.group(4):
            values.setdefault(match.group(1), {})[match.group(2)] = float(match.group(3))
    both = {name: pair["A"] * pair["V"] for name, pair in values.items() if "A" in pair and "V" in pair}
    rails = {name: watts for name, watts in both.items() if math.isfinite(watts)}
    if not rails:
        first = output.strip().splitlines()[:1]
        raise SensorError(
            "vcgencmd pmic_read_adc: no rails ({}); only a Raspberry Pi 5 has them".format(
                first[0][:80] if first else "empty output"
            )
        )
    return rails


THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def parse_throttled(output: str) -> Optional[Dict[str, Any]]:
    """Parse ``vcgencmd get_throttled`` (``throttled=0x50005``): flags now (bits 0-3) and since boot (bits 16-19)."""
    match = re.match(r"^throttled=0x([0-9a-fA-F]{1,8})\s*$", output.strip())
    if not match:
        return None
    value = int(match.group(1), 16)
    return {
        "raw": "0x{:x}".format(value),
        "now": [text for bit, text in THROTTLE_BITS.items() if value >> bit & 1],
        "since_boot": [text for bit, text in THROTTLE_BITS.items() if value >> (bit + 16) & 1],
    }


def parse_milliwatts(text: str) -> Optional[float]:
    """Parse a figure that may be ``[N/A]`` or ``[Not Supported]`` into a float; None when there is none."""
    try:
        value = float(text.strip().split()[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _column(header: List[str], names: Tuple[str, ...]) -> Optional[int]:
    cleaned = [re.sub(r"[^a-z]", "", name.lower()) for name in header]
    for name in names:
        if name in cleaned:
            return cleaned.index(name)
    return None


def parse_meter_csv(text: str, path: str) -> List[Tuple[float, float]]:
    """Parse an external meter's log into (seconds since the epoch, watts) by rising time.

    The header names the columns: time or timestamp (seconds since the epoch), and power or watts, or else voltage and
    current. Rows that are no numbers, or negative, are left out; a log in which most rows are is refused.

    Raises:
        SensorError: No such columns, or no usable rows.
    """
    try:
        rows = list(csv.reader(text.replace("\0", "").splitlines()))
    except csv.Error as error:  # a field of more than 128 kB, say
        raise SensorError("{}: no CSV: {}".format(path, error))
    if len(rows) < 2:
        raise SensorError("{}: empty".format(path))
    time_at = _column(rows[0], ("time", "timestamp", "times", "t", "epoch", "unixtime"))
    power_at = _column(rows[0], ("power", "powerw", "watts", "watt", "w"))
    volts_at = _column(rows[0], ("voltage", "voltagev", "volts", "v"))
    amps_at = _column(rows[0], ("current", "currenta", "amps", "a"))
    if time_at is None or (power_at is None and (volts_at is None or amps_at is None)):
        raise SensorError(
            "{}: needs the columns time and power_w (or voltage_v and current_a), has {}".format(
                path, ", ".join(rows[0])[:120]
            )
        )
    out = []
    for row in rows[1:]:
        try:
            if power_at is not None:
                watts = float(row[power_at])
            else:
                watts = float(row[volts_at or 0]) * float(row[amps_at or 0])
            moment = float(row[time_at])
        except (ValueError, IndexError):
            continue
        if math.isfinite(watts) and watts >= 0 and math.isfinite(moment):
            out.append((moment, watts))
    if len(out) < 2 or len(out) * 2 < len(rows) - 1:
        raise SensorError("{}: only {} of {} rows can be read".format(path, len(out), len(rows) - 1))
    return sorted(out)
