"""The timing cache of TensorRT's builder, behind a stand-in for its configuration (three calls of TensorRT's API)."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.tensorrt import save_timing_cache, use_timing_cache
from yolo_musgd.export import tensorrt_graph


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """Refuses timings that do not begin with its GPU's name, as TensorRT does."""

    def __init__(self, gpu: bytes) -> None:
        self.gpu, self.cache = gpu, Cache(b"")

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache.content and not cache.content.startswith(self.gpu):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache

    def build(self) -> None:
        self.cache.content = (self.cache.content or self.gpu) + b"+layer"


@pytest.mark.parametrize(("second", "expected"), [(b"orin", b"orin+layer+layer"), (b"nano", b"nano+layer")])
def test_timings_are_kept_for_the_same_gpu_only(second: bytes, expected: bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "model.timings")
    for gpu in (b"orin", second):
        config = Config(gpu)
        cache = use_timing_cache(config, path)
        config.build()
        save_timing_cache(config, cache, path)
    assert Path(path).read_bytes() == expected
    assert not list(tmp_path.glob("*.part"))


def test_builders_without_a_cache_are_left_alone(tmp_path: Path) -> None:
    assert use_timing_cache(object(), str(tmp_path / "x")) is None
    assert use_timing_cache(Config(b"orin"), None) is None
    save_timing_cache(object(), None, str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


def test_an_engine_needs_tensorrt(graphs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="engine=True: tensorrt cannot be loaded") as caught:
        tensorrt_graph.build_engine(graphs["raw"], "fp16")
    assert "JetPack" in str(caught.value)
    assert not graphs["raw"].with_suffix(".engine").exists()
