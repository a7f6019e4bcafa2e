"""Quantization-aware training is Ultralytics' own; with our optimizers it runs, and its checkpoint is told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from yolo_musgd.export.checkpoint import is_qat


class TensorQuantizer(nn.Module):
    """Stands in for ModelOpt's module of this name."""


def test_fake_quantizers_are_seen() -> None:
    assert is_qat(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(TensorQuantizer())))
    assert not is_qat(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.slow
def test_qat_with_our_optimizer(
    run, random_checkpoint: Path, tiny_data: Path, train_words: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    from ultralytics.utils import DEFAULT_CFG_DICT

    if "quantize" not in DEFAULT_CFG_DICT:
        pytest.skip("this Ultralytics has no quantization-aware training")
    words = [f"model={random_checkpoint}", f"data={tiny_data}", "epochs=1", *train_words[1:]]
    done = run("yolo", "train", *words, "optimizer=MuSGD", "quantize=8", f"project={tmp_path}", "name=q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = tmp_path / "q" / "weights" / "last.pt"
    refused = run("yolo-musgd", "export", f"model={checkpoint}", f"data={tiny_data}", "imgsz=64", cwd=tmp_path)
    assert refused.returncode == 2
    assert "trained with quantize=8" in refused.stderr
