"""power/sensors.py, sampler.py, base.py and system.py on a fake board."""

from __future__ import annotations

import time
from pathlib import Path

import edge_samples as samples
import pytest
from edge_samples import FakeBoard

from yolo_musgd.edge.errors import SensorError, UserError
from yolo_musgd.edge.power import sampler, sensors, system
from yolo_musgd.edge.power.base import Reading, Sensor, read_text

NANO = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
ORIN = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"


def nano(board: FakeBoard) -> None:
    for k, (rail, mw) in enumerate([("POM_5V_IN", 2132), ("POM_5V_GPU", 78), ("POM_5V_CPU", 275)]):
        board.write(f"{NANO}/rail_name_{k}", rail)
        board.write(f"{NANO}/in_power{k}_input", mw)


def orin(board: FakeBoard) -> None:
    for k, (label, mv, ma) in enumerate([("VDD_IN", 4920, 968), ("NC", 4920, 1), ("VDD_SOC", 4920, 290)], 1):
        board.write(f"{ORIN}/in{k}_label", label)
        board.write(f"{ORIN}/in{k}_input", mv)
        board.write(f"{ORIN}/curr{k}_input", ma)
    board.write(f"{ORIN}/in7_label", "Sum of shunt voltages")
    board.write(f"{ORIN}/in7_input", 99)
    board.write(f"{ORIN}/curr7_input", 9999)


def test_jetpack_4_by_hand(board: FakeBoard) -> None:
    nano(board)
    choice = sampler.choose("auto", str(board.root))
    assert isinstance(choice.sensor, sensors.Ina3221Jetpack4)
    reading = choice.sensor.read()
    assert reading.watts == 2.132
    assert reading.rails["POM_5V_GPU"] == 0.078


def test_jetpack_6_by_hand(board: FakeBoard) -> None:
    orin(board)
    choice = sampler.choose("auto", str(board.root))
    assert isinstance(choice.sensor, sensors.Ina3221Hwmon)
    reading = choice.sensor.read()
    assert reading.watts == pytest.approx(4.920 * 0.968)
    assert set(reading.rails) == {"VDD_IN", "VDD_SOC"}  # neither NC nor the sum of shunts


def test_pmic_program(board: FakeBoard) -> None:
    board.program("vcgencmd", f"cat <<'X'\n{samples.PMIC_PI5}X")
    choice = sampler.choose("pmic", str(board.root))
    assert choice.sensor is not None
    watts = choice.sensor.read().watts
    assert watts == pytest.approx(4.721132, abs=1e-5)
    assert sampler.wall_estimate(choice, watts) == pytest.approx(1.1451 * 4.721132 + 0.5879, abs=1e-4)


def test_pmic_on_a_pi_4_is_named_and_skipped(board: FakeBoard) -> None:
    board.program("vcgencmd", f"cat <<'X'\n{samples.PMIC_OTHER}X")
    choice = sampler.choose("auto", str(board.root))
    assert choice.sensor is None
    assert "Command not registered" in choice.tried["pmic"]
    with pytest.raises(UserError, match="only a Raspberry Pi 5"):
        sampler.choose("pmic", str(board.root))


def test_tegrastats_program(board: FakeBoard) -> None:
    board.program("tegrastats", f"while true; do echo '{samples.ORIN_JP6}'; echo garbage; sleep 0.05; done")
    sensor = sensors.Tegrastats(str(board.root))
    try:
        assert sensor.read() == Reading(4.761, {"VDD_IN": 4.761, "VDD_CPU_GPU_CV": 0.515, "VDD_SOC": 1.428}, None)
    finally:
        sensor.close()


def test_a_byte_that_is_no_text_is_noise(board: FakeBoard) -> None:
    line = samples.ORIN_JP6.replace("%", "%%")
    board.program("tegrastats", f"while true; do printf '\\377\\200 VDD_\\377\\n{line}\\n'; sleep 0.05; done")
    sensor = sensors.Tegrastats(str(board.root))
    try:
        for _ in range(10):
            time.sleep(0.02)
            assert sensor.read().watts == 4.761
    finally:
        sensor.close()
    board.program("vcgencmd", f"printf '\\377'; cat <<'X'\n{samples.PMIC_PI5}X")
    assert sensors.RaspberryPi5(str(board.root)).read().watts is not None


