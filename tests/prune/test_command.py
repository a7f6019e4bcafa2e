"""The command from end to end, and its checkpoint where the plugin is not: fresh processes, safe loading, export.

Covers run.py, measuring.py and pruning_report.py.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

PLAIN = {"YOLO_MUSGD": "0"}


def parameters(file):
    from ultralytics.utils.patches import torch_load

    content = torch_load(file, map_location="cpu")
    return sum(p.numel() for p in (content["ema"] or content["model"]).parameters())


def test_a_run_leaves_what_it_promises(pruned_run, trained):
    names = {p.name for p in pruned_run.iterdir()}
    assert names >= {"args.yaml", "best.pt", "pruned.pt", "prune.json", "report.md", "layers.png", "curve.png"}
    record = json.loads((pruned_run / "prune.json").read_text())
    assert record["cost"]["after"]["flops"] / record["cost"]["before"]["flops"] == pytest.approx(0.6, abs=0.01)
    assert record["split"] == "test", "not the split that picked the epoch"
    assert set(record["accuracy"]) == {"base", "cut", "recalibrated", "finetune"}
    assert {k: len(v) for k, v in record["curves"].items()} == {"finetune": 1}
    assert record["latency_ms"]["onnx-fp32"]["pruned"] < record["latency_ms"]["onnx-fp32"]["base"]
    assert parameters(pruned_run / "best.pt") == parameters(pruned_run / "pruned.pt") < 0.8 * parameters(trained)
    report = (pruned_run / "report.md").read_text()
    assert "-40" in report.replace("-39.", "-40.").replace("-41.", "-40.")
    assert not list(pruned_run.glob("part-*"))


def test_a_process_without_the_plugin_loads_validates_exports_and_predicts(pruned_run, tiny_data, run, tmp_path):
    model = tmp_path / "best.pt"
    shutil.copyfile(pruned_run / "best.pt", model)
    code = f"""
import os, sys
import numpy as np
from ultralytics import YOLO
from ultralytics.nn import tasks
yolo = YOLO({str(model)!r})
assert type(yolo.model).__module__ == "ultralytics.nn.tasks"
result = yolo.val(data={str(tiny_data)!r}, imgsz=64, batch=8, workers=0, plots=False, project={str(tmp_path)!r})
assert 0 <= result.box.map <= 1
yolo = YOLO({str(model)!r})
onnx = yolo.export(format="onnx", imgsz=64)
boxes = YOLO({str(model)!r}).predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
assert len(boxes) == 1
if hasattr(tasks, "_SafeLoad"):
    tasks.torch_safe_load({str(model)!r}, safe_only=True)
else:
    tasks.torch_safe_load({str(model)!r})
