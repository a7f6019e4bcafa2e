"""power/rails.py: a board's total from public samples of its rails, and what each sensor says that it covers."""

from __future__ import annotations

import edge_samples as samples
import pytest
from edge_samples import FakeBoard
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge.errors import SensorError
from yolo_musgd.edge.power import sampler, sensors
from yolo_musgd.edge.power.parsers import parse_tegrastats
from yolo_musgd.edge.power.rails import INPUTS, SUMS, UNKNOWN_SCOPE, total_rails, total_watts

THOR_TREE = "/sys/bus/i2c/drivers/ina3221/2-0040/hwmon/hwmon3"


@pytest.mark.parametrize(
    ("line", "watts", "rails"),
    [
        (samples.NANO_JP4, 2.132, "POM_5V_IN"),
        (samples.XAVIER_NX, 2.594, "VDD_IN"),
        (samples.ORIN_JP6, 4.761, "VDD_IN"),
        (samples.AGX_XAVIER, 0.463 + 0.618 + 2.936 + 0.309 + 3.306, "GPU + CPU + SOC + CV + VDDRQ + SYS5V"),
        (samples.AGX_ORIN, 3.150 + 14.312 + 4.968, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),  # memory is in the last
        (samples.AGX_ORIN_IDLE, 1.592 + 2.624, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),  # -0.398 W is an offset
        (samples.AGX_ORIN_32, 1.995 + 2.524, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),
        (samples.ORIN_NANO_IDLE, 2.957, "VDD_IN"),
        (samples.THOR, 19.78, "VIN"),  # neither 33.3, with the rails added, nor 13.5, of the rails alone
        (samples.THOR.partition(" VIN ")[0], 1.962 + 5.887 + 5.635, "VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0"),
    ],
)  # fmt: skip
def test_totals_of_public_samples(line: str, watts: float, rails: str) -> None:
    total, how = total_watts(parse_tegrastats(line).rails)
    assert total == pytest.approx(watts)
    assert how == rails


def test_an_unknown_set_has_parts_and_no_total() -> None:
    assert total_watts({"VDD_NEW": 3.0, "VDD_OTHER": 2.0}) == (None, "not known, from VDD_NEW, VDD_OTHER")
    orin = parse_tegrastats(samples.AGX_ORIN).rails
    assert total_watts({**orin, "VDD_NEW": 3.0})[0] is None  # part of another, or beside it? not known
    with pytest.raises(SensorError, match="no power rails"):
        total_watts({})


@pytest.mark.parametrize(
    "rails", [{"VDD_IN": -0.1}, {"VIN": -5.0, "VDD_GPU": 2.0}, {**dict.fromkeys(SUMS[2].rails, 3.0), "VDD_GPU": -2.0}]
)
def test_a_negative_reading_is_noise(rails: dict[str, float]) -> None:
    with pytest.raises(SensorError, match="reads -"):
        total_watts(rails)


@given(
    st.sampled_from(INPUTS),
    st.dictionaries(st.sampled_from(["VDD_GPU", "VDD_SOC", "CPU", "VIN_SYS_5V0"]), st.floats(-9, 99)),
)
def test_nothing_is_added_to_an_input(total: object, parts: dict[str, float]) -> None:
    name = total.rails[0]  # type: ignore[attr-defined]
    assert total_watts({**parts, name: 7.5}) == (7.5, name)


@given(st.sets(st.sampled_from(sorted({name for total in (*INPUTS, *SUMS) for name in (*total.rails, *total.inside)}))))
def test_every_set_has_one_answer(names: set[str]) -> None:
    total = total_rails(names)
    watts = dict.fromkeys(names, 1.0)
    if not names:
        return
    assert total_watts(watts)[0] == (None if total is None else len(total.rails))


def thor(board: FakeBoard, label: str = "label") -> None:
    for k, (name, mv, ma) in enumerate(
        [("VDD_GPU", 5000, 471), ("VDD_CPU_SOC_MSS", 5000, 1302), ("VIN_SYS_5V0", 5000, 1304)], 1
    ):
        board.write(f"{THOR_TREE}/in{k}_label", name)
        board.write(f"{THOR_TREE}/in{k}_input", mv)
        board.write(f"{THOR_TREE}/curr{k}_input", ma)
    board.write("/sys/class/hwmon/hwmon4/name", "ina238")
    board.write(f"/sys/class/hwmon/hwmon4/{label}", "VIN")
    board.write("/sys/class/hwmon/hwmon4/power1_input", 23_100_000)


@pytest.mark.parametrize("label", ["label", "in1_label"])
def test_a_thors_input_is_its_total(label: str, board: FakeBoard) -> None:
    thor(board, label)
    choice = sampler.choose("auto", str(board.root))
    assert isinstance(choice.sensor, sensors.Ina3221Hwmon)
    reading = choice.sensor.read()
    assert reading.watts == pytest.approx(23.1)
    assert reading.rails["VIN_SYS_5V0"] == pytest.approx(6.52)
    assert "whole board" in sampler.describe(choice)["scope"]


def test_without_its_input_the_scope_is_the_module(board: FakeBoard) -> None:
    thor(board, "other")
    sensor = sensors.Ina3221Hwmon(str(board.root))
    assert sensor.read().watts == pytest.approx(15.385)
    assert sensor.scope == "the module: sum of the rails of a Thor"


def test_rails_alone_are_sampled_and_told(board: FakeBoard) -> None:
    board.write(f"{THOR_TREE}/in1_label", "VDD_NEW")
    board.write(f"{THOR_TREE}/in1_input", 5000)
    board.write(f"{THOR_TREE}/curr1_input", 400)
    sensor = sensors.Ina3221Hwmon(str(board.root))
    assert sensor.scope == UNKNOWN_SCOPE
    running = sampler.Sampler(sensor).start()
    while len(running.parts) < 3:
        pass
    running.stop()
    span = sampler.window(running, running.parts[0][0], running.parts[2][0])
    assert (span["mean_w"], span["energy_j"], span["watts"]) == (None, None, None)
    assert span["rails_w"] == {"VDD_NEW": pytest.approx(2.0)}
    assert span["samples"] == 3