def test_a_program_that_ignores_the_request_to_end_is_killed(board: FakeBoard) -> None:
    board.program("tegrastats", f"trap '' TERM; while true; do echo '{samples.ORIN_JP6}'; sleep 0.05; done")
    sensor = sensors.Tegrastats(str(board.root))
    begin = time.monotonic()
    sensor.close()
    assert time.monotonic() - begin < 2.0
    assert sensor._process.poll() is not None


def test_a_line_without_end_does_not_fill_the_memory(board: FakeBoard) -> None:
    board.program("tegrastats", f"echo '{samples.ORIN_JP6}'; exec cat /dev/zero")
    sensor = sensors.Tegrastats(str(board.root))
    try:
        time.sleep(0.5)
        resident = system.memory_mb()[0]
        time.sleep(0.5)
        assert resident is None or (system.memory_mb()[0] or 0) < resident + 50
        assert sensor.read().watts == 4.761  # the last one that was a line
    finally:
        sensor.close()


@pytest.mark.parametrize("content", ["nan", "inf", "-inf", "1e999", "", "12 W", "0x10"])
def test_a_file_that_holds_no_number(content: str, board: FakeBoard) -> None:
    orin(board)
    board.write(f"{ORIN}/curr1_input", content)
    sensor = sensors.Ina3221Hwmon(str(board.root))
    with pytest.raises(SensorError, match="not a number"):
        sensor.read()


def test_counters_that_are_no_numbers_are_not_told(board: FakeBoard) -> None:
    for content in ("inf", "nan", "-", "1e999"):
        board.write("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", content)
        board.write("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", content)
        board.write("/sys/class/thermal/thermal_zone0/temp", content)
        state = system.state(str(board.root))
        assert state["throttling"]["counters"] == {}
        assert (state["temperatures_c"], state["clocks"]) == ({}, {"cpu_mhz": None})


def test_hwmon_power_is_in_microwatts(board: FakeBoard) -> None:
    board.write("/sys/class/hwmon/hwmon0/name", "cpu_thermal")
    board.write("/sys/class/hwmon/hwmon1/name", "ina226")
    board.write("/sys/class/hwmon/hwmon1/power1_input", 3_250_000)
    assert sensors.HwmonIna(str(board.root)).read().watts == pytest.approx(3.25)
    board.write("/sys/class/hwmon/hwmon1/name", "ina219")
    (board.root / "sys/class/hwmon/hwmon1/power1_input").unlink()
    board.write("/sys/class/hwmon/hwmon1/in1_input", 5000)
    board.write("/sys/class/hwmon/hwmon1/curr1_input", 400)
    assert sensors.HwmonIna(str(board.root)).read().watts == pytest.approx(2.0)


def two_chips(board: FakeBoard) -> None:
    """Two INA219 and an INA3221 of two channels on one bus, as the kernel shows them."""
    for number, address, chip in ((1, "1-0040", "ina219"), (2, "1-0041", "ina219"), (3, "1-0043", "ina3221")):
        board.write(f"/sys/bus/i2c/devices/{address}/name", chip)
        board.write(f"/sys/class/hwmon/hwmon{number}/name", chip)
        (board.root / f"sys/class/hwmon/hwmon{number}/device").symlink_to(f"../../../bus/i2c/devices/{address}")
    board.write("/sys/class/hwmon/hwmon1/power1_input", 6_000_000)
    board.write("/sys/class/hwmon/hwmon2/power1_input", 1_500_000)
    for channel, amps in ((1, 200), (3, 100)):
        board.write(f"/sys/class/hwmon/hwmon3/in{channel}_input", 5000)
        board.write(f"/sys/class/hwmon/hwmon3/curr{channel}_input", amps)
    board.write("/sys/class/hwmon/hwmon3/in3_label", "USB")


