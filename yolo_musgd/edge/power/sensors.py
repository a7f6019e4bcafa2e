"""Power sensors: each finds itself, reads watts by rail, and says where a figure comes from and how far to trust it."""

import glob
import os
import shutil
import subprocess
import threading
import time
from typing import Any, Dict, FrozenSet, Iterable, Optional, Tuple

from ..errors import SensorError
from . import parsers
from .base import Reading, Sensor, named, read_number, read_text, run_tool, under
from .rails import UNKNOWN_SCOPE, TotalRails, total_rails, total_watts

LONGEST_LINE = 1 << 16  # characters


def scope_of(names: Iterable[str]) -> str:
    """Return what the total of these rails covers."""
    total = total_rails(names)
    return total.scope if total is not None else UNKNOWN_SCOPE


class RailSensor(Sensor):
    """Base of sensors that read rails by name; which of them are the total is settled once, by the first reading."""

    _total: Optional[TotalRails] = None

    def _settle(self, names: Iterable[str]) -> None:
        self._total, self.scope = total_rails(names), scope_of(names)

    def _reading(self, rails: Dict[str, float], failed: Optional[SensorError] = None) -> Reading:
        """A reading of these rails; what remains when a rail of the total is missing is not another total."""
        missing = set(self._total.rails).difference(rails) if self._total is not None else set()
        if missing or not rails:
            raise failed or SensorError("the reading lacks {}".format(", ".join(sorted(missing)) or "power rails"))
        return Reading(total_watts(rails)[0] if self._total is not None else None, rails, None)


def _read_rails(files: Dict[str, Tuple[str, ...]], unit: float) -> Tuple[Dict[str, float], Optional[SensorError]]:
    """Read the product of each rail's files in ``unit``, and why one has none: a channel may be switched off."""
    rails: Dict[str, float] = {}
    failed: Optional[SensorError] = None
    for name, paths in files.items():
        try:
            value = 1.0
            for path in paths:
                value *= read_number(path)
            rails[name] = value / unit
        except SensorError as error:
            failed = failed or error
    return rails, failed


def _read_labels(paths: Iterable[str]) -> Dict[str, str]:
    """Read label files: path -> label, without those that cannot be read.

    Raises:
        SensorError: There are some, and not one can be read.
    """
    labels: Dict[str, str] = {}
    failed: Optional[SensorError] = None
    for path in paths:
        try:
            labels[path] = read_text(path)
        except SensorError as error:
            failed = error
    if failed is not None and not labels:
        raise failed
    return labels


class Ina3221Jetpack4(RailSensor):
    """Jetson Nano, TX2, Xavier under JetPack 4: the ina3221x driver's industrial-I/O files."""

    name = "ina3221"
    uncertainty = (
        "INA3221: steps of 40 uV over the shunt (8 mA at 5 milliohm) and 8 mV of bus, offset up to 80 uV, gain 0.25 %; "
        "shunt tolerance not included"
    )

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        pattern = under(root, "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")
        self._files: Dict[str, Tuple[str, ...]] = {}
        for path, label in _read_labels(sorted(glob.glob(pattern))).items():
            number = path.rsplit("_", 1)[1]
            power = os.path.join(os.path.dirname(path), "in_power{}_input".format(number))
            if number.isdigit() and label.upper() != "NC" and os.path.exists(power):
                self._files[named(label, self._files)] = (power,)
        if not self._files:
            raise SensorError("no INA3221 of JetPack 4 ({})".format(pattern))
        self.source = os.path.dirname(next(iter(self._files.values()))[0])
        self._settle(self._files)

    def read(self) -> Reading:
        """See Sensor.read; the files are in milliwatts."""
        return self._reading(*_read_rails(self._files, 1e3))


class Ina3221Hwmon(RailSensor):
    """Jetsons under JetPack 5 and 6: the mainline ina3221 driver's hwmon files."""

    name = "ina3221"
    uncertainty = Ina3221Jetpack4.uncertainty

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        pattern = under(root, "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")
        self._files: Dict[str, Tuple[str, ...]] = {}
        for path, label in _read_labels(sorted(glob.glob(pattern))).items():
            number = os.path.basename(path)[2:-6]
            current = os.path.join(os.path.dirname(path), "curr{}_input".format(number))
            if label.upper() == "NC" or number == "7" or "sum" in label.lower() or not os.path.exists(current):
                continue  # not connected; channel 7 is the sum of the shunts, not a rail
            self._files[named(label, self._files)] = (path[: -len("label")] + "input", current)
        if not self._files:
            raise SensorError("no INA3221 of JetPack 5 or 6 ({})".format(pattern))
        self.source = os.path.dirname(next(iter(self._files.values()))[0])
        self._inputs = _ina238_files(root)
        self._settle(list(self._files) + list(self._inputs))

    def read(self) -> Reading:
        """See Sensor.read; millivolts times milliamperes, microwatts of an INA238."""
        return self._reading(*_read_rails({**self._files, **self._inputs}, 1e6))


