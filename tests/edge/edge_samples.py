"""Recorded outputs of real boards, and a stand-in for a board's file tree and programs."""

from __future__ import annotations

import stat
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

NANO_JP4 = (
    "RAM 1655/3956MB (lfb 311x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@102,10%@102,11%@102,"
    "12%@102] EMC_FREQ 3%@1600 GR3D_FREQ 0%@76 APE 25 PLL@36.5C CPU@39C iwlwifi@44C PMIC@50C GPU@37C AO@47.5C "
    "thermal@38C POM_5V_IN 2132/2132 POM_5V_GPU 78/78 POM_5V_CPU 275/275"
)
ORIN_JP6 = (
    "04-27-2026 14:59:41 RAM 775/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729,0%@729,0%@729,0%@729,"
    "0%@729] GR3D_FREQ 0% cpu@48.468C soc2@47.531C soc0@48.062C gpu@48.562C tj@49.156C soc1@49.156C VDD_IN "
    "4761mW/4778mW VDD_CPU_GPU_CV 515mW/501mW VDD_SOC 1428mW/1428mW"
)
THOR_JP7 = (
    "GR3D_FREQ 12%@[1300,1300] cpu@52.968C/52.968C CV0@-256C PMIC@100C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
PMIC_PI5 = """   VDD_CORE_A current(7)=5.03652000A
   VDD_CORE_V volt(15)=0.89369880V
   DDR_VDD2_A current(6)=0.20000000A
   DDR_VDD2_V volt(14)=1.10000000V
    EXT5V_V volt(24)=4.92450000V
       BATT_V volt(25)=0.00000000V
"""
PMIC_OTHER = 'error=1 error_msg="Command not registered"\n'


class FakeBoard:
    """A tree that stands for / and a folder of programs that stand for a board's."""

    def __init__(self, base: Path) -> None:
        self.root, self.bin = base / "root", base / "bin"
        self.root.mkdir()
        self.bin.mkdir()

    def write(self, path: str, content: object) -> Path:
        """Write a sysfs file below the root."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{content}\n")
        return target

    def program(self, name: str, script: str) -> None:
        """Put an executable on the board's PATH."""
        target = self.bin / name
        target.write_text("#!/bin/sh\n" + script + "\n")
        target.chmod(target.stat().st_mode | stat.S_IXUSR)
