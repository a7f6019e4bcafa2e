"""Fine-tuning after the cut."""

import csv
import json
import os

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune import finetuning
from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.settings import PruneSettings


def test_the_narrower_model_costs_what_was_asked(built):
    from ultralytics.nn.tasks import DetectionModel

    model = built("yolo11n.yaml")
    wanted = 0.6 * PruneGraph(model, 64).cost().flops
    content = finetuning.narrower(model, wanted, 64)
    made = DetectionModel(content, verbose=False)
    assert PruneGraph(made, 64).cost().flops == pytest.approx(wanted, rel=0.1)  # widths come in eights
    assert len(list(made.model)) == len(list(model.model))


def test_the_arms_train_by_the_recipe_and_what_the_user_says_wins():
    assert finetuning.training_arguments(PruneSettings(), "x.yaml", 64)["optimizer"] == "MuSGD"
    settings = PruneSettings(cfg="muon-finetune.yaml", optimizer="SGD", lr0=0.02, epochs=7)
    arguments = finetuning.training_arguments(settings, "x.yaml", 64)
    assert (arguments["optimizer"], arguments["lr0"], arguments["epochs"], arguments["imgsz"]) == ("SGD", 0.02, 7, 64)
    assert arguments["muon_share"] == 0.5
    assert finetuning.training_arguments(PruneSettings(epochs=0), "x.yaml", 64)["optimizer"] == "MuSGD"
    plain = finetuning.training_arguments(PruneSettings(cfg="None"), "x.yaml", 64)
    assert "optimizer" not in plain
    with pytest.raises(UserError, match=r"cfg=none\.yaml does not exist"):
        finetuning.training_arguments(PruneSettings(cfg="none.yaml"), "x.yaml", 64)