def test_several_chips_are_rails_and_no_total(board: FakeBoard) -> None:
    two_chips(board)
    choice = sampler.choose("hwmon", str(board.root))
    reading = choice.sensor.read()
    assert reading.watts is None  # the second may hang behind the first
    assert reading.rails == pytest.approx(
        {"ina219@1-0040": 6.0, "ina219@1-0041": 1.5, "ina3221@1-0043.1": 1.0, "USB": 0.5}
    )
    assert "no total; power=hwmon:ina219@1-0040+ina219@1-0041 adds" in sampler.describe(choice)["scope"]


def test_a_total_is_the_sum_of_the_rails_that_are_named(board: FakeBoard) -> None:
    two_chips(board)
    choice = sampler.choose("hwmon:ina219@1-0040+USB", str(board.root))
    assert choice.sensor.read().watts == pytest.approx(6.5)
    assert sampler.describe(choice)["scope"] == "the sum of ina219@1-0040 + USB, as power= names them"
    for wrong in ("hwmon:", "hwmon:USB+USB", "hwmon:ina219"):
        with pytest.raises(UserError, match=r"needs rails, each once, joined by [+]: ina219@1-0040, "):
            sampler.choose(wrong, str(board.root))
    gone(board, "/sys/class/hwmon/hwmon2/power1_input")
    with pytest.raises(SensorError):  # what remains is another sum
        choice.sensor.read()


def gone(board: FakeBoard, path: str) -> None:
    """A file that is there and cannot be read, as of a channel that is switched off."""
    (board.root / path.lstrip("/")).unlink()
    (board.root / path.lstrip("/")).mkdir()


def test_a_part_that_cannot_be_read_costs_itself(board: FakeBoard) -> None:
    orin(board)
    gone(board, f"{ORIN}/curr3_input")
    reading = sensors.Ina3221Hwmon(str(board.root)).read()
    assert reading.watts == pytest.approx(4.920 * 0.968)
    assert set(reading.rails) == {"VDD_IN"}
    nano(board)
    sensor = sensors.Ina3221Jetpack4(str(board.root))
    gone(board, f"{NANO}/in_power1_input")
    assert set(sensor.read().rails) == {"POM_5V_IN", "POM_5V_CPU"}
    gone(board, f"{NANO}/rail_name_2")
    assert set(sensors.Ina3221Jetpack4(str(board.root)).read().rails) == {"POM_5V_IN"}


def test_what_remains_without_the_input_is_no_total(board: FakeBoard) -> None:
    nano(board)
    sensor = sensors.Ina3221Jetpack4(str(board.root))
    gone(board, f"{NANO}/in_power0_input")
    with pytest.raises(SensorError, match=r"cannot read .*in_power0_input: Is a directory"):
        sensor.read()


def test_two_chips_of_one_label_are_two_rails(board: FakeBoard) -> None:
    nano(board)
    second = NANO.replace("6-0040", "6-0041")
    board.write(f"{second}/rail_name_0", "POM_5V_GPU")
    board.write(f"{second}/in_power0_input", 99)
    reading = sensors.Ina3221Jetpack4(str(board.root)).read()
    assert reading.rails["POM_5V_GPU"] == 0.078
    assert reading.rails["POM_5V_GPU #2"] == 0.099
    assert reading.watts == 2.132


def test_a_line_without_its_input_is_noise_and_not_another_total(board: FakeBoard) -> None:
    whole = samples.THOR
    cut = whole[: whole.index("VIN ")]
    board.program("tegrastats", f"echo '{whole}'; sleep 0.4; echo '{cut}'; sleep 30")
    sensor = sensors.Tegrastats()
    try:
        assert sensor.read().watts is not None
        time.sleep(0.8)
        with pytest.raises(SensorError, match="the reading lacks VIN"):
            sensor.read()
    finally:
        sensor.close()


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (samples.PMIC_PI5[: samples.PMIC_PI5.index("DDR_VDD2_V")], "no DDR_VDD2"),
        (samples.PMIC_PI5.replace("=0.", "=-0."), "below zero"),
    ],
)
def test_a_pmic_that_says_less_than_before_is_noise(second: str, why: str, board: FakeBoard) -> None:
    board.program("vcgencmd", f"cat <<'X'\n{samples.PMIC_PI5}X")
    sensor = sensors.RaspberryPi5()
    board.program("vcgencmd", f"cat <<'X'\n{second}\nX")
    with pytest.raises(SensorError, match=why):
        sensor.read()


