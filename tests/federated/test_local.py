"""A client's training is Ultralytics' own: against a central training, to the last bit.

Covers arrays.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics import YOLO

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated import judge
from yolo_musgd.federated.arrays import float_names, part_of, put, shared_names, take
from yolo_musgd.federated.local import Work, initial_model, train

plugin.register()
ARGUMENTS = {
    "imgsz": 64, "batch": 8, "nbs": 8, "workers": 0, "device": "cpu", "amp": False, "optimizer": "MuSGD",
}  # fmt: skip


def work(data, folder, **changes):
    return Work(**{
        "model": "yolo26n.yaml", "data": str(data), "folder": folder, "arguments": ARGUMENTS, "start": 0, "epochs": 2,
        "total": 2, "seed": 3, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def begun(tiny_data, tmp_path_factory):
    model, _, _ = initial_model(work(tiny_data, tmp_path_factory.mktemp("begun") / "run"))
    return model


@pytest.mark.slow
def test_one_client_in_one_round_is_a_central_training(tiny_data, tmp_path, begun):
    """A federation of one ends where yolo train val=False does; a validation would draw random numbers."""
    done = train(work(tiny_data, tmp_path / "run"), take(begun, float_names(begun)))
    place = {"project": str(tmp_path), "name": "central", "plots": False, "val": False}
    YOLO("yolo26n.yaml").train(data=str(tiny_data), epochs=2, seed=3, telemetry=False, **ARGUMENTS, **place)
    central = torch.load(tmp_path / "central" / "weights" / "last.pt", weights_only=False)
    kept = (central["ema"] or central["model"]).state_dict()
    assert done.images == 16
    for name, value in done.arrays.items():
        np.testing.assert_array_equal(value.astype(np.float16), kept[name].numpy(), err_msg=name)


@pytest.mark.slow
def test_rounds_follow_one_schedule(tiny_data, tmp_path, begun):
    """Two rounds of one epoch have the learning rates of one training of two epochs; momentum may go on."""
    rates = []

    def note(trainer):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])

    from ultralytics.utils import callbacks

    callbacks.default_callbacks["on_train_batch_end"].append(note)
    try:
        arrays = take(begun, float_names(begun))
        train(work(tiny_data, tmp_path / "whole"), arrays)
        whole, rates[:] = list(rates), []
        first = train(work(tiny_data, tmp_path / "first", epochs=1), arrays)
        second = train(work(tiny_data, tmp_path / "second", start=1, epochs=1), first.arrays, first.optimizer)
    finally:
        callbacks.default_callbacks["on_train_batch_end"].remove(note)
    assert rates == whole
    assert len(whole) == 4
    assert second.optimizer["state"].keys() == first.optimizer["state"].keys()


@pytest.mark.slow
def test_fedprox_pulls_towards_the_start(tiny_data, tmp_path, begun):
    arrays = take(begun, float_names(begun))
    names = [n for n, p in begun.named_parameters() if p.requires_grad]

    def far(proximal):
        done = train(work(tiny_data, tmp_path / "run", proximal=proximal, epochs=1, total=1, average="weights"), arrays)
        return sum(float(np.square(done.arrays[n] - arrays[n]).sum()) for n in names) ** 0.5

    assert far(1000.0) < far(0.0)


def test_parts_cover_the_model(begun):
    names = {part: set(shared_names(begun, part)) for part in ("backbone", "neck", "head")}
    assert (
        set(shared_names(begun, "all")) == set(float_names(begun)) == names["backbone"] | names["neck"] | names["head"]
    )
    assert not names["backbone"] & names["neck"]
    assert set(shared_names(begun, "backbone+neck")) == names["backbone"] | names["neck"]
    assert part_of("model.0.conv.weight", begun) == "backbone"
    assert part_of(f"model.{len(begun.model) - 1}.cv2.0.0.conv.weight", begun) == "head"
    with pytest.raises(UserError, match=r"share=backbone\+tail: 'tail' is none of all, backbone, neck, head"):
        shared_names(begun, "backbone+tail")


def test_arrays_of_another_model_are_not_put_in(begun):
    with pytest.raises(UserError, match="the model received is another one"):
        put(begun, {"model.0.conv.weight": np.zeros((1, 2), np.float32)})


def test_a_batch_that_the_gpu_decides_is_none_to_judge_with(tiny_data, tmp_path):
    model = YOLO("yolo26n.yaml").model
    asked = {"imgsz": 64, "device": "cpu", "workers": 0, "batch": -1}
    assert judge.judge(model, str(tiny_data), asked, tmp_path / "judged").keys() == set(judge.METRICS)
