from __future__ import annotations

import pytest


@pytest.fixture
def fake_gpu():
    """A mode in which CUDA tensors have shapes and no values; no GPU is needed for it, except by old releases."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            _ = torch.empty(2, device="cuda")[:1]
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"torch {torch.__version__} asks the driver even for a fake CUDA tensor: {error}")
    return FakeTensorMode
