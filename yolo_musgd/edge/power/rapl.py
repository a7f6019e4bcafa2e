"""RAPL: the energy counters of x86 processors."""

import glob
import os
import time
from typing import List, Optional

from ..errors import SensorError
from .base import Reading, Sensor, read_number, read_text, under

MOST_W = 5e3  # of one counter; a step beyond it is a counter that was set back, as after a suspend


class Rapl(Sensor):
    """The energy counters of x86 processors: of the platform (psys), of packages, and of their parts.

    A package holds core and uncore; the memory (dram) stands beside it; psys holds all (kernel.org, "Power Capping
    Framework"; Intel's manual, volume 3, "RAPL Interfaces").
    """

    name = "rapl"
    uncertainty = "RAPL: the processor's own counter; the maker gives no error bound"

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        pattern = under(root, "/sys/class/powercap/intel-rapl:[0-9]*")
        folders = sorted(glob.glob(pattern))
        if not folders:
            raise SensorError("no RAPL counter ({})".format(pattern))
        self._zones: List[_Zone] = []
        for folder in folders:
            try:
                self._zones.append(_Zone(folder))
            except SensorError:
                if os.path.basename(folder).count(":") == 1:  # a part that cannot be read is only not shown
                    raise
        self._total = [zone for zone in self._zones if zone.domain == "psys" and zone.last > 0]
        self.scope = "the platform as the processor counts it (psys)"
        if not self._total:
            self._total = [zone for zone in self._zones if zone.domain in ("package", "dram")]
            memory = any(zone.domain == "dram" for zone in self._total)
            self.scope = "CPU packages{}; no disks, fans or power supply".format(
                " and memory" if memory else " only; no memory modules"
            )
        if not self._total:
            raise SensorError("no RAPL counter of a package among {}".format(", ".join(folders)))
        self.source = os.path.dirname(self._total[0].path)
        self._moment: Optional[float] = None

    def read(self) -> Reading:
        """See Sensor.read; counters that wrapped are carried on, watts are the mean since the last reading."""
        now, elapsed = time.monotonic(), None
        if self._moment is not None:
            elapsed = now - self._moment
        self._moment = now
        steps = {zone.name: zone.step() for zone in self._zones}
        for zone in self._zones:
            if elapsed and steps[zone.name] > MOST_W * max(elapsed, 1.0):
                raise SensorError("{} jumped by {:g} J".format(zone.path, steps[zone.name]))
        for zone in self._zones:
            zone.joules += steps[zone.name]
        joules = sum(zone.joules for zone in self._total)
        if not elapsed:
            return Reading(None, {}, joules)
        rails = {name: step / elapsed for name, step in steps.items()}
        return Reading(sum(rails[zone.name] for zone in self._total), rails, joules)


class _Zone:
    """One RAPL counter: ``domain`` is package, core, uncore, dram or psys; ``joules`` count from its making."""

    def __init__(self, folder: str) -> None:
        label = read_text(os.path.join(folder, "name"))
        self.domain = label.split("-")[0]
        self.name = "{}-{}".format(label, os.path.basename(folder).split(":", 1)[1])
        self.path = os.path.join(folder, "energy_uj")
        span = read_number(os.path.join(folder, "max_energy_range_uj"))
        if span < 1:
            raise SensorError("{}/max_energy_range_uj holds {:g}, not a range".format(folder, span))
        self._wrap = span + 1
        self.last, self.joules = self._count(), 0.0

    def step(self) -> float:
        """Read the counter; returns the joules since the last time."""
        value = self._count()
        joules = (value - self.last) % self._wrap / 1e6
        self.last = value
        return joules

    def _count(self) -> float:
        value = read_number(self.path)
        if not 0 <= value < self._wrap:
            raise SensorError("{} holds {:g}, beyond its range of {:g}".format(self.path, value, self._wrap - 1))
        return value
