"""Models as they are timed."""

import contextlib

import pytest

from yolo_musgd.prune import measuring, stock_checkpoint

pytest.importorskip("onnxruntime", reason="extra export is not installed")
pytestmark = pytest.mark.slow


def test_runtimes_of_one_format_share_one_export(trained, tiny_data, monkeypatch):
    formats, real = [], measuring.export

    def counting(model, folder, fmt, imgsz):
        formats.append(fmt)
        return real(model, folder, fmt, imgsz)

    monkeypatch.setattr(measuring, "export", counting)
    model = stock_checkpoint.load(str(trained))[0]
    with measuring.Exported(model, 64, str(tiny_data)) as made:
        for runtime in ("onnx-int8", "onnx-fp32", "onnx-int8"):
            with contextlib.closing(made.open(runtime)) as opened:
                assert (opened.graph()["convolutions_int8"] > 0) == (runtime == "onnx-int8")
        found = measuring.times(made, made, "onnx-fp32")
        folder = made._made["onnx-int8"].parent
    assert formats == ["onnx"]
    assert found["base"] > 0 < found["pruned"]
    assert not folder.exists()
