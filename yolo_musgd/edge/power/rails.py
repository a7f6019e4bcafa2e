"""Which power rails contain which: how a board's total follows from the names of its rails.

Jetson Nano, TX2, Xavier NX, Orin Nano and NX measure their input, which the other rails are parts of. AGX modules
measure rails that stand beside each other; the carrier board's own parts are in none of them. Sources: the power
chapters of the Jetson Linux developer guides; energymon's JetsonPowerRails.md (device trees of L4T 32.6);
jetson_stats on GitHub, issue 51 and pull request 900.
"""

from typing import Dict, Iterable, NamedTuple, Optional, Tuple

from ..errors import SensorError


class TotalRails(NamedTuple):
    """The rails whose sum is the total, what that total covers, and rails that are known to be inside of it."""

    rails: Tuple[str, ...]
    scope: str
    inside: Tuple[str, ...] = ()


INPUTS = (  # where one of these is, every other rail is a part of it
    TotalRails(("VIN",), "whole board, at its input (VIN)"),  # Thor's carrier board
    TotalRails(("POM_5V_IN",), "whole board, at its 5 V input (POM_5V_IN)"),
    TotalRails(("VDD_IN",), "the module, at its input (VDD_IN)"),
)
SUMS = (  # only where nothing else but ``inside`` is measured
    TotalRails(("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), "the module: sum of the rails of an AGX Xavier"),
    TotalRails(
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "the module: sum of the rails of an AGX Orin",
        ("VDDQ_VDD2_1V8AO",),  # the guide: its power is included in VIN_SYS_5V0
    ),
    TotalRails(("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), "the module: sum of the rails of a Thor"),
)
UNKNOWN_SCOPE = "single rails of a board that is not known; no total"
OFFSET_W = 0.5  # a rail that is switched off reads a little below zero (-0.392 W was seen on a Thor's VDD_GPU)


def total_rails(names: Iterable[str]) -> Optional[TotalRails]:
    """Return which of these rails add up to the total; None for a set of rails that is not known."""
    present = set(names)
    for total in INPUTS:
        if present.issuperset(total.rails):
            return total
    for total in SUMS:
        if present.issuperset(total.rails) and present.issubset(total.rails + total.inside):
            return total
    return None


def total_watts(rails: Dict[str, float]) -> Tuple[Optional[float], str]:
    """Return the board's watts, None where the set of rails is not known, and the rails that they are the sum of.

    Raises:
        SensorError: No rails, or a negative reading that is no mere offset.
    """
    if not rails:
        raise SensorError("no power rails in the reading")
    total = total_rails(rails)
    if total is None:
        return None, "not known, from {}".format(", ".join(sorted(rails)))
    parts = {name: rails[name] for name in total.rails}
    below = [name for name, watts in parts.items() if watts < (-OFFSET_W if len(parts) > 1 else 0)]
    if below:
        raise SensorError("the rail {} reads {:g} W".format(below[0], parts[below[0]]))
    return sum(max(watts, 0.0) for watts in parts.values()), " + ".join(total.rails)
