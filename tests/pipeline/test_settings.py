"""Arguments and recipes."""

import os

import pytest

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.pipeline.settings import PipelineSettings, read_settings


def test_the_data_sets_own_recipe_is_taken_and_the_command_line_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, recipe = read_settings({"data": "shapes.yaml", "epochs": "7"})
    assert (settings.epochs, settings.imgsz, settings.model) == (7, 128, "yolo26n.yaml")
    assert str(recipe).endswith("cfg/pipeline/shapes.yaml")
    assert read_settings({"data": "bccd.yaml"})[1] is None


def test_a_data_set_of_ones_own_of_the_same_name_has_no_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes.yaml").touch()
    assert read_settings({"data": "shapes.yaml"})[1] is None


def test_a_goal_of_speed_outranks_the_recipes_size():
    assert read_settings({"data": "shapes.yaml", "target_fps": "30"})[0].imgsz is None
    assert read_settings({"data": "shapes.yaml", "target_fps": "30", "imgsz": "320"})[0].imgsz == 320


@pytest.mark.parametrize("file", sorted(p.name for p in (resources.folder("cfg") / "pipeline").glob("*.yaml")))
def test_shipped_recipes_are_valid(file):
    if file != "boards.yaml":
        settings, recipe = read_settings({"data": "d.yaml", "recipe": file})
        assert recipe
        assert settings != PipelineSettings(data="d.yaml", recipe=file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "data= is required"),
        (
            {"data": "d.yaml", "recipe": "nosuch.yaml"},
            "does not exist; shipped recipes: overnight",
        ),
        ({"data": "d.yaml", "epoch": "3"}, "unknown argument 'epoch'; did you mean epochs"),
        ({"data": "d.yaml", "imgsz": "100"}, "imgsz must be a multiple of 32, got 100"),
        ({"data": "d.yaml", "flops": "-0.01"}, r"flops must be 0 or in \[-0\.95, -0\.05\]"),
        ({"data": "d.yaml", "flops": "0.4"}, "flops must be in"),
        ({"data": "d.yaml", "target": "raspberry-pi5"}, "did you mean raspberry-pi-5"),
        ({"data": "d.yaml", "anchor": "[yolo26n.yaml,640,67]"}, "add target_fps="),
        ({"data": "d.yaml", "images": "no/such/folder"}, "images=no/such/folder does not exist"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        read_settings(arguments)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/stdin", "pipe"])
def test_what_never_ends_is_no_data_set(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=f"data={device} is neither a file nor a folder"):
        read_settings({"data": device})[0].check_files()


@pytest.mark.parametrize(("content", "message"), [("a: [", "is not YAML"), ("- 1", "must hold key: value")])
def test_bad_recipes(tmp_path, content, message):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_settings({"data": "d.yaml", "recipe": str(tmp_path / "r.yaml")})


def test_an_unknown_setting_in_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("epoch: 3")
    with pytest.raises(UserError, match="did you mean epochs"):
        read_settings({"data": "d.yaml", "recipe": str(tmp_path / "r.yaml")})
