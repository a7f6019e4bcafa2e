"""Identity and state of the board: model, versions, temperatures, clocks, power mode, throttling, memory."""

import glob
import os
import platform
import re
import shutil
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple

import numpy as np

from ..errors import SensorError
from . import parsers
from .base import named, read_number, read_text, run_tool, under


def _text(root: str, path: str) -> Optional[str]:
    try:
        return read_text(under(root, path)).replace("\0", "").strip() or None
    except SensorError:
        return None


def _number(path: str) -> Optional[float]:
    try:
        return read_number(path)
    except SensorError:
        return None


def board_name(root: str = "/") -> Optional[str]:
    """Return the device tree's model, or the processor's name on a PC."""
    name = _text(root, "/proc/device-tree/model") or _text(root, "/sys/firmware/devicetree/base/model")
    if name:
        return name
    match = re.search(r"^model name\s*:\s*(.+)$", _text(root, "/proc/cpuinfo") or "", re.MULTILINE)
    return match.group(1) if match else None


def jetpack_release(root: str = "/") -> Optional[str]:
    """Return the Linux-for-Tegra release, such as ``R32.7.1``, from /etc/nv_tegra_release; None off Jetsons."""
    match = re.search(r"#\s*(R\d+)[^,]*,\s*REVISION:\s*([\d.]+)", _text(root, "/etc/nv_tegra_release") or "")
    return "{}.{}".format(match.group(1), match.group(2)) if match else None


def identity(root: str = "/") -> Dict[str, Any]:
    """Return board, OS, kernel, JetPack, Python, numpy, cores and memory; None for what is not known."""
    os_name = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root, "/etc/os-release") or "", re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text(root, "/proc/meminfo") or "", re.MULTILINE)
    return {
        "board": board_name(root),
        "machine": platform.machine(),
        "os": os_name.group(1) if os_name else None,
        "kernel": platform.release(),
        "l4t": jetpack_release(root),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_cores": os.cpu_count(),
        "memory_mb": int(memory.group(1)) // 1024 if memory else None,
    }


def temperatures(root: str = "/") -> Dict[str, float]:
    """Return degrees Celsius by thermal zone; constants of absent sensors are left out."""
    out: Dict[str, float] = {}
    for zone in sorted(glob.glob(under(root, "/sys/class/thermal/thermal_zone*"))):
        value = _number(os.path.join(zone, "temp"))
        name = _text("/", os.path.join(zone, "type")) or os.path.basename(zone)
        if value is not None and parsers.is_real_temperature(name, value / 1000.0):
            out[named(name, out)] = value / 1000.0
    return out


def clocks(root: str = "/") -> Dict[str, Optional[float]]:
    """Return MHz of the CPU cores' mean and of every devfreq device (the GPU of a Jetson is one)."""
    cores = [
        _number(path) for path in glob.glob(under(root, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    ]
    known = [value for value in cores if value is not None]
    out: Dict[str, Optional[float]] = {"cpu_mhz": float(np.mean(known)) / 1e3 if known else None}
    for path in sorted(glob.glob(under(root, "/sys/class/devfreq/*/cur_freq"))):
        value = _number(path)
        out[os.path.basename(os.path.dirname(path)) + "_mhz"] = value / 1e6 if value is not None else None
    return out


def power_mode() -> Optional[str]:
    """Return nvpmodel's mode (``MAXN``, ``5W``, ...); None where there is no nvpmodel or it may not be asked."""
    if shutil.which("nvpmodel") is None:
        return None
    try:
        match = re.search(r"NV Power Mode:\s*(\S+)", run_tool(["nvpmodel", "-q"]))
    except SensorError:
        return None
    return match.group(1) if match else None


def throttling(root: str = "/") -> Dict[str, Any]:
    """Return what the board says about throttling now and since boot.

    Returns:
        ``now``: reasons at this moment; ``since_boot``: reasons since boot (Raspberry Pi); ``counters``: event counts
        since boot (x86 package throttling, Jetson over-current events); ``source``: None where the board tells nothing.
    """
    out: Dict[str, Any] = {"now": [], "since_boot": [], "counters": {}, "source": None}
    if shutil.which("vcgencmd") is not None:
        try:
            flags = parsers.parse_throttled(run_tool(["vcgencmd", "get_throttled"]))
        except SensorError:
            flags = None
        if flags is not None:
            out.update(
                now=flags["now"], since_boot=flags["since_boot"], source="vcgencmd get_throttled " + flags["raw"]
            )
    for pattern in (
        "/sys/devices/system/cpu/cpu0/thermal_throttle/*_throttle_count",
        "/sys/class/hwmon/hwmon*/oc*_event_cnt",
    ):
        for path in sorted(glob.glob(under(root, pattern))):
            value = _number(path)
            if value is not None:
                out["counters"][os.path.basename(path)] = int(value)
                out["source"] = out["source"] or os.path.dirname(path)
    for folder in sorted(glob.glob(under(root, "/sys/class/thermal/cooling_device*"))):
        kind = _text("/", os.path.join(folder, "type")) or ""
        if "throttle" in kind:
            out["source"] = out["source"] or folder
            if (_number(os.path.join(folder, "cur_state")) or 0) > 0:
                out["now"].append(kind)
    return out


def state(root: str = "/") -> Dict[str, Any]:
    """Return temperatures, clocks, governor, power mode and throttling at this moment."""
    return {
        "temperatures_c": temperatures(root),
        "clocks": clocks(root),
        "governor": _text(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "nvpmodel": power_mode(),
        "throttling": throttling(root),
    }


def throttled_reasons(before: Dict[str, Any], during: List[str], after: Dict[str, Any]) -> List[str]:
    """Join what throttled in a run: seen while it ran or at its end, new since boot, or counted up."""
    reasons = set(during) | set(after["now"])
    reasons |= set(after["since_boot"]) - set(before["since_boot"])
    for name, count in after["counters"].items():
        if count > before["counters"].get(name, count):
            reasons.add("{} +{}".format(name, count - before["counters"][name]))
    return sorted(reasons)


def reset_peak_memory() -> bool:
    """Set the kernel's high-water mark of resident memory back, so that each run has its own; False if not allowed."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def memory_mb() -> Tuple[Optional[float], Optional[float]]:
    """Return (resident, peak resident) memory of this process in MiB; None off Linux."""
    text = _text("/", "/proc/self/status") or ""
    found = []
    for key in ("VmRSS", "VmHWM"):
        match = re.search(key + r":\s*(\d+) kB", text)
        found.append(int(match.group(1)) / 1024.0 if match else None)
    return found[0], found[1]


class Watcher:
    """Notes temperatures, clocks, memory and throttling once a second beside the work; the last ``keep`` times."""

    def __init__(self, root: str = "/", period: float = 1.0, keep: Optional[int] = None) -> None:
        self.root, self.period = root, period
        self.samples: Deque[Dict[str, Any]] = deque(maxlen=keep)
        self.reasons: List[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> "Watcher":
        """Begin."""
        self._thread.start()
        return self

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.note()
            self._stop.wait(self.period)

    def note(self) -> None:
        """Take one sample; ``t`` is perf_counter seconds."""
        told = throttling(self.root)
        now = told["now"]
        self.reasons += [reason for reason in now if reason not in self.reasons]
        self.samples.append(
            {
                "t": time.perf_counter(),
                "temperatures_c": temperatures(self.root),
                "clocks": clocks(self.root),
                "rss_mb": memory_mb()[0],
                "throttled": now,
                "throttling_known": told["source"] is not None,
            }
        )

    def stop(self) -> None:
        """End, with one last sample."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self.note()
