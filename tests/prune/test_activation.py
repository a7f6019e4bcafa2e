"""``prune activation=relu`` alone: the command, the checkpoint where the plugin is not, resume, INT8."""

import json
import shutil

import pytest

pytestmark = pytest.mark.slow

PLAIN = {"YOLO_MUSGD": "0"}
KINDS = """
def kinds(model):
    return {type(m.act).__name__ for m in model.modules() if hasattr(m, "act")} - {"Identity"}
"""


@pytest.fixture(scope="module")
def relu_run(once, tiny_data, run, trained):
    """Folder of a run that only replaces the activations and fine-tunes for an epoch."""

    def make(folder):
        done = run(
            "yolo-musgd", "prune", f"model={trained}", "flops=0", "activation=relu", "epochs=1", "images=16", "batch=8",
            "bench=none", f"project={folder}", "name=run",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "run"

    return once("relu", make)


def test_the_report_says_what_was_done(relu_run):
    record = json.loads((relu_run / "prune.json").read_text())
    assert record["activation"] == "relu"
    assert record["cost"]["before"] == record["cost"]["after"]
    report = (relu_run / "report.md").read_text()
    assert report.startswith("# best.pt, relu\n")
    assert "| relu, BatchNorm recalibrated |" in report
    assert "activations are relu now" in report


def test_plain_ultralytics_loads_it_and_trains_it_as_it_is(relu_run, tiny_data, run, tmp_path):
    model = shutil.copyfile(relu_run / "best.pt", tmp_path / "best.pt")
    code = f"""
import sys
import torch
from ultralytics import YOLO
{KINDS}
yolo = YOLO({str(model)!r})
assert kinds(yolo.model) == {{"ReLU"}}, kinds(yolo.model)
assert yolo.model.yaml["activation"] == "torch.nn.ReLU()" and "pruned" not in yolo.model.yaml
yolo.train(data={str(tiny_data)!r}, imgsz=64, epochs=1, batch=8, workers=0, plots=False, device="cpu",
           project={str(tmp_path)!r}, name="plain", exist_ok=True)
assert kinds(YOLO({str(tmp_path)!r} + "/plain/weights/best.pt").model) == {{"ReLU"}}
assert not [m for m in sys.modules if m.startswith("yolo_musgd.train")], "the plugin was loaded"
"""
    done = run("python", "-c", code, env=PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_resumed_training_keeps_it(trained, tiny_data, run, tmp_path, train_words):
    """``yolo train activation=relu``, killed after its first epoch; resumed; then fine-tuned without the word."""
    words = dict(w.split("=", 1) for w in train_words if not w.startswith("model="))
    words = {k: {"False": False}.get(v, int(v) if v.isdigit() else v) for k, v in words.items()}
    words |= {"data": str(tiny_data), "epochs": 2, "plots": False, "project": str(tmp_path), "name": "t"}
    words |= {"optimizer": "MuSGD", "activation": "relu"}
    code = f"""
import os
from ultralytics import YOLO
yolo = YOLO({str(trained)!r})
yolo.add_callback("on_model_save", lambda trainer: os._exit(0))
yolo.train(**{words!r})
"""
    done = run("python", "-c", code)
    last = tmp_path / "t" / "weights" / "last.pt"
    assert last.exists(), done.stdout + done.stderr
    done = run("yolo", "train", "resume", f"model={last}")
    assert done.returncode == 0, done.stdout + done.stderr
    check = f"""
from ultralytics import YOLO
{KINDS}
assert kinds(YOLO({str(trained)!r}).model) == {{"SiLU"}}
assert kinds(YOLO({str(last)!r}).model) == {{"ReLU"}}
"""
    done = run("python", "-c", check, env=PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_int8_says_what_it_is(relu_run, tiny_data, run, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    words = (f"model={relu_run / 'best.pt'}", "target=x86", "precision=int8", f"data={tiny_data}", "imgsz=64")
    done = run(
        "yolo-musgd",
        "export",
        *words,
        "runtime=onnxruntime",
        "search=False",
        "profile=True",
        f"project={tmp_path}",
        "name=e",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "e" / "best_int8_onnx_model" / "manifest.json").read_text())
    assert manifest["activation"] == "relu"
    assert set(manifest["scores"]) == {"matched", "shift", "conf", "f1", "recall"}
    assert manifest["conf"] is None, "an epoch teaches nothing worth a threshold"
    kinds = manifest["profile_ms"]
    assert kinds["QLinearConv"] > 0
    assert (
        not {"QLinearSigmoid", "QLinearMul"} & set(kinds) or kinds.get("QLinearSigmoid", 0) < kinds["QLinearConv"] / 5
    )
    assert "## Where the time goes" in (tmp_path / "e" / "report.md").read_text()
    assert (tmp_path / "e" / "profile.png").stat().st_size > 10_000
    assert manifest["fused"]["convolutions_int8"] >= 0.7 * manifest["fused"]["convolutions"]


@pytest.mark.parametrize(
    "command", [("yolo", "train", "optimizer=MuSGD"), ("yolo-musgd", "prune"), ("yolo-musgd", "pipeline")]
)
def test_a_wrong_word_is_one_line(command, trained, tiny_data, run, tmp_path):
    words = (f"model={trained}", f"data={tiny_data}", "activation=rleu", f"project={tmp_path}/out")
    done = run(*command, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "activation must be one of relu, relu6, hardswish, silu, got 'rleu'; did you mean relu?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