def test_a_chip_whose_name_cannot_be_read_costs_itself(board: FakeBoard) -> None:
    board.write("/sys/class/hwmon/hwmon0/name", "secret")
    gone(board, "/sys/class/hwmon/hwmon0/name")
    board.write("/sys/class/hwmon/hwmon1/name", "ina226")
    board.write("/sys/class/hwmon/hwmon1/power1_input", 3_250_000)
    assert sensors.HwmonIna(str(board.root)).read().watts == pytest.approx(3.25)
    orin(board)
    assert sensors.Ina3221Hwmon(str(board.root)).read().watts == pytest.approx(4.920 * 0.968)


def test_nvml_not_available(board: FakeBoard) -> None:
    board.program("nvidia-smi", "echo '[N/A]'")
    with pytest.raises(SensorError, match="N/A"):
        sensors.Nvml(str(board.root))
    board.program("nvidia-smi", "echo 31.50")
    assert sensors.Nvml(str(board.root)).read().watts == 31.5


def test_permission_names_file_and_way_out(board: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board.write("/sys/class/powercap/intel-rapl:0/energy_uj", 1)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, who is never refused
    with pytest.raises(SensorError) as caught:
        read_text(str(path))
    assert "energy_uj" in str(caught.value)
    assert "sudo" in str(caught.value)


def test_no_sensor_is_said(board: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(board.bin))
    choice = sampler.choose("auto", str(board.root))
    assert choice.sensor is None
    assert set(choice.tried) == set(sampler.NAMES)
    assert sampler.describe(choice)["sensor"] is None
    with pytest.raises(UserError, match="must be auto"):
        sampler.choose("volts", str(board.root))


class Scripted(Sensor):
    """Gives the watts of a list, then fails for good."""

    name, period = "scripted", 0.005

    def __init__(self, watts: list[float | None]) -> None:
        super().__init__()
        self.watts = watts

    def read(self) -> Reading:
        if not self.watts:
            raise SensorError("unplugged")
        value = self.watts.pop(0)
        if value is None:
            raise SensorError("one bad line")
        return Reading(value, {"a": value}, None)


def wait_for(done: object, limit: float = 3.0) -> None:
    end = time.monotonic() + limit
    while not done() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


def test_one_bad_line_is_survived_a_lost_sensor_is_told() -> None:
    running = sampler.Sampler(Scripted([2.0, None, None, 2.0, 2.0])).start()
    wait_for(lambda: running.lost)
    running.stop()
    assert list(running.watts) == [2.0, 2.0, 2.0]
    assert running.lost == "unplugged"
    span = (running.times[0], running.times[-1] + 10)
    assert sampler.window(running, *span)["energy_j"] is None  # nothing is made up for the time after the loss


@pytest.mark.parametrize("noise", [float("nan"), float("inf"), -0.1, -5.0, 1e9])
def test_watts_that_cannot_be_are_noise(noise: float) -> None:
    running = sampler.Sampler(Scripted([2.0, noise, 2.0, noise, noise, 2.0, noise, noise, noise, 2.0])).start()
    wait_for(lambda: running.lost)
    running.stop()
    assert list(running.watts) == [2.0, 2.0, 2.0]
    assert str(noise) in str(running.lost)


def test_watts_and_joules_per_frame_by_hand() -> None:
    running = sampler.Sampler(None)
    running.times, running.watts = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 6.0, 6.0, 6.0]
    running.parts = [(moment, {"IN": watts}) for moment, watts in zip(running.times, running.watts, strict=True)]
    idle, load = sampler.window(running, 0, 1), sampler.window(running, 2, 4)
    assert idle["mean_w"] == 2.0
    assert (load["energy_j"], load["mean_w"], load["samples"], load["rate_hz"]) == (12.0, 6.0, 3, 1.5)
    assert load["rails_w"] == {"IN": 6.0}
    per = sampler.per_frame(load["energy_j"], 2.0, 40, idle["mean_w"])
    assert per == {"gross_j_per_frame": pytest.approx(0.3), "net_j_per_frame": pytest.approx(0.2)}
    assert sampler.per_frame(None, 2.0, 40, 2.0) == {"gross_j_per_frame": None, "net_j_per_frame": None}