assert not [m for m in sys.modules if m.startswith("yolo_musgd.prune")], "the plugin was loaded"
"""
    done = run("python", "-c", code, env=PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["pruned.pt", "best.pt"])
def test_onnx_says_what_torch_says(pruned_run, tmp_path, name):
    ort = pytest.importorskip("onnxruntime")
    import numpy as np
    import torch
    from ultralytics import YOLO

    file = tmp_path / "best.pt"
    shutil.copyfile(pruned_run / name, file)
    path = YOLO(str(file)).export(format="onnx", imgsz=64, simplify=False)
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    theirs = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": image})[0][0]

    def computed(model, dtype):
        with torch.no_grad():
            found = model.to(dtype)(torch.from_numpy(image).to(dtype))
        return (found[0] if isinstance(found, tuple) else found)[0].numpy()

    model = YOLO(str(file)).model.float().fuse(verbose=False).eval()
    ours, exact = computed(model, torch.float32), computed(model, torch.float64)
    if ours.shape[-1] == 6:  # rows of equal score come in any order: match them by what they say
        order = [np.lexsort(np.round(rows, 3).T[::-1]) for rows in (ours, theirs)]
        scores = [np.sort(rows[:, 4]) for rows in (ours, theirs)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
        strong = [rows[o][rows[o][:, 4] > np.median(ours[:, 4])] for rows, o in zip((ours, theirs), order, strict=True)]
        assert len(strong[0]) == pytest.approx(len(strong[1]), abs=2)
    else:
        scale = np.abs(exact).max(axis=1, keepdims=True)  # an epoch leaves boxes thousands of pixels wide
        rounding = np.abs((ours - exact) / scale).max()  # and variances of .001: PyTorch's own float32 is off by .016
        assert np.abs((theirs - exact) / scale).max() < 1e-3 + rounding
        if name == "pruned.pt":  # well conditioned: equal to PyTorch itself
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-3)


def test_a_second_prune_and_bad_input(pruned_run, run, tmp_path, tiny_data):
    words = (f"model={pruned_run / 'best.pt'}", "flops=-0.2", "epochs=0", "images=16", "bench=none", "round_to=8")
    done = run("yolo-musgd", "prune", *words, f"project={tmp_path}", "name=again")
    assert done.returncode == 0, done.stdout + done.stderr
    assert parameters(tmp_path / "again" / "pruned.pt") < parameters(pruned_run / "best.pt")
    assert not (tmp_path / "again" / "best.pt").exists()

    other = tmp_path / "other.yaml"
    content = yaml.safe_load(tiny_data.read_text())
    content["names"] = {i: f"c{i}" for i in range(7)}
    other.write_text(yaml.safe_dump(content))
    for extra, message in (
        ((f"data={other}",), "has 7: prune with the data"),
        (("model=yolov10n.yaml", f"data={tiny_data}"), "YOLOv10"),
        (("model=nowhere.pt",), "model=nowhere.pt does not exist"),
        (("flops=-0.94", "max_ratio=0.2"), "cannot be met, the nearest is"),
        (("imgsz=70",), "imgsz must be a multiple of 32, got 70"),
        (("cfg=nothing.yaml",), "cfg=nothing.yaml does not exist"),
    ):
        done = run("yolo-musgd", "prune", *words, *extra, f"project={tmp_path}", "name=bad")
        assert done.returncode == 2, (extra, done.stdout + done.stderr)
        assert message in done.stderr, (extra, done.stderr)
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "bad").exists(), "nothing is left behind"


def test_training_keeps_the_shapes_and_resume_too(pruned_run, tiny_data, run, tmp_path, train_words):
    model = pruned_run / "best.pt"
    words = [w for w in train_words if not w.startswith("model=")]
    words += [f"data={tiny_data}", "plots=False", f"project={tmp_path}", "name=t", "epochs=2", "optimizer=MuSGD"]
    stop = "import yolo_musgd, os\nfrom ultralytics import YOLO\n"
    stop += "def leave(trainer):\n    if trainer.epoch == 0: os._exit(0)\n"
    stop += f"y = YOLO({str(model)!r})\ny.add_callback('on_model_save', leave)\n"
    keys = dict(w.split("=", 1) for w in words)
    keys = {k: {"False": False}.get(v, int(v) if v.isdigit() else v) for k, v in keys.items()}
    done = run("python", "-c", stop + f"y.train(**{keys!r})")
    last = tmp_path / "t" / "weights" / "last.pt"
    assert last.exists(), done.stdout + done.stderr
    assert parameters(last) == parameters(model)
    done = run("yolo", "train", "resume", f"model={last}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming training" in done.stdout + done.stderr
    assert parameters(tmp_path / "t" / "weights" / "best.pt") == parameters(model)


def test_resume_of_the_command_does_only_what_is_left(pruned_run, trained, run, tmp_path):
    """Here the control arms, which an interruption would have left out."""
    folder = tmp_path / "half"
    shutil.copytree(pruned_run, folder)
    for name in ("best.pt", "report.md"):
        (folder / name).unlink()
    content = yaml.safe_load((folder / "args.yaml").read_text())
    assert Path(content["data"]).is_absolute()
    content |= {"control": True, "scratch": True, "scratch_epochs": 1, "model": "moved-away.pt"}
    (folder / "args.yaml").write_text(yaml.safe_dump(content))
    record = json.loads((folder / "prune.json").read_text())
    record["latency_ms"] = {"onnx-fp32": {"base": 2.0, "pruned": 1.0}}
    (folder / "prune.json").write_text(json.dumps(record))
    before = (folder / "finetune" / "results.csv").stat().st_mtime_ns
    done = run("yolo-musgd", "prune", f"resume={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "best.pt").exists()
    assert "| onnx-fp32, one thread (ms of CPU, p50) | 2.0 | 1.0 | -50.0% |" in (folder / "report.md").read_text()
    assert (folder / "finetune" / "results.csv").stat().st_mtime_ns == before
    assert "control: base, fine-tuned as long" in (folder / "report.md").read_text()
    assert "control: narrower model from scratch" in (folder / "report.md").read_text()
    assert parameters(folder / "scratch" / "weights" / "best.pt") < 0.8 * parameters(trained)
    record = json.loads((folder / "prune.json").read_text())
    assert {k: len(v) for k, v in record["curves"].items()} == {"finetune": 1, "control": 1, "scratch": 1}
    (folder / "prune.json").unlink()  # killed between the pruned model and its record
    for nothing in (tmp_path, folder):
        done = run("yolo-musgd", "prune", f"resume={nothing}")
        assert done.returncode == 2
        assert "no pruned model to go on with" in done.stderr


def test_a_test_split_that_cannot_judge_is_left_alone(trained, tiny_data, tmp_path):
    """A folder that was never downloaded, or labels that are kept secret: val judges."""
    from yolo_musgd.prune.run import Run
    from yolo_musgd.prune.settings import PruneSettings

    settings = {"model": str(trained), "images": 16, "bench": "none"}
    assert Run(PruneSettings(data=str(tiny_data), **settings)).split == "test"
    absent = tmp_path / "absent.yaml"
    absent.write_text(tiny_data.read_text().replace("images/test", "images/nowhere"))
    assert Run(PruneSettings(data=str(absent), **settings)).split == "val"


def test_a_ladder_is_refused_before_any_work_where_it_cannot_be_written(trained, tiny_data, monkeypatch):
    from yolo_musgd.prune import measuring
    from yolo_musgd.prune.run import Run
    from yolo_musgd.prune.settings import PruneSettings
    from yolo_musgd.settings import UserError

    monkeypatch.setitem(measuring.NEEDS, "onnx-fp32", ("a_package_that_is_not_there",))
    words = {"model": str(trained), "data": str(tiny_data), "images": 16, "bench": "none"}
    assert Run(PruneSettings(**words)).runtimes == []
    with pytest.raises(UserError, match="needs a_package_that_is_not_there: pip install"):
        Run(PruneSettings(**words, ladder=True))


def test_a_ladder_that_fails_leaves_no_folder(trained, tiny_data, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="extra export is not installed")
    from yolo_musgd.prune import command, ladder
    from yolo_musgd.settings import UserError

    def full(*args):
        raise UserError("the third model cannot be met")

    monkeypatch.setattr(ladder, "by_arithmetic", full)
    words = {"model": str(trained), "data": str(tiny_data), "images": "16", "ladder": "True"}
    with pytest.raises(UserError, match="cannot be met"):
        command.main({**words, "project": str(tmp_path / "out")})
    assert not list((tmp_path / "out").iterdir())
