"""power/parsers.py: what boards print."""

from __future__ import annotations

import contextlib
import math

import edge_samples as samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge.errors import SensorError
from yolo_musgd.edge.power import parsers
from yolo_musgd.edge.power.rails import total_watts


def test_tegrastats_of_jetpack_4() -> None:
    tegra = parsers.parse_tegrastats(samples.NANO_JP4)
    assert tegra.rails == {"POM_5V_IN": 2.132, "POM_5V_GPU": 0.078, "POM_5V_CPU": 0.275}
    assert total_watts(tegra.rails) == (2.132, "POM_5V_IN")
    assert tegra.temperatures["GPU"] == 37.0
    assert tegra.temperatures["PMIC"] == 50.0
    assert (tegra.gpu_percent, tegra.gpu_mhz, tegra.cpu_mhz) == (0, 76, [102] * 4)


def test_tegrastats_of_jetpack_6() -> None:
    tegra = parsers.parse_tegrastats(samples.ORIN_JP6)
    assert tegra.rails == {"VDD_IN": 4.761, "VDD_CPU_GPU_CV": 0.515, "VDD_SOC": 1.428}
    assert total_watts(tegra.rails)[0] == 4.761
    assert tegra.temperatures["tj"] == 49.156
    assert tegra.cpu_mhz == [729] * 6


def test_tegrastats_of_jetpack_7() -> None:
    tegra = parsers.parse_tegrastats(samples.ORIN_JP7_PART)
    assert tegra.rails == {"VDD_GPU_SOC": 5.139, "VIN_SYS_5V0": 5.5}
    assert total_watts(tegra.rails) == (None, "not known, from VDD_GPU_SOC, VIN_SYS_5V0")  # a rail is missing
    assert tegra.temperatures == {"cpu": 52.968}  # the sentinels are gone
    assert tegra.gpu_mhz == 1300


def test_a_thor_tells_the_clocks_of_its_gpu_but_not_its_load() -> None:
    tegra = parsers.parse_tegrastats(samples.THOR)
    assert (tegra.gpu_percent, tegra.gpu_mhz) == (None, 314)
    assert tegra.rails == {"VDD_GPU": 1.962, "VDD_CPU_SOC_MSS": 5.887, "VIN_SYS_5V0": 5.635, "VIN": 19.78}
    assert tegra.temperatures["tj"] == 38.875


@given(st.permutations(samples.NANO_JP4.split(" POM_")[1:]))
def test_rails_in_any_order(rails: list[str]) -> None:
    line = samples.NANO_JP4.split(" POM_")[0] + "".join(" POM_" + rail for rail in rails)
    assert parsers.parse_tegrastats(line).rails == parsers.parse_tegrastats(samples.NANO_JP4).rails


@given(st.integers(0, len(samples.ORIN_JP6)))
def test_truncated_tegrastats_invents_no_rail(cut: int) -> None:
    whole = parsers.parse_tegrastats(samples.ORIN_JP6).rails
    for name, watts in parsers.parse_tegrastats(samples.ORIN_JP6[:cut]).rails.items():
        assert watts == whole[name]  # the average may be cut, the present value never


@given(st.text(max_size=300))
def test_hostile_text_never_breaks_a_parser(text: str) -> None:
    assert all(math.isfinite(watts) for watts in parsers.parse_tegrastats(text).rails.values())
    parsers.parse_throttled(text)
    value = parsers.parse_milliwatts(text)
    assert value is None or math.isfinite(value)
    for call in (lambda: parsers.parse_pmic(text), lambda: parsers.parse_meter_csv(text, "x.csv")):
        with contextlib.suppress(SensorError):
            call()


def test_pmic_by_hand() -> None:
    rails = parsers.parse_pmic(samples.PMIC_PI5)
    assert set(rails) == {"VDD_CORE", "DDR_VDD2"}  # volts alone give no watts
    assert rails["VDD_CORE"] == pytest.approx(5.03652 * 0.8936988)
    assert sum(rails.values()) == pytest.approx(4.501132 + 0.22, abs=1e-5)


@pytest.mark.parametrize("output", [samples.PMIC_OTHER, "", "VDD_CORE_A current(7)=5.0V", "VDD_CORE_A current(7)=nan"])
def test_pmic_elsewhere(output: str) -> None:
    with pytest.raises(SensorError, match="Raspberry Pi 5"):
        parsers.parse_pmic(output)


@pytest.mark.parametrize(
    ("output", "now", "since_boot"),
    [
        ("throttled=0x0\n", [], []),
        ("throttled=0x50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("throttled=0x20002", ["frequency capped"], ["frequency capped"]),
        ("throttled=0x80000", [], ["soft temperature limit"]),
    ],
)
def test_throttled(output: str, now: list[str], since_boot: list[str]) -> None:
    flags = parsers.parse_throttled(output)
    assert flags is not None
    assert (flags["now"], flags["since_boot"]) == (now, since_boot)


def test_small_figures() -> None:
    assert parsers.parse_throttled("throttled=zz") is None
    assert parsers.parse_milliwatts("[N/A]") is None
    assert parsers.parse_milliwatts("87.25\n") == 87.25


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time,power_w\n2,5.5\n1,5\n", [(1.0, 5.0), (2.0, 5.5)]),
        ("Timestamp;x\n", None),
        ("timestamp,Voltage (V),Current (A)\n10,5,0.5\n11,5,0.6\n", [(10.0, 2.5), (11.0, 3.0)]),
        ("time,power_w\n1,5\nbad,row\n2,6\n", [(1.0, 5.0), (2.0, 6.0)]),
        ("time,power_w\n1,5\nbad,row\nbad,row\nbad,row\n", None),
        ("", None),
    ],
)
def test_meter_csv(text: str, expected: list[tuple[float, float]] | None) -> None:
    if expected is None:
        with pytest.raises(SensorError):
            parsers.parse_meter_csv(text, "meter.csv")
    else:
        got = parsers.parse_meter_csv(text, "meter.csv")
        assert [value for row in got for value in row] == pytest.approx([value for row in expected for value in row])