def test_external_meter(tmp_path: Path) -> None:
    now = time.time()
    log = tmp_path / "meter.csv"
    log.write_text("time,power_w\n" + "".join(f"{now + k},{4 + k % 2}\n" for k in range(11)))
    running = sampler.Sampler(None)
    running.take_csv(str(log))
    start = time.perf_counter()
    assert sampler.window(running, start + 2, start + 8)["mean_w"] == pytest.approx(4.5, abs=0.01)
    with pytest.raises(SensorError, match="cannot read"):
        running.take_csv(str(tmp_path / "absent.csv"))
    with pytest.raises(SensorError, match="not a regular file"):
        running.take_csv("/dev/zero")
    log.write_text("time,power_w\n" + "".join(f"{now + k},{('nan', 'inf', '-3', 4)[k % 4]}\n" for k in range(40)))
    with pytest.raises(SensorError, match="only 10 of 40 rows"):
        running.take_csv(str(log))


def test_zones_and_channels_of_one_name_are_kept_apart(board: FakeBoard) -> None:
    """A PC has several zones called acpitz; the hottest was lost when it was not the last."""
    for number, celsius in enumerate((90, 30, 45)):
        board.write(f"/sys/class/thermal/thermal_zone{number}/type", "acpitz")
        board.write(f"/sys/class/thermal/thermal_zone{number}/temp", 1000 * celsius)
    found = system.temperatures(str(board.root))
    assert found == {"acpitz": 90.0, "acpitz #2": 30.0, "acpitz #3": 45.0}
    board.write("/sys/class/hwmon/hwmon0/name", "ina3221")
    for number in (1, 2):
        board.write(f"/sys/class/hwmon/hwmon0/in{number}_label", "motor")
        board.write(f"/sys/class/hwmon/hwmon0/in{number}_input", 1000)
        board.write(f"/sys/class/hwmon/hwmon0/curr{number}_input", 1000 * number)
    assert sensors.HwmonIna(str(board.root)).read().rails == {"motor": 1.0, "motor #2": 2.0}


def test_system_state(board: FakeBoard) -> None:
    board.write("/proc/device-tree/model", "NVIDIA Jetson Nano Developer Kit\0")
    board.write("/etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref")
    board.write("/sys/class/thermal/thermal_zone0/type", "CPU-therm")
    board.write("/sys/class/thermal/thermal_zone0/temp", 39500)
    board.write("/sys/class/thermal/thermal_zone1/type", "PMIC-Die")
    board.write("/sys/class/thermal/thermal_zone1/temp", 100000)
    board.write("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil")
    board.write("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1479000)
    board.write("/sys/class/devfreq/57000000.gpu/cur_freq", 921600000)
    board.program("vcgencmd", "echo throttled=0x50000")
    board.program("nvpmodel", "echo 'NV Power Mode: MAXN'; echo 0")
    root = str(board.root)
    assert system.board_name(root) == "NVIDIA Jetson Nano Developer Kit"
    assert system.jetpack_release(root) == "R32.7.1"
    state = system.state(root)
    assert state["temperatures_c"] == {"CPU-therm": 39.5}
    assert state["clocks"] == {"cpu_mhz": 1479.0, "57000000.gpu_mhz": 921.6}
    assert (state["governor"], state["nvpmodel"]) == ("schedutil", "MAXN")
    assert state["throttling"]["since_boot"] == ["under-voltage", "throttled"]


def test_throttling_of_this_run_only() -> None:
    before = {"now": [], "since_boot": ["under-voltage"], "counters": {"package_throttle_count": 4}}
    after = {"now": [], "since_boot": ["under-voltage", "throttled"], "counters": {"package_throttle_count": 6}}
    assert system.throttled_reasons(before, ["frequency capped"], after) == [
        "frequency capped",
        "package_throttle_count +2",
        "throttled",
    ]
    assert system.throttled_reasons(before, [], before) == []


def test_memory_is_this_process() -> None:
    resident, peak = system.memory_mb()
    if Path("/proc/self/status").exists():
        assert resident is not None
        assert peak is not None
        assert 1 < resident <= peak
