"""One object a runtime: what is opened, written and judged, and how often.

Covers {backend,backends,float_graph,loaded}.py.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.export import backend, backends, loaded
from yolo_musgd.export.command import export_model
from yolo_musgd.export.settings import RUNTIMES, ExportSettings


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each runtime opened a model, and, under ``closed``, how many of them were closed."""
    count: Counter[str] = Counter()
    real = loaded.open_runtime

    def counting(artifact: object, name: str, *rest: object, **more: object) -> Runtime:
        count[name] += 1
        runtime = real(artifact, name, *rest, **more)  # type: ignore[arg-type]
        close = runtime.close

        def closing() -> None:
            count["closed"] += 1
            close()

        runtime.close = closing  # type: ignore[method-assign]
        return runtime

    monkeypatch.setattr(loaded, "open_runtime", counting)
    return count


def test_every_runtime_of_the_settings_is_one_object() -> None:
    assert tuple(backends.BACKENDS) == RUNTIMES
    assert {name for name, one in backends.BACKENDS.items() if one.judged_by != name} == {"tensorrt"}
    assert backends.BACKENDS["tensorrt"].folder_name("best", "int8") == "best_int8_tensorrt_model"


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_model_is_opened_once_and_its_manifest_written_once(
    precision: str, random_checkpoint: Path, tiny_data: Path, tmp_path: Path, opened: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written: list[dict] = []
    real = backend.write_artifact
    monkeypatch.setattr(backend, "write_artifact", lambda *a: (written.append(dict(a[-1])), real(*a)))
    settings = ExportSettings(
        model=str(random_checkpoint), data=str(tiny_data), imgsz=64, precision=precision, runtime="onnxruntime",
        calibration_images=4, val_images=2, project=str(tmp_path),
    )  # fmt: skip
    result = export_model(settings)
    assert opened == {"onnxruntime": 2, "closed": 2}  # the FP32 graph and the artifact
    assert len(written) == 1
    assert written[0]["latency_ms_p50"]["this"] == result.latency_ms["onnxruntime"]
    assert json.loads((result.artifacts[0].folder / "manifest.json").read_text())["latency_ms_p50"]["this"] > 0


@pytest.mark.parametrize(("calibration", "share"), [("percentile", 99.5), ("minmax", 100.0)])
def test_ncnn_measures_what_calibration_says(
    calibration: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(backends, "export_by_ultralytics", lambda *_: tmp_path)
    monkeypatch.setattr(backends.ncnn, "FloatNetwork", lambda source, images, percentile: given.append(percentile))
    settings = ExportSettings(calibration=calibration, percentile=99.5)
    checkpoint = SimpleNamespace(path=Path("a.pt"))
    job = SimpleNamespace(settings=settings, checkpoint=checkpoint, precision="int8", head="raw", imgsz=64)
    graph = SimpleNamespace(job=job, work=tmp_path, images=SimpleNamespace(files=()))
    (tmp_path / "ncnn").mkdir()
    assert backends.NcnnBackend(graph, tmp_path)._floating is None  # type: ignore[arg-type]
    assert given == [share]


def test_a_finished_tensorrt_artifact_opens_in_the_runtime_that_judged_it(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    settings = ExportSettings(
        model=str(random_checkpoint), target="jetson-nano", imgsz=64, project=str(tmp_path), lint=False
    )
    built = export_model(settings).artifacts[0]
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert (manifest["runtime"], manifest["judged_by"].split()[0]) == ("tensorrt", "onnxruntime")
    again = backends.load_finished(built.folder, 1)
    assert again.runtime.name == "onnxruntime"
    assert again.runtime.infer(np.zeros((1, 3, 64, 64), np.float32)).shape == (7, 84)
    again.close()


def test_a_runtime_that_fails_is_left_out_and_closed(
    random_checkpoint: Path, tiny_data: Path, tmp_path: Path, opened: Counter[str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The second of two runtimes refuses the model after it was opened."""
    from yolo_musgd.edge.errors import UserError

    class Broken(backends.OnnxRuntimeBackend):
        name, suffix = "openvino", "openvino_model"

        def _examined(self) -> dict:
            raise UserError("it cannot be examined")

    monkeypatch.setitem(backends.BACKENDS, "openvino", Broken)
    settings = ExportSettings(
        model=str(random_checkpoint), data=str(tiny_data), imgsz=64, precision="fp32", val_images=2,
        project=str(tmp_path),
    )  # fmt: skip
    result = export_model(settings)
    assert [built.runtime for built in result.artifacts] == ["onnxruntime"]
    assert "openvino is left out: it cannot be examined" in caplog.text
    assert [path.name for path in result.folder.glob("*_model")] == ["random_fp32_onnx_model"]
    assert opened["closed"] == opened["onnxruntime"] == 3
