"""Arguments of the command prune and its recipes."""

import pytest

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune.settings import read_settings
from yolo_musgd.settings import SettingsError


def test_every_shipped_recipe_reads():
    recipes = sorted((resources.folder("cfg") / "prune").glob("*.yaml"))
    assert {p.name for p in recipes} >= {"prune-20.yaml", "prune-40.yaml", "prune-60.yaml"}
    for recipe in recipes:
        settings = read_settings({"recipe": recipe.name})
        assert sum(x is not None for x in (settings.flops, settings.params, settings.latency)) == 1
        assert recipe.name in recipe.read_text(encoding="utf-8"), "its comment says how to use it"


def test_the_command_line_wins_over_the_recipe():
    settings = read_settings({"recipe": "prune-40.yaml", "epochs": "3", "images": "32"})
    assert (settings.flops, settings.epochs, settings.images) == (-0.4, 3, 32)
    settings = read_settings({"recipe": "prune-40.yaml", "latency": "0.7"})
    assert (settings.flops, settings.latency) == (None, 0.7)


def test_the_default_target_is_40_percent():
    assert read_settings({}).flops == -0.4
    assert read_settings({"params": "-0.5"}).flops is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"flops": "-0.4", "latency": "0.7"}, "one target, got flops and latency"),
        ({"flops": "0.4"}, r"flops must be in \[-0.95, 0\], got 0.4; did you mean -0.4\?"),
        ({"flops": "0"}, "flops=0 changes nothing: give flops=-0.4, or activation=relu"),
        ({"flops": "0", "activation": "rleu"}, "activation must be one of relu, .* did you mean relu"),
        ({"latency": "1.2"}, r"latency must be in \[0.05, 1\), got 1.2"),
        ({"importance": "tailor"}, "did you mean taylor"),
        ({"recipe": "prune-50.yaml"}, "shipped recipes: .*prune-40.yaml"),
        ({"bench": "[tpu]"}, "bench must be auto, none or among onnx-fp32"),
        ({"latency": "0.7", "steps": "3"}, "met in one step"),
        ({"table": "a.json"}, "add latency="),
        ({"epochs": "0", "control": "True"}, "control= is for the fine-tuning, which epochs=0 leaves out"),
        ({"epochs": "0", "teacher": "base"}, "teacher= is for the fine-tuning, which epochs=0 leaves out"),
        ({"sparsity": "0.7"}, "sparsity= is the share of zeros of sparse=unstructured"),
        ({"sparsity": "0.5", "sparse": "2:4"}, "sparsity= is the share of zeros of sparse=unstructured"),
        ({"scratch_epochs": "9"}, "scratch_epochs= is for scratch=True"),
        ({"images": "4"}, "images must be >= 16, got 4"),
        ({"rounds": "4"}, "did you mean round_to"),
    ],
)
def test_bad_input_is_one_clear_line(args, message):
    with pytest.raises(SettingsError if "recipe" not in args else UserError, match=message) as caught:
        read_settings(args)
    assert "\n" not in str(caught.value)


def test_a_recipe_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("params: -0.3\nkeep: '[model.0, model.23]'\n")
    settings = read_settings({"recipe": str(file)})
    assert (settings.params, settings.layers_to_keep) == (-0.3, ["model.0", "model.23"])
    file.write_text("parms: -0.3\n")
    with pytest.raises(SettingsError, match="did you mean params"):
        read_settings({"recipe": str(file)})
    file.write_text("- 1\n")
    with pytest.raises(UserError, match="key: value"):
        read_settings({"recipe": str(file)})
