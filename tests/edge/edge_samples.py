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
ORIN_JP7_PART = (
    "GR3D_FREQ 12%@[1300,1300] cpu@52.968C/52.968C CV0@-256C PMIC@100C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
# AGX Xavier, JetPack 4.2: martinkersner/gtop, pull request 7 on GitHub
AGX_XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C "
    "thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
# AGX Orin, JetPack 6, 2025-11-21: from the public README of a TensorRT sample for its accelerators (DLA)
AGX_ORIN = (
    "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU [90%@2201,100%@2201] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 CV0@73.625C CPU@77.281C "
    "Tboard@62C GPU@69.125C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 "
    "4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW"
)
# AGX Orin, 64 GB, JetPack 6, idle, 2024-03-17: a log that is quoted in a public plotting script; a rail that is
# switched off reads below zero
AGX_ORIN_IDLE = (
    "03-17-2024 18:54:10 RAM 10239/62841MB (lfb 442x4MB) SWAP 1/31421MB (cached 0MB) CPU [0%@1728,0%@1728,off,off] "
    "GR3D_FREQ 0% cpu@37.5C tboard@27C soc2@34.562C tdiode@27.5C soc0@34.531C tj@37.5C soc1@33.656C VDD_GPU_SOC "
    "1592mW/1592mW VDD_CPU_CV -398mW/-398mW VIN_SYS_5V0 2624mW/2624mW VDDQ_VDD2_1V8AO 403mW/403mW"
)
# AGX Orin, 32 GB, JetPack 6, idle, 2025-09-01: the manual of a robot that has one; no rail of its own for the memory
AGX_ORIN_32 = (
    "09-01-2025 10:55:25 RAM 1313/30697MB (lfb 37x4MB) SWAP 0/15348MB (cached 0MB) CPU [0%@729,0%@729,off,off] "
    "GR3D_FREQ 0% cpu@43.343C soc2@39.812C soc0@40.312C tj@43.343C soc1@38.843C VDD_GPU_SOC 1995mW/1995mW VDD_CPU_CV "
    "0mW/0mW VIN_SYS_5V0 2524mW/2524mW"
)
# Orin Nano, 8 GB, JetPack 6, idle, 2025-09-21: a log that is quoted in a public monitor
ORIN_NANO_IDLE = (
    "09-21-2025 15:38:17 RAM 3645/7620MB (lfb 63x4MB) SWAP 236/3810MB (cached 0MB) CPU [1%@729,1%@729,4%@729,1%@729,"
    "0%@729,0%@729] EMC_FREQ 0%@204 GR3D_FREQ 0%@[305] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 "
    "cpu@44.125C soc2@43.375C soc0@42.125C gpu@44.531C tj@44.531C soc1@43.156C VDD_IN 2957mW/2957mW "
    "VDD_CPU_GPU_CV 486mW/486mW VDD_SOC 1012mW/1012mW"
)
# AGX Thor, Jetson Linux 38.4, idle, 2026-04-21: a recorded sample in public notes on tegrastats
THOR = (
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,0%@972,8%@972] EMC_FREQ 0%@2750 GR3D_FREQ "
    "@[314,314,314] NVENC0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C tj@38.875C soc012@37.468C "
    "gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN "
    "19780mW/19780mW"
)
# Xavier NX, JetPack 4: a line that is quoted in a public monitor
XAVIER_NX = (
    "RAM 2156/7471MB (lfb 1419x4MB) CPU [3%@729,2%@729,2%@729,2%@729,0%@729,0%@729] EMC_FREQ 0%@204 GR3D_FREQ 0%@[114] "
    "VIC_FREQ 115 APE 25 PLL@36C CPU@38.5C Tboard@32C GPU@34C PMIC@100C AUX@36C Tdiode@35.75C VDD_IN 2594/2594 "
    "VDD_CPU_GPU_CV 307/307 VDD_SOC 922/922"
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
