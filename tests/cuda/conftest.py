"""Every body runs on a CUDA device where there is one, and on the CPU everywhere.

The CPU's turn takes the branches of a device with real values: the flag of a finite step stays a tensor that nobody
asks for, and kernels are planned as for a device.
"""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from cuda_cases import Place


@cache
def _no_device() -> str:
    message = "no CUDA device: the tests in tests/cuda run on the CPU alone"
    warnings.warn(message, stacklevel=1)  # once
    return message


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def place(request, monkeypatch) -> Place:
    """Where the body runs."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip(_no_device())
        return Place("cuda")
    for module in ("hybrid", "kernel_plan", "matrix_steps"):
        monkeypatch.setattr(f"yolo_musgd.optim.{module}.runs_ahead", lambda device: True, raising=False)
    return Place("cpu")
