"""Fine-tuning after the cut."""

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
    plain = finetuning.training_arguments(PruneSettings(cfg="None"), "x.yaml", 64)
    assert "optimizer" not in plain
    with pytest.raises(UserError, match=r"cfg=none\.yaml does not exist"):
        finetuning.training_arguments(PruneSettings(cfg="none.yaml"), "x.yaml", 64)


def test_distillation_needs_a_release_that_has_it(monkeypatch):
    from ultralytics import cfg

    monkeypatch.delitem(cfg.DEFAULT_CFG_DICT, "distill_model", raising=False)
    with pytest.raises(UserError, match="distill=True needs an ultralytics with distill_model"):
        finetuning.training_arguments(PruneSettings(distill=True), "x.yaml", 64)
