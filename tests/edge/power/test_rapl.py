"""power/rapl.py: packages, their parts, memory and the platform, on a fake tree."""

from __future__ import annotations

import pytest
from edge_samples import FakeBoard

from yolo_musgd.edge.errors import SensorError
from yolo_musgd.edge.power import sampler
from yolo_musgd.edge.power.rapl import Rapl

TREE = "/sys/class/powercap/intel-rapl:"


def zones(board: FakeBoard, *named: tuple[str, str]) -> None:
    """Write counters, id and name, each at one joule."""
    for zone, name in named:
        for file, content in (("name", name), ("max_energy_range_uj", 262_143_328_850), ("energy_uj", 1_000_000)):
            board.write(f"{TREE}{zone}/{file}", content)


def count(board: FakeBoard, **joules: float) -> None:
    """Move the counters on, by id (p0 is intel-rapl:0, p0_1 is intel-rapl:0:1)."""
    for zone, value in joules.items():
        board.write(f"{TREE}{zone[1:].replace('_', ':')}/energy_uj", int(1e6 + value * 1e6))


def test_rapl_counts_across_its_wrap(board: FakeBoard) -> None:
    zone = "/sys/class/powercap/intel-rapl:0"
    board.write(f"{zone}/name", "package-0")
    board.write(f"{zone}/max_energy_range_uj", 999_999)
    board.write(f"{zone}/energy_uj", 900_000)
    board.write("/sys/class/powercap/intel-rapl:0:0/name", "core")  # a part of the package, not counted again
    sensor = Rapl(str(board.root))
    assert sensor.read().joules == 0
    board.write(f"{zone}/energy_uj", 400_000)
    reading = sensor.read()
    assert reading.joules == pytest.approx(0.5)
    assert reading.watts is not None
    assert reading.watts > 0


def test_core_and_uncore_are_parts_and_memory_stands_beside(board: FakeBoard) -> None:
    zones(board, ("0", "package-0"), ("0:0", "core"), ("0:1", "uncore"), ("0:2", "dram"), ("1", "package-1"))
    sensor = Rapl(str(board.root))
    sensor.read()
    count(board, p0=10.0, p0_0=6.0, p0_1=1.0, p0_2=2.0, p1=5.0)
    reading = sensor.read()
    assert reading.joules == pytest.approx(10.0 + 2.0 + 5.0)
    total = reading.rails["package-0-0"] + reading.rails["package-1-1"] + reading.rails["dram-0:2"]
    assert reading.watts == pytest.approx(total)
    assert reading.rails["core-0:0"] == pytest.approx(0.6 * reading.rails["package-0-0"])
    assert sensor.scope == "CPU packages and memory; no disks, fans or power supply"


def test_the_platform_holds_all(board: FakeBoard) -> None:
    zones(board, ("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys"))
    sensor = Rapl(str(board.root))
    sensor.read()
    count(board, p0=10.0, p0_0=6.0, p0_1=2.0, p1=21.0)
    reading = sensor.read()
    assert reading.joules == pytest.approx(21.0)  # not 31, not 39
    assert reading.watts == pytest.approx(reading.rails["psys-1"])
    assert "platform" in sensor.scope


def test_a_platform_counter_that_never_counted_is_none(board: FakeBoard) -> None:
    zones(board, ("0", "package-0"), ("1", "psys"))
    board.write(f"{TREE}1/energy_uj", 0)
    assert Rapl(str(board.root)).scope == "CPU packages only; no memory modules; no disks, fans or power supply"


def test_counters_without_a_package(board: FakeBoard) -> None:
    zones(board, ("0", "mystery"))
    with pytest.raises(SensorError, match="no RAPL counter of a package"):
        Rapl(str(board.root))


@pytest.mark.parametrize("span", ["-1", "0", "nan", "x"])
def test_a_rapl_range_that_is_none(span: str, board: FakeBoard) -> None:
    zone = "/sys/class/powercap/intel-rapl:0"
    for name, content in (("name", "package-0"), ("max_energy_range_uj", span), ("energy_uj", 5)):
        board.write(f"{zone}/{name}", content)
    with pytest.raises(SensorError, match="max_energy_range_uj holds"):
        Rapl(str(board.root))
    assert "rapl" in sampler.choose("auto", str(board.root)).tried


def test_a_counter_that_was_set_back_is_no_energy(board: FakeBoard) -> None:
    zones(board, ("0", "package-0"), ("0:0", "core"))
    sensor = Rapl(str(board.root))
    count(board, p0=5000.0, p0_0=4000.0)
    sensor.read()
    count(board, p0=5001.0, p0_0=4000.0)
    before = sensor.read().joules
    assert before == pytest.approx(5001.0)
    count(board, p0=0.0, p0_0=0.0)  # a suspend; as a wrap it would be 257 kJ
    with pytest.raises(SensorError, match=r"jumped by 2\d+ J"):
        sensor.read()
    count(board, p0=2.0, p0_0=1.0)
    assert sensor.read().joules == pytest.approx(5003.0)


@pytest.mark.parametrize("value", ["-1", "1e30", "262143328852"])
def test_a_count_beyond_its_range_is_noise(value: str, board: FakeBoard) -> None:
    zones(board, ("0", "package-0"))
    sensor = Rapl(str(board.root))
    board.write(f"{TREE}0/energy_uj", value)
    with pytest.raises(SensorError, match="beyond its range"):
        sensor.read()
    with pytest.raises(SensorError, match="beyond its range"):
        Rapl(str(board.root))
