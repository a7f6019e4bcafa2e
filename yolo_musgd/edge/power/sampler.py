"""Chooses a power sensor, samples it beside the work, and turns the samples into watts and joules per frame."""

import math
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ..errors import SensorError, UserError
from ..files import read_bytes
from ..stats import counter_joules, energy_joules, summarize
from . import parsers, rapl, sensors
from .base import Reading, Sensor

# name -> the classes that answer to it, in the order that power=auto tries them
ORDER: Tuple[Tuple[str, Tuple[Callable[[str], Sensor], ...]], ...] = (
    ("ina3221", (sensors.Ina3221Jetpack4, sensors.Ina3221Hwmon)),
    ("tegrastats", (sensors.Tegrastats,)),
    ("pmic", (sensors.RaspberryPi5,)),
    ("hwmon", (sensors.HwmonIna,)),
    ("rapl", (rapl.Rapl,)),
    ("nvml", (sensors.Nvml,)),
)
NAMES = tuple(name for name, _ in ORDER)
HIGHEST_WATTS = 1e5  # above it a reading is noise


class SensorChoice(NamedTuple):
    """The sensor that was found, or None with the reason why each candidate is not usable."""

    sensor: Optional[Sensor]
    tried: Dict[str, str]
    csv: Optional[str]  # path of an external meter's log, read after the run


def choose(power: str, root: str = "/") -> SensorChoice:
    """Find the sensor for ``power``: auto, none, csv:FILE, one of NAMES, or hwmon:A+B, whose total is the sum of rails.

    Raises:
        UserError: An unknown name, or a sensor that was asked for by name and cannot be used. ``auto`` never raises:
            without a sensor the report says so.
    """
    if power.startswith("csv:"):
        return SensorChoice(None, {}, power[4:])
    if power == "none":
        return SensorChoice(None, {"none": "switched off by power=none"}, None)
    power, colon, named = power.partition(":") if power.startswith("hwmon:") else (power, "", "")
    if power != "auto" and power not in NAMES:
        raise UserError("power={}: must be auto, none, csv:FILE or one of {}".format(power, ", ".join(NAMES)))
    tried: Dict[str, str] = {}
    for name, classes in ORDER:
        if power not in ("auto", name):
            continue
        for sensor_class in classes:
            try:
                sensor = sensor_class(root)
                if colon and isinstance(sensor, sensors.HwmonIna):
                    sensor.add_up(named.split("+"))
                return SensorChoice(sensor, tried, None)
            except SensorError as error:
                tried[name] = "{}; {}".format(tried[name], error) if name in tried else str(error)
    if power != "auto":
        raise UserError("power={}: {}".format(power, tried[power]))
    return SensorChoice(None, tried, None)


def checked(reading: Reading) -> Reading:
    """Return ``reading`` without the rails that are no numbers.

    Raises:
        SensorError: Its total is no number or negative: noise, or a sensor that is not understood.
    """
    if reading.watts is not None and not 0 <= reading.watts <= HIGHEST_WATTS:
        raise SensorError("the sensor gave {} W".format(reading.watts))
    if reading.joules is not None and not math.isfinite(reading.joules):
        raise SensorError("the sensor gave {} J".format(reading.joules))
    return reading._replace(rails={name: watts for name, watts in reading.rails.items() if math.isfinite(watts)})