def test_the_args_of_a_run_are_a_recipe_without_where_it_was_and_what_it_started_from(tmp_path):
    """Else the old run would be written over, or gone on with; or the arm would start from other weights than its own:
    ``pretrained=yolo26n.pt`` trained that in place of the pruned model, ``pretrained=False`` the whole architecture.
    ``save=False`` trained without keeping the best epoch, ``time=`` for other epochs than the ones asked for."""
    file = tmp_path / "args.yaml"
    file.write_text(
        "task: detect\nmode: train\nmodel: yolo26n.yaml\ndata: old.yaml\nproject: runs\nname: old\nsave_dir: runs/old\n"
        "exist_ok: true\nresume: runs/old/weights/last.pt\ncfg: musgd.yaml\nepochs: 99\nlr0: 0.02\noptimizer: MuSGD\n"
        "pretrained: yolo26n.pt\nsave: false\ntime: 0.5\n"
    )
    arguments = finetuning.training_arguments(PruneSettings(cfg=str(file)), "x.yaml", 64)
    assert (arguments["lr0"], arguments["epochs"], arguments["data"]) == (0.02, 30, "x.yaml")
    gone = {"model", "mode", "project", "name", "save_dir", "resume", "cfg", "pretrained", "save", "time"}
    assert not gone & set(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lro: 0.1", "cfg=.*: 'lro' is not a valid YOLO argument"),
        ("lr0: fast", "cfg=.*: 'lr0=fast' is of invalid type str"),
        ("optimizer: MuSDG", "MuSDG"),
        ("optimizer: MuSGD\nadapt_factor: -1", "adapt_factor must be"),
    ],
)
def test_a_recipe_that_cannot_be_trained_by_is_told_before_any_work(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        finetuning.training_arguments(PruneSettings(cfg=str(file)), "x.yaml", 64)


def test_distillation_needs_a_release_that_has_it(monkeypatch):
    from ultralytics import cfg

    monkeypatch.delitem(cfg.DEFAULT_CFG_DICT, "distill_model", raising=False)
    with pytest.raises(UserError, match=r"teacher= needs an ultralytics with distill_model, .* has none: pip install"):
        finetuning.check_teacher("base", {0: "a"}, "detect")


@pytest.mark.slow
def test_a_teacher_is_checked_before_any_work(trained, tmp_path):
    from ultralytics.cfg import DEFAULT_CFG_DICT

    if "distill_model" not in DEFAULT_CFG_DICT:
        pytest.skip("this ultralytics has no distillation")
    names = {0: "circle", 1: "square", 2: "triangle"}
    finetuning.check_teacher("base", names, "detect")
    finetuning.check_teacher(str(trained), names, "detect")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    for teacher, of, task, message in (
        ("base", names, "classify", "is for models with a detection head"),
        ("nowhere.pt", names, "detect", "teacher=nowhere.pt is no checkpoint that is there: give base"),
        (str(tmp_path / "broken.pt"), names, "detect", "cannot be loaded"),
        (str(trained), {0: "circle", 1: "triangle", 2: "square"}, "detect", "3 classes, in order; it is a detect"),
        (str(trained), names, "segment", "must be a segment model"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            finetuning.check_teacher(teacher, of, task)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_taught_student_resumes_and_leaves_its_teacher_behind(trained, tiny_data, run, tmp_path):
    """Pruned, taught by the base, killed after the first epoch, resumed; plain Ultralytics loads the student."""
    from ultralytics.cfg import DEFAULT_CFG_DICT

    if "distill_model" not in DEFAULT_CFG_DICT:
        pytest.skip("this ultralytics has no distillation")
    words = [f"model={trained}", f"data={tiny_data}", "teacher=base", "activation=relu", "epochs=2", "images=16"]
    words += ["batch=8", "bench=none", f"project={tmp_path}", "name=run"]
    code = f"""
import os
from ultralytics.utils.callbacks.base import default_callbacks
default_callbacks["on_model_save"].append(lambda trainer: os._exit(7))
from yolo_musgd.cli import main
main({["prune", *words]!r})
"""
    done = run("python", "-c", code)
    assert done.returncode == 7, done.stdout + done.stderr
    done = run("yolo-musgd", "prune", f"resume={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming training DistillationModel" in done.stdout + done.stderr
    with (tmp_path / "run" / "finetune" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row["train/dis_loss"]) > 0 for row in rows)
    check = f"""
from ultralytics import YOLO
best, cut = (YOLO({str(tmp_path / "run")!r} + name).model for name in ("/best.pt", "/pruned.pt"))
assert type(best).__name__ == "DetectionModel"
sizes = [[tuple(p.shape) for p in m.state_dict().values()] for m in (best, cut)]
assert sizes[0] == sizes[1]
"""
    done = run("python", "-c", check, env={"YOLO_MUSGD": "0"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_that_was_moved_goes_on_where_it_lies_now(trained, tiny_data, run, tmp_path):
    """Killed after the first epoch, its folder renamed, gone on with from another working folder."""
    old, new, data = tmp_path / "old", tmp_path / "new", os.path.relpath(tiny_data, tmp_path)
    (tmp_path / "mine.yaml").write_text("optimizer: SGD\n")
    words = [f"model={trained}", f"data={data}", "epochs=2", "images=16", "batch=8", "bench=none", "project=old"]
    words += ["cfg=mine.yaml"]
    code = f"""
import os
from ultralytics.utils.callbacks.base import default_callbacks
default_callbacks["on_model_save"].append(lambda trainer: os._exit(7))
from yolo_musgd.cli import main
main({["prune", *words, "name=run"]!r})
"""
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 7, done.stdout + done.stderr
    old.rename(new)
    done = run("yolo-musgd", "prune", "resume=run", cwd=new)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not old.exists()
    assert len((new / "run" / "finetune" / "results.csv").read_text().splitlines()) == 3
    assert len(json.loads((new / "run" / "prune.json").read_text())["curves"]["finetune"]) == 2


@pytest.mark.parametrize(
    ("epoch", "meanwhile"),
    [(0, lambda last: last.write_bytes(last.read_bytes()[:9999])), (1, lambda last: None)],
    ids=["the checkpoint was cut off", "nothing is left to train"],
)
def test_an_arm_that_cannot_be_resumed_is_finished_all_the_same(
    trained, tiny_data, tmp_path, monkeypatch, epoch, meanwhile
):
    """By a power cut while a checkpoint was written, and by an end behind the last epoch, which Ultralytics refuses."""
    from ultralytics.utils.callbacks.base import default_callbacks
    from ultralytics.utils.patches import torch_load

    def interrupt(trainer):
        if trainer.epoch == epoch:
            raise KeyboardInterrupt

    arguments = {
        "data": str(tiny_data), "epochs": 2, "imgsz": 64, "batch": 8, "workers": 0, "device": "cpu", "plots": False,
        "optimizer": "SGD", "exist_ok": True,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setitem(default_callbacks, "on_model_save", [interrupt])
        with pytest.raises(KeyboardInterrupt):
            finetuning.train(str(trained), tmp_path, "finetune", arguments)
    meanwhile(tmp_path / "finetune" / "weights" / "last.pt")
    best = finetuning.train(str(trained), tmp_path, "finetune", arguments)
    saved = torch_load(best, map_location="cpu")
    assert (saved["epoch"], saved["optimizer"], saved["ema"]) == (-1, None, None)
    assert len(finetuning.curve(tmp_path, "finetune")) == 2
