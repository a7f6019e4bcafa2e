"""Activations are torch's own modules in Ultralytics' own classes, and a rebuild from the YAML agrees.

Covers batchnorm.py.
"""

import pytest
import torch
from torch import nn

from yolo_musgd import plugin
from yolo_musgd.train import activations
from yolo_musgd.train.settings import ACTIVATIONS


def model_of(name="yolo26n.yaml"):
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel(name, nc=3, verbose=False)


def kinds(model):
    """Class of the activation after every convolution, by name."""
    return {name: type(m.act) for name, m in model.named_modules() if hasattr(m, "act")}


def test_the_names_on_the_command_line_are_those_that_can_be_made():
    assert tuple(activations.KINDS) == ACTIVATIONS


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo11n.yaml", "yolov8n.yaml"])
@pytest.mark.parametrize("word", ACTIVATIONS)
def test_ultralytics_builds_the_same_from_the_yaml(name, word):
    from ultralytics.nn.modules import Conv
    from ultralytics.nn.tasks import DetectionModel

    model = model_of(name)
    before = kinds(model)
    count = activations.replace(model, word)
    expected = {k: activations.KINDS[word] if v is nn.SiLU else v for k, v in before.items()}
    assert kinds(model) == expected
    assert count == (0 if word == "silu" else sum(v is nn.SiLU for v in before.values()))
    default = Conv.default_act
    try:
        rebuilt = DetectionModel(dict(model.yaml), nc=3, verbose=False)
    finally:
        Conv.default_act = default  # older releases leave it changed
    assert kinds(rebuilt) == expected
    rebuilt.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(rebuilt.eval()(image)[0], model.eval()(image)[0])


def test_a_gate_is_no_activation():
    from ultralytics.nn.modules.conv import ChannelAttention

    model = model_of()
    model.model[0].gate = ChannelAttention(4)
    activations.replace(model, "relu")
    assert type(model.model[0].gate.act) is nn.Sigmoid


def test_back_and_again():
    model = model_of()
    image = torch.rand(1, 3, 64, 64)
    first = model.eval()(image)[0]
    activations.replace(model, "relu6")
    assert not torch.equal(model(image)[0], first)
    activations.replace(model, "silu")
    assert torch.equal(model(image)[0], first)
    assert activations.told(model.yaml) == "silu"


@pytest.mark.parametrize("text", ["torch.nn.GELU()", "nn.LeakyReLU(0.1)", 3, None])
def test_an_activation_of_the_users_own_is_left_to_the_host(text):
    config = {"nc": 3, activations.KEY: text}
    assert activations.told(config) is None
    assert activations.without(config) is config


@pytest.fixture
def trainer():
    """The mixin over a host trainer that builds a model as Ultralytics' does, without a data set."""
    from types import SimpleNamespace

    from ultralytics.models.yolo.detect import DetectionTrainer

    from yolo_musgd.train.trainer import trainer_class

    plugin.register()
    made = object.__new__(trainer_class(DetectionTrainer))
    made.args, made.data = SimpleNamespace(activation=None), {"nc": 3, "channels": 3, "names": {0: "a", 1: "b", 2: "c"}}
    return made


def test_the_trainer_builds_it_and_leaves_nothing_behind(trainer):
    from ultralytics.nn.modules import Conv

    trainer.args.activation = "relu"
    model = trainer.get_model(cfg="yolo26n.yaml", verbose=False)
    assert nn.SiLU not in kinds(model).values()
    trainer.args.activation = None
    again = trainer.get_model(cfg=model.yaml, weights=model, verbose=False)  # fine-tuned without the word
    assert kinds(again) == kinds(model)
    assert type(Conv.default_act) is nn.SiLU
    assert nn.SiLU in kinds(trainer.get_model(cfg="yolo26n.yaml", verbose=False)).values()


def test_a_pruned_model_gets_it_too(trainer):
    model = model_of()
    model.yaml = {**model.yaml, "pruned": {"times": 1}}
    trainer.args.activation = "hardswish"
    found = trainer.get_model(cfg=model.yaml, weights=model, verbose=False)
    assert nn.SiLU not in kinds(found).values()
    assert found.yaml["pruned"] == {"times": 1}
    assert nn.SiLU in kinds(model).values(), "the given model is not changed"


@pytest.mark.parametrize(
    ("words", "mark", "expected"),
    [
        ({}, {}, 0.03),
        ({"activation": "relu"}, {}, 0.1),
        ({}, {"activation": "torch.nn.ReLU()"}, 0.1),
        ({}, {"pruned": {"times": 1}}, 0.1),
        ({"bn_momentum": 0.2}, {}, 0.2),
        ({"bn_momentum": 0.03, "activation": "relu"}, {}, 0.03),
    ],
    ids=["unchanged", "replaced now", "replaced before", "pruned", "asked for", "asked for, and replaced"],
)
def test_statistics_follow_a_changed_model_faster(trainer, words, mark, expected):
    model = model_of()
    model.yaml = {**model.yaml, **mark}
    vars(trainer.args).update(words)
    found = trainer.get_model(cfg=model.yaml, weights=model, verbose=False)
    assert {m.momentum for m in found.modules() if isinstance(m, nn.BatchNorm2d)} == {expected}