def _chips(root: str) -> Dict[str, str]:
    """Every hwmon folder with its chip's name; one that cannot be read is no chip that is known here."""
    found: Dict[str, str] = {}
    for path in sorted(glob.glob(under(root, "/sys/class/hwmon/hwmon*/name"))):
        try:
            found[os.path.dirname(path)] = read_text(path)
        except SensorError:
            continue
    return found


def _ina238_files(root: str) -> Dict[str, Tuple[str, ...]]:
    """Find the INA238 that measures the input (VIN) of a Thor's carrier board: label -> file in microwatts."""
    found: Dict[str, Tuple[str, ...]] = {}
    for folder, chip in _chips(root).items():
        power = os.path.join(folder, "power1_input")
        labels = [os.path.join(folder, name) for name in ("label", "in1_label")]
        labels = [label for label in labels if os.path.exists(label)]
        if chip == "ina238" and labels and os.path.exists(power):
            found[read_text(labels[0])] = (power,)
    return found


class Tegrastats(RailSensor):
    """Any Jetson, where sysfs is closed: the tegrastats program, left running, one line an interval."""

    name = "tegrastats"
    uncertainty = Ina3221Jetpack4.uncertainty + "; read by tegrastats"

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        path = shutil.which("tegrastats")
        if path is None:
            raise SensorError("tegrastats is not installed (not a Jetson?)")
        self.source = path
        self._latest: Optional[str] = None
        self._moment = 0.0
        try:
            self._process = subprocess.Popen(
                [path, "--interval", "100"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                universal_newlines=True,
                errors="replace",
            )
        except OSError as error:
            raise SensorError("tegrastats cannot be started: {}".format(error.strerror))
        threading.Thread(target=self._follow, daemon=True).start()
        deadline = time.monotonic() + 3.0
        while self._latest is None and time.monotonic() < deadline and self._process.poll() is None:
            time.sleep(0.02)
        try:
            self._settle(self._rails())
        except SensorError:
            self.close()
            raise

    def _follow(self) -> None:
        output = self._process.stdout
        assert output is not None
        for line in iter(lambda: output.readline(LONGEST_LINE), ""):
            if parsers.parse_tegrastats(line).rails:  # lines that are cut or are messages are left out
                self._latest, self._moment = line, time.monotonic()

    def read(self) -> Reading:
        """See Sensor.read."""
        return self._reading(self._rails())

    def _rails(self) -> Dict[str, float]:
        """The last line's rails; one older than three seconds means that tegrastats died."""
        if self._latest is None or time.monotonic() - self._moment > 3.0:
            raise SensorError("tegrastats gives no power rails (needs sudo on some boards), or has stopped")
        return parsers.parse_tegrastats(self._latest).rails

    def close(self) -> None:
        """See Sensor.close; a tegrastats that does not end when asked to is killed."""
        self._process.terminate()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class RaspberryPi5(Sensor):
    """The power management chip of a Raspberry Pi 5, through vcgencmd (23 ms a reading)."""

    name = "pmic"
    scope = "the PMIC's rails; without the 5 V input stage, USB and HATs on 5 V"
    uncertainty = (
        "sum of twelve rails, below the wall's power; a published fit against a wall meter, 1.1451 * P + 0.5879 W, is "
        "reported apart as an estimate"
    )
    WALL = (1.1451, 0.5879)

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        self.source = "vcgencmd pmic_read_adc"
        self._names = frozenset(self.read().rails)

    _names: FrozenSet[str] = frozenset()

    def read(self) -> Reading:
        """See Sensor.read; every reading has the rails of the first."""
        rails = parsers.parse_pmic(run_tool(["vcgencmd", "pmic_read_adc"]))
        missing = self._names.difference(rails)
        below = sorted(name for name, watts in rails.items() if watts < 0)
        if missing or below:
            raise SensorError(
                "vcgencmd pmic_read_adc: {}".format(
                    "no {}".format(", ".join(sorted(missing))) if missing else "{} reads below zero".format(below[0])
                )
            )
        return Reading(sum(rails.values()), rails, None)


class HwmonIna(Sensor):
    """An INA219, INA226, INA260 or relative on the I2C bus, through Linux' hwmon (a Raspberry Pi 4's way to watts).

    Several chips, or channels of an INA3221, are rails of their own: one may sit in another's supply line, so nothing
    is added up unless the user says what (`add_up`).
    """

    name = "hwmon"
    scope = "what flows through the shunt"
    uncertainty = (
        "INA2xx: as calibrated by the driver's shunt_resistor; INA226 0.1 %, INA219 0.5 % gain, plus the shunt's own"
    )
    CHIPS = (
        "ina219", "ina220", "ina226", "ina230", "ina231", "ina260", "ina228", "ina233", "ina237", "ina238", "ina3221"
    )  # fmt: skip

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        folders = {folder: chip for folder, chip in _chips(root).items() if chip in self.CHIPS}
        self._files: Dict[str, Tuple[str, ...]] = {}
        for folder, chip in folders.items():
            for label, paths in _channels(folder, chip).items():
                self._files[named(label, self._files)] = paths
        if not self._files:
            raise SensorError("no INA219, INA226 or INA260 among {}".format(under(root, "/sys/class/hwmon")))
        rails, failed = _read_rails(self._files, 1e6)  # an INA3221's unused channels may be switched off
        if not rails and failed is not None:
            raise failed
        self._files = {name: self._files[name] for name in rails}
        self.source = ", ".join(folders)
        self._added: Tuple[str, ...] = tuple(rails)
        if len(rails) > 1:
            self._added = ()
            self.scope = "single chips, how they are wired is not known: no total; power=hwmon:{} adds two up".format(
                "+".join(list(rails)[:2])
            )

    def add_up(self, names: Iterable[str]) -> None:
        """Take the sum of these rails as the total.

        Raises:
            SensorError: One that is not there, or that stands twice.
        """
        self._added = tuple(names)
        strange = [name for name in self._added if name not in self._files or self._added.count(name) > 1]
        if strange or not self._added:
            raise SensorError(
                "needs rails, each once, joined by +: {}; got {!r}".format(
                    ", ".join(self._files), "+".join(self._added)
                )
            )
        self.scope = "the sum of {}, as power= names them".format(" + ".join(self._added))

    def read(self) -> Reading:
        """See Sensor.read; microwatts, or millivolts times milliamperes."""
        rails, failed = _read_rails(self._files, 1e6)
        if failed is not None:
            raise failed
        return Reading(sum(rails[name] for name in self._added) if self._added else None, rails, None)


def _channels(folder: str, chip: str) -> Dict[str, Tuple[str, ...]]:
    """A chip's channels: label, else chip and I2C address (``ina219@1-0040``) -> files; their product is microwatts."""
    device = os.path.join(folder, "device")
    address = os.path.basename(os.path.realpath(device) if os.path.exists(device) else folder)
    whole = _label(folder, "label") or "{}@{}".format(chip, address)
    power = os.path.join(folder, "power1_input")
    if os.path.exists(power):
        return {whole: (power,)}
    found: Dict[str, Tuple[str, ...]] = {}
    for number in (1, 2, 3) if chip == "ina3221" else (1,):
        paths = tuple(os.path.join(folder, "{}{}_input".format(kind, number)) for kind in ("in", "curr"))
        if all(map(os.path.exists, paths)):
            single = "{}.{}".format(whole, number) if chip == "ina3221" else whole
            found[named(_label(folder, "in{}_label".format(number)) or single, found)] = paths
    return found


def _label(folder: str, name: str) -> str:
    try:
        return read_text(os.path.join(folder, name)).replace("+", "_")
    except SensorError:
        return ""


class Nvml(Sensor):
    """An NVIDIA card's own power figure: nvidia-ml-py when installed, else nvidia-smi."""

    name = "nvml"
    scope = "the GPU card only"
    uncertainty = "NVML: within 5 % by the maker's manual; on some cards an average over up to a second"

    def __init__(self, root: str = "/") -> None:
        Sensor.__init__(self, root)
        self._nvml: Any = None
        self._handle: Any = None
        try:
            pynvml = __import__("pynvml")

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._nvml, self.source = pynvml, "nvmlDeviceGetPowerUsage"
        except Exception:  # not installed, no driver, no card: nvidia-smi says which
            self.source = "nvidia-smi --query-gpu=power.draw"
        self.read()

    def read(self) -> Reading:
        """See Sensor.read."""
        if self._nvml is not None:
            try:
                watts: Optional[float] = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000.0
            except Exception as error:
                raise SensorError("NVML gives no power: {}".format(error))
        else:
            words = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--id=0"]
            watts = parsers.parse_milliwatts(run_tool(words))
        if watts is None:
            raise SensorError("this GPU does not report its power ([N/A])")
        return Reading(watts, {"gpu": watts}, None)

    def close(self) -> None:
        """See Sensor.close."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
