"""runtimes/executorch_runtime.py: the same output as PyTorch's, and a damaged file costs no process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("executorch.runtime", exc_type=ImportError)

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime

FACTS = "names:\n  0: cat\n  1: dog\nimgsz:\n- 64\n- 64\ntask: detect\nend2end: false\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A network of two convolutions, (1, 6, 256), as Ultralytics' exporter makes it."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.SiLU(), torch.nn.Conv2d(8, 6, 3, 2, 1), torch.nn.Sigmoid()]
    network = torch.nn.Sequential(*convolutions, torch.nn.Flatten(2)).eval()
    graph = torch.export.export(network, (torch.rand(1, 3, 64, 64),))
    made = to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()]).to_executorch()
    folder = tmp_path_factory.mktemp("executorch")
    (folder / "model.pte").write_bytes(made.buffer)
    (folder / "metadata.yaml").write_text(FACTS)
    return folder, network


@pytest.mark.parametrize("threads", [1, 2])
def test_output_is_that_of_pytorch(threads: int, model: tuple[Path, object]) -> None:
    import torch

    folder, network = model
    artifact = open_artifact(str(folder))
    assert (artifact.format, artifact.head, artifact.imgsz) == ("executorch", "raw", (64, 64))
    runtime = open_runtime(artifact, None, threads)
    assert "XnnpackBackend" in runtime.detail["backends"]
    rng = np.random.default_rng(0)
    first = None
    for _ in range(3):
        blob = rng.random((1, 3, 64, 64), np.float32)
        found = runtime.infer(blob)
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(torch.from_numpy(blob))[0].numpy(), atol=1e-5)
        first = (found, found.copy()) if first is None else first
    np.testing.assert_array_equal(*first)  # no view of memory that the next frame overwrites
    runtime.close()


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.99])
def test_a_damaged_file_is_one_line(kept: float, model: tuple[Path, object], tmp_path: Path) -> None:
    data = (model[0] / "model.pte").read_bytes()
    (tmp_path / "model.pte").write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    (tmp_path / "metadata.yaml").write_text(FACTS)
    with pytest.raises(UserError, match="ExecuTorch cannot run"):
        open_runtime(open_artifact(str(tmp_path)), "executorch", 1)


def test_another_kind_of_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(b"x" * 500)
    (tmp_path / "metadata.yaml").write_text(FACTS)
    with pytest.raises(UserError, match="ExecuTorch cannot run"):
        open_runtime(open_artifact(str(tmp_path)), "executorch", 1)