class Sampler:
    """Reads a sensor in a thread of its own until stopped; a sensor that disappears ends the sampling, not the run.

    Sample times are time.perf_counter seconds, each the middle of its reading; the last ``keep`` are kept.
    """

    def __init__(self, sensor: Optional[Sensor], keep: Optional[int] = None) -> None:
        self.sensor = sensor
        self.times: Deque[float] = deque(maxlen=keep)
        self.watts: Deque[float] = deque(maxlen=keep)
        self.joules: Deque[float] = deque(maxlen=keep)
        self.joule_times: Deque[float] = deque(maxlen=keep)
        self.parts: Deque[Tuple[float, Dict[str, float]]] = deque(maxlen=keep)  # time and watts by rail
        self.lost: Optional[str] = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> "Sampler":
        """Begin sampling; does nothing without a sensor."""
        if self.sensor is not None:
            self._thread.start()
        return self

    def _follow(self) -> None:
        assert self.sensor is not None
        failures = 0
        while not self._stop.is_set():
            begin = time.perf_counter()
            try:
                reading = checked(self.sensor.read())
                failures = 0
            except SensorError as error:
                failures += 1
                if failures >= 3:  # one bad line is noise, three in a row are a lost sensor
                    self.lost = str(error)
                    return
            else:
                moment = (begin + time.perf_counter()) / 2
                if reading.watts is not None:
                    self.times.append(moment)
                    self.watts.append(reading.watts)
                if reading.rails:
                    self.parts.append((moment, reading.rails))
                if reading.joules is not None:
                    self.joule_times.append(moment)
                    self.joules.append(reading.joules)
            self._stop.wait(max(0.0, self.sensor.period - (time.perf_counter() - begin)))

    def stop(self) -> None:
        """End the sampling and wait for the thread; safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def take_csv(self, path: str, offset: float = 0.0) -> None:
        """Fill the samples from an external meter's log, whose clock is ``offset`` seconds ahead of this machine's.

        Raises:
            SensorError: The file cannot be read, or has too few usable rows.
        """
        try:
            text = read_bytes(path).decode("utf-8", "replace")
        except UserError as error:
            raise SensorError(str(error))
        rows = parsers.parse_meter_csv(text, path)
        shift = time.perf_counter() - time.time() - offset
        self.times = deque(moment + shift for moment, _ in rows)
        self.watts = deque(watts for _, watts in rows)


def window(sampler: Sampler, start: float, end: float) -> Dict[str, Any]:
    """Summarize a span of sampled power.

    Args:
        sampler: A stopped or running sampler.
        start: perf_counter seconds.
        end: perf_counter seconds.

    Returns:
        ``samples``, ``rate_hz``, ``energy_j`` (the counter's where there is one, else trapezoids), ``mean_w`` =
        energy / time, ``watts`` (summary), ``rails_w`` (means). Energy is None without a sample in the span, when the
        sensor was lost in it, or when only rails are known and not their total.
    """
    times = np.array(sampler.times)
    inside = (times >= start) & (times <= end)
    count = int(inside.sum())
    parts = [rails for moment, rails in sampler.parts if start <= moment <= end]
    known = set.intersection(*map(set, parts)) if parts else set()
    samples = max(count, len(parts))
    reaches = bool(count) and times[-1] >= end - max(1.0, 0.05 * (end - start)) and times[0] <= start + 1.0
    energy = counter_joules(sampler.joule_times, sampler.joules, start, end)
    if energy is None and reaches:
        energy = energy_joules(sampler.times, sampler.watts, start, end)
    return {
        "samples": samples,
        "rate_hz": samples / (end - start) if end > start and samples else None,
        "energy_j": energy,
        "mean_w": energy / (end - start) if energy is not None else None,
        "watts": summarize(np.array(sampler.watts)[inside]) if count else None,
        "rails_w": {rail: float(np.mean([rails[rail] for rails in parts])) for rail in sorted(known)},
    }


def per_frame(energy_j: Optional[float], seconds: float, frames: int, idle_w: Optional[float]) -> Dict[str, Any]:
    """Joules per frame: gross = energy / frames; net takes idle power times the span away first; None if unmeasured."""
    gross = energy_j / frames if energy_j is not None and frames else None
    net = None
    if energy_j is not None and idle_w is not None and frames:
        net = (energy_j - idle_w * seconds) / frames
    return {"gross_j_per_frame": gross, "net_j_per_frame": net}


def describe(choice: SensorChoice) -> Dict[str, Any]:
    """Return what the report says about the sensor."""
    if choice.csv is not None:
        return {
            "sensor": "csv",
            "source": choice.csv,
            "scope": "what the external meter sees",
            "uncertainty": "the meter's own, and the difference of the two clocks",
            "tried": {},
        }
    if choice.sensor is None:
        return {"sensor": None, "source": None, "scope": None, "uncertainty": None, "tried": choice.tried}
    sensor = choice.sensor
    return {
        "sensor": sensor.name,
        "source": sensor.source,
        "scope": sensor.scope,
        "uncertainty": sensor.uncertainty,
        "tried": choice.tried,
    }


def wall_estimate(choice: SensorChoice, watts: Optional[float]) -> Optional[float]:
    """For a Raspberry Pi 5 only: the published fit of wall power to the PMIC's sum, an estimate; else None."""
    if watts is None or not isinstance(choice.sensor, sensors.RaspberryPi5):
        return None
    slope, constant = sensors.RaspberryPi5.WALL
    return slope * watts + constant
