"""Pruned models are trained as they are, and nothing regrows them silently."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.train import pruned
from yolo_musgd.train.trainer import trainer_class


@pytest.fixture
def slim():
    """A model that is narrower than its YAML in one place, marked as pruned."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo26n.yaml", nc=3, verbose=False)
    layer = model.model[23].cv2[0]
    layer[0].conv = nn.Conv2d(64, 8, 3, padding=1, bias=False)
    layer[0].bn = nn.BatchNorm2d(8)
    layer[1].conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    model.yaml = {**model.yaml, pruned.MARK: {"times": 1}}
    return model


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_a_pruned_model_is_trained_as_it_is(slim):
    slim.half()
    for p in slim.parameters():
        p.requires_grad_(False)
    model = pruned.trainable(slim, {"nc": 3})
    assert count(model) == count(slim)
    assert model is not slim
    assert all(p.requires_grad and p.dtype == torch.float32 for n, p in model.named_parameters() if ".dfl." not in n)
    assert pruned.is_pruned(model)


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo11n.yaml"])
def test_other_classes_get_a_new_last_layer(name):
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(name, nc=3, verbose=False)
    model.yaml = {**model.yaml, pruned.MARK: {"times": 1}}
    fresh = DetectionModel(name, nc=3, verbose=False)
    found = pruned.trainable(model, {"nc": 5})
    x = torch.rand(1, 3, 64, 64)
    raw = found.train()(x)
    raw = raw.get("one2many", raw) if isinstance(raw, dict) else raw
    if isinstance(raw, dict):
        assert raw["scores"].shape[1] == 5
    assert found.eval()(x)[0].shape[-2] in (9, 84, 300)  # raw, or at most as many rows as anchors
    head, old = found.model[-1], fresh.model[-1]
    assert (head.nc, head.no - old.no, found.yaml["nc"]) == (5, 2, 5)
    assert model.model[-1].nc == 3, "the given model is not changed"


def test_class_weights_of_an_earlier_training_do_not_stay(slim):
    """``cls_pw=`` leaves them in the checkpoint: they weighted the next training, and broke one of other classes."""
    slim.class_weights = torch.tensor([0.5, 1.0, 1.5])
    model = pruned.trainable(slim, {"nc": 5})
    assert getattr(model, "class_weights", None) is None
    model.args = SimpleNamespace(**DEFAULT_CFG_DICT)
    box = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    batch = {"img": torch.rand(1, 3, 64, 64), "cls": torch.tensor([[4.0]]), "bboxes": box, "batch_idx": torch.zeros(1)}
    assert model.train().loss(batch)[0].isfinite().all()
    assert slim.class_weights.tolist() == [0.5, 1.0, 1.5], "the given model is not changed"


def test_images_of_other_channels_are_refused(slim):
    with pytest.raises(UserError, match="takes 3-channel images, the data set has 1"):
        pruned.trainable(slim, {"nc": 3, "channels": 1})


def test_poses_of_other_keypoints_are_refused():
    from ultralytics.nn.tasks import PoseModel

    model = PoseModel("yolo26n-pose.yaml", nc=1, data_kpt_shape=[17, 3], verbose=False)
    model.yaml = {**model.yaml, pruned.MARK: {"times": 1}}
    assert pruned.trainable(model, {"nc": 1, "kpt_shape": (17, 3)}).model[-1].kpt_shape == model.model[-1].kpt_shape
    for shape in ([4, 3], [17, 2]):
        with pytest.raises(UserError, match=rf"keypoints of \[17, 3\], the data set of \[{shape[0]}, {shape[1]}\]"):
            pruned.trainable(model, {"nc": 1, "kpt_shape": shape})


def trainer_of(base, **arguments):
    """A trainer that has its arguments and its data set's description, and nothing else."""
    trainer = object.__new__(trainer_class(base))
    trainer.args = SimpleNamespace(**{**DEFAULT_CFG_DICT, **arguments})
    trainer.data, trainer.resume = {"nc": 3, "channels": 3, "names": {0: "a", 1: "b", 2: "c"}}, False
    return trainer


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_that_of_the_training(dropout):
    from ultralytics.models.yolo.classify import ClassificationTrainer
    from ultralytics.nn.tasks import ClassificationModel

    model = ClassificationModel("yolo26n-cls.yaml", nc=3, verbose=False)
    whole = trainer_of(ClassificationTrainer, dropout=dropout).get_model(cfg=model.yaml, weights=model, verbose=False)
    model.yaml = {**model.yaml, pruned.MARK: {"times": 1}}
    model.model[-1].drop.p = 0.1  # of the training before
    cut = trainer_of(ClassificationTrainer, dropout=dropout).get_model(cfg=model.yaml, weights=model, verbose=False)
    assert whole.model[-1].drop.p == cut.model[-1].drop.p == dropout


@pytest.mark.parametrize("other", [None, "yolo26n.yaml"])
def test_what_is_built_anew_from_a_pruned_models_yaml_is_not_called_pruned(slim, other):
    """It has the whole width again: other channels and keypoints are no reason to refuse it."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel

    weights = other and DetectionModel(other, nc=3, verbose=False)
    found = trainer_of(DetectionTrainer, pretrained=other or False).get_model(slim.yaml, weights, verbose=False)
    assert count(found) > count(slim)
    assert not pruned.is_pruned(found)
    assert pruned.is_pruned(slim), "the given YAML is not changed"


def test_a_trainer_that_would_regrow_it_warns_loudly(slim, caplog):
    from ultralytics.nn.tasks import BaseModel, DetectionModel

    plugin.register()
    full = DetectionModel(copy.deepcopy({k: v for k, v in slim.yaml.items() if k != pruned.MARK}), nc=3, verbose=False)
    with caplog.at_level("WARNING", logger="ultralytics"):
        full.load(slim, verbose=False)
    assert "would REGROW a pruned model" in caplog.text
    assert f"{count(slim):,} to {count(full):,}" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="ultralytics"):
        full.load(DetectionModel("yolo26n.yaml", nc=3, verbose=False), verbose=False)
    assert "REGROW" not in caplog.text
    plugin.unregister()
    assert not hasattr(BaseModel.load, "__wrapped__"), "undone"
    plugin.register()
