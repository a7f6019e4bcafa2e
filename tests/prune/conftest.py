"""Small trained and pruned models, made once."""

import copy

import pytest
import torch

pytest.importorskip("torch_pruning", reason="the extra prune is not installed")


@pytest.fixture(scope="session")
def built():
    """Models of Ultralytics with random weights and BatchNorm statistics, by YAML name; each a copy."""
    from ultralytics import YOLO

    made = {}

    def build(name):
        if name not in made:
            torch.manual_seed(1)
            model = YOLO(name).model.float().eval()
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):  # else every channel looks alike
                    layer.running_mean.uniform_(-0.2, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
                    layer.weight.data.uniform_(0.5, 1.5)
                    layer.bias.data.uniform_(-0.3, 0.3)
            made[name] = model
        return copy.deepcopy(made[name])

    return build


@pytest.fixture(scope="session")
def trained(once, tiny_data, run, train_words):
    """best.pt of one epoch on the tiny data."""

    def make(folder):
        words = (f"data={tiny_data}", "epochs=1", "plots=False", f"project={folder}", "name=base")
        done = run("yolo", "train", *train_words, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "base" / "weights" / "best.pt"

    return once("trained", make)


@pytest.fixture(scope="session")
def pruned_run(once, tiny_data, run, trained):
    """Folder of a whole run of the command: pruned, fine-tuned for an epoch, timed."""

    def make(folder):
        done = run(
            "yolo-musgd", "prune", f"model={trained}", "recipe=prune-40.yaml", "epochs=1", "images=16", "batch=8",
            "bench=[onnx-fp32]", f"project={folder}", "name=run",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "run"

    return once("pruned", make)
