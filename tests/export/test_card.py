"""The model card that the hub reads, and its upload, to a stand-in of the hub's client."""

import shlex
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from yolo_musgd.edge.errors import UserError
from yolo_musgd.export import card as cards
from yolo_musgd.export.manifest import predict_words


def job(precision="int8"):
    return SimpleNamespace(
        precision=precision, imgsz=64, splits=SimpleNamespace(data="sets/shapes.yaml"),
        target=SimpleNamespace(name="x86"), checkpoint=SimpleNamespace(path=Path("best.pt"), names={0: "a|b", 1: "c"}),
    )  # fmt: skip


def built(score):
    accuracy = score and SimpleNamespace(map50_95=score, map50=score + 0.1)
    return SimpleNamespace(
        folder=Path("best of 3_int8_onnx_model"),
        runtime="onnxruntime",
        model="model.onnx",
        size_bytes=2_000_000,
        accuracy=accuracy,
    )


def test_front_matter_is_what_the_hub_reads():
    text = cards.card(job(), [built(0.5)], SimpleNamespace(map50_95=0.52, map50=0.6), "# best\n\ntable\n")
    _, head, body = text.split("---\n", 2)
    content = yaml.safe_load(head)
    assert content["license"] == "agpl-3.0"
    assert content["pipeline_tag"] == "object-detection"
    (model,) = content["model-index"]
    assert model["name"] == "best"
    values = {r["task"]["name"]: r["metrics"][0]["value"] for r in model["results"]}
    assert values == {"fp32": 0.52, "int8, onnxruntime": 0.5}
    assert body.startswith("\n# best\n")
    assert r"a\|b, c" in body
    commands = [shlex.split(line) for line in body.splitlines() if line.startswith("yolo")]
    assert commands[0][:3] == ["yolo", "predict", "model=best of 3_int8_onnx_model/model.onnx"]
    assert commands[1] == ["yolo-musgd", "bundle", "model=best of 3_int8_onnx_model", "target=x86"]


@pytest.mark.parametrize(
    ("suffix", "model"),
    [
        ("onnx_model", "model.onnx"), ("mnn_model", "model.mnn"), ("ncnn_model", "model.ncnn.param"),
        ("openvino_model", "model.xml"), ("executorch_model", "model.pte"), ("tensorrt_model", "model.onnx"),
    ],
)  # fmt: skip
def test_ultralytics_knows_what_a_readme_gives_it(suffix, model):
    from ultralytics.engine.exporter import export_formats

    (word,) = (w for w in shlex.split(predict_words(f"a b_{suffix}", model, 64)) if w.startswith("model="))
    suffixes = [known for known in export_formats()["Suffix"] if known]
    assert any(known in Path(word).name for known in suffixes)


def test_what_was_not_measured_is_not_in_it():
    content = yaml.safe_load(cards.card(job(), [built(None)], None, "# best").split("---\n", 2)[1])
    assert "model-index" not in content


@pytest.mark.parametrize("name", ["me", "me/", "/x", "me/a/b", "me/a b", "../x", "me/..x y"])
def test_a_name_that_is_none(name):
    with pytest.raises(UserError, match="must be <user>/<model>"):
        cards.check_push(name, True)


@pytest.fixture
def folder(tmp_path):
    for name in ("README.md", "m/model.onnx", "edge.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_a_dry_run_needs_no_hub(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    cards.check_push("me/model", True)
    assert cards.push(folder, "me/model", True) == ["README.md", "m/model.onnx"]


def test_an_upload_goes_to_a_private_repository(folder, monkeypatch):
    calls = []

    class HfApi:
        def create_repo(self, repo, **words):
            calls.append((repo, words))

        def upload_folder(self, **words):
            calls.append(words)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    cards.push(folder, "me/model", False)
    assert calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        {"folder_path": str(folder), "repo_id": "me/model", "allow_patterns": ["README.md", "m/model.onnx"]},
    ]


def test_a_refusal_is_one_line(folder, monkeypatch):
    class HfApi:
        def create_repo(self, repo, **words):
            raise RuntimeError("401 Unauthorized\nlong story")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    with pytest.raises(UserError, match=r"push=me/model failed: 401 Unauthorized; the export itself is in"):
        cards.push(folder, "me/model", False)


def test_a_missing_package_is_named_before_the_export(monkeypatch):
    monkeypatch.setattr(cards, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"push= needs huggingface_hub: pip install .*\[hub\]"):
        cards.check_push("me/model", False)
