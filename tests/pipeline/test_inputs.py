"""What the pipeline is given: it is found before anything is computed, and known by its content.

Covers dataset.py.
"""

import importlib.util
import os
import re
from pathlib import Path

import pytest
import ultralytics.utils.downloads as downloads
from ultralytics.utils import SETTINGS

from yolo_musgd import cli, plugin, resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import sha256_of
from yolo_musgd.pipeline import dag, dataset, inputs
from yolo_musgd.pipeline.dataset import read_data
from yolo_musgd.pipeline.settings import PipelineSettings

NAME = "yolo26n.pt"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working folder and a weights folder without the weights, and a network whose downloads are counted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SETTINGS, "weights_dir", str(tmp_path / "weights"))
    fetched = []

    def download(url, file, **_):
        fetched.append(url)
        file.write_bytes(b"weights")

    monkeypatch.setattr(downloads, "safe_download", download)
    return fetched


def test_published_weights_are_known_by_their_content_from_the_first_run_on(nowhere, tmp_path):
    first = inputs.of_model(NAME, inputs.find_model(NAME))
    assert len(nowhere) == 1
    assert first.path == str(tmp_path / NAME)
    assert first.digest == sha256_of(first.path)
    assert inputs.of_model(NAME, inputs.find_model(NAME)) == first
    assert len(nowhere) == 1


def test_weights_in_ultralytics_own_folder_are_taken(nowhere, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / NAME).write_bytes(b"kept there")
    for fetch in (True, False):
        found = inputs.of_model(NAME, inputs.find_model(NAME, fetch))
        assert found.path == str(tmp_path / "weights" / NAME)
        assert found.digest == sha256_of(found.path)
    assert not nowhere


@pytest.mark.parametrize("idle", [{"flops": 0.0}, {"finetune_epochs": 0}])
def test_a_teacher_without_fine_tuning_is_refused(idle, tiny_data):
    data = read_data(str(tiny_data))
    inputs.check_teacher(PipelineSettings(data="d.yaml", **idle), data)
    with pytest.raises(UserError, match="teacher= is for the fine-tuning after pruning"):
        inputs.check_teacher(PipelineSettings(data="d.yaml", teacher="base", **idle), data)
    with pytest.raises(UserError, match=r"teacher=nowhere\.pt is no checkpoint|needs an ultralytics"):
        inputs.check_teacher(PipelineSettings(data="d.yaml", teacher="nowhere.pt"), data)


def test_a_model_without_weights_is_known_by_its_name(nowhere):
    assert inputs.find_model("yolo26n.yaml") is None
    assert inputs.of_model("yolo26n.yaml", None) != inputs.of_model("yolo26s.yaml", None)
    assert not nowhere


def test_the_plan_downloads_nothing_and_says_so(nowhere, tiny_data, tmp_path, capsys):
    assert cli.main(["pipeline", f"data={tiny_data}", f"model={NAME}", "dry_run=True"]) == 0
    assert f"model={NAME} is not here yet; it is downloaded when the steps are done" in capsys.readouterr().out
    assert not nowhere
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_fetched_are_one_line_and_leave_nothing(
    nowhere, tiny_data, tmp_path, monkeypatch, capsys
):
    def offline(url, **_):
        raise ConnectionError(f"❌  Download failure for {url}. Environment may be offline.")

    monkeypatch.setattr(downloads, "safe_download", offline)
    assert cli.main(["pipeline", f"data={tiny_data}", f"model={NAME}"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"model={NAME} cannot be downloaded: Download failure" in last
    assert "may be offline; give a .pt file" in last
    assert not list(tmp_path.iterdir())


def test_a_download_that_leaves_no_file(nowhere, monkeypatch):
    """Ultralytics 8.4.0 gives up without an error after too many tries."""
    monkeypatch.setattr(downloads, "safe_download", lambda **_: None)
    with pytest.raises(UserError, match=r"model=yolo26n\.pt cannot be downloaded"):
        inputs.find_model(NAME)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine.pt", "does not exist\n"),
        ("folder/yolo26n.pt", "does not exist\n"),
        ("folder/mine.yaml", "does not exist; give a .pt"),
        ("yolo26n.onnx", "must be a .pt checkpoint that is there"),
    ],
)
def test_a_model_that_is_nowhere(nowhere, tiny_data, tmp_path, capsys, name, told):
    assert cli.main(["pipeline", f"data={tiny_data}", f"model={name}"]) == 2
    assert f"model={name} {told}" in capsys.readouterr().err
    assert not nowhere
    assert not list(tmp_path.iterdir())


def collect(tiny_data, **arguments):
    settings = PipelineSettings(data=str(tiny_data), **arguments)
    return inputs.collect(settings, read_data(str(tiny_data)), inputs.recipes(settings), None)


def test_an_edited_recipe_redoes_the_trainings_that_use_it(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin.register()
    Path("mine.yaml").write_text("lr0: 0.01\n")
    before = collect(tiny_data, cfg="mine.yaml")
    assert collect(tiny_data, cfg="mine.yaml") == before
    Path("mine.yaml").write_text("lr0: 0.02\n")
    after = collect(tiny_data, cfg="mine.yaml")
    assert {name for name in after if after[name] != before[name]} == {"cfg"}
    settings = PipelineSettings(data=str(tiny_data), cfg="mine.yaml")
    plan = dag.PipelinePlan(settings, 64, "int8", 1, 1, -0.4, 16, "test")
    steps = [dag.probe(plan), *dag.steps_of(plan)]
    assert {step.name for step in steps if "cfg" in step.inputs} == {"probe", "train"}
    assert {step.name for step in steps if "finetune_cfg" in step.inputs} == {"finetune"}
    places = {name: thing.path for name, thing in after.items()}
    assert "cfg=mine.yaml" in steps[1].command(places)


def test_recipes_are_found_as_training_finds_them(tiny_data, tmp_path, monkeypatch):
    """The shipped one, unless the working folder has another of the same name."""
    monkeypatch.chdir(tmp_path)
    plugin.register()
    shipped = collect(tiny_data)["cfg"]
    assert shipped.digest == sha256_of(str(resources.folder("cfg") / "train" / "musgd.yaml"))
    Path("musgd.yaml").write_text("lr0: 0.02\n")
    assert collect(tiny_data)["cfg"].digest == sha256_of("musgd.yaml")


@pytest.mark.parametrize("word", ["cfg", "finetune_cfg"])
def test_a_recipe_that_is_nowhere(nowhere, tiny_data, tmp_path, capsys, word):
    words = [f"data={tiny_data}", f"model={NAME}", f"{word}=nosuch.yaml", "epochs=1"]
    assert cli.main(["pipeline", *words]) == 2
    assert f"{word}=nosuch.yaml does not exist; training recipes: " in capsys.readouterr().err
    assert not nowhere  # nothing was downloaded for a command that cannot work
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["cfg", "finetune_cfg"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("save_dir: runs/detect/train\n", "save_dir=runs/detect/train would be written over: remove that line"),
        ("resume: runs/last.pt\n", "resume=runs/last.pt would go on with another training: remove that line"),
        ("lro: 0.1\n", "'lro' is not a valid YOLO argument"),
        ("- 1\n", "must hold key: value lines"),
    ],
)
def test_a_recipe_that_no_step_may_train_by(nowhere, tiny_data, tmp_path, capsys, word, text, told):
    Path("mine.yaml").write_text(text)
    assert cli.main(["pipeline", f"data={tiny_data}", f"{word}=mine.yaml", "epochs=1"]) == 2
    assert told in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("text", ["single_cls: True\n", "classes: [0]\n"])
def test_a_fine_tuning_for_other_classes_is_refused_before_the_training(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    plugin.register()
    Path("mine.yaml").write_text(text)
    with pytest.raises(UserError, match="differ in single_cls or classes"):
        inputs.rules_of(PipelineSettings(data="d.yaml", cfg="mine.yaml"))
    both = inputs.rules_of(PipelineSettings(data="d.yaml", cfg="mine.yaml", finetune_cfg="mine.yaml"))
    assert both == inputs.rules_of(PipelineSettings(data="d.yaml", cfg="mine.yaml", flops=0.0))
    assert both.single_cls or both.classes == (0,)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "images=photos: no images in it"),
        ({"notes.txt": b"no picture"}, "images=photos: no images in it"),
        ({"a.jpg": b"no picture either"}, r"images=photos: photos/a\.jpg cannot be decoded"),
        ({"a.jpg": b""}, r"images=photos: photos/a\.jpg cannot be decoded"),
    ],
)
def test_photos_that_show_nothing_are_refused_at_once(nowhere, tiny_data, capsys, files, message):
    Path("photos").mkdir()
    for name, content in files.items():
        (Path("photos") / name).write_bytes(content)
    words = [f"data={tiny_data}", "model=yolo26n.yaml", "images=photos", "dry_run=True"]
    assert cli.main(["pipeline", *words]) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (["target=x86", "precision=fp16"], "openvino", "openvino"),
        (["target=raspberry-pi-5", "precision=fp16"], "ncnn", "export"),
        (["target=raspberry-pi-5", "precision=fp16"], "pnnx", "export"),
        (["target=raspberry-pi-5"], "onnxslim", "export"),
        (["target=jetson-nano"], "onnxruntime", "export"),
        (["target=raspberry-pi-5"], "torch_pruning", "prune"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_done(
    nowhere, tiny_data, monkeypatch, capsys, words, missing, extra
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    arguments = [f"data={tiny_data}", "model=yolo26n.yaml", "dry_run=True", *words]
    assert cli.main(["pipeline", *arguments]) == 2
    said = re.search(r"yolo-musgd: (.*) (?:is|are) not installed: pip install .*'.*\[(.*)\]'", capsys.readouterr().err)
    assert missing in said[1].split(", "), "others may be missing here too"
    assert extra in said[2].split(","), "theirs, too"


def test_all_that_is_missing_is_named_in_one_line(nowhere, tiny_data, monkeypatch, capsys):
    absent, find = ("onnxslim", "torch_pruning"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    assert (
        cli.main(["pipeline", f"data={tiny_data}", "model=yolo26n.yaml", "target=raspberry-pi-5", "dry_run=True"]) == 2
    )
    said = capsys.readouterr().err
    assert "onnxslim, torch_pruning are not installed: pip install" in said
    assert "[export,prune]'" in said


@pytest.mark.parametrize("words", [["target=raspberry-pi-5"], ["target=raspberry-pi-5", "precision=fp32"]])
def test_a_runtime_that_is_not_used_is_not_asked_for(nowhere, tiny_data, monkeypatch, words):
    absent, find = ("openvino", "ncnn", "pnnx"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    assert cli.main(["pipeline", f"data={tiny_data}", "model=yolo26n.yaml", "dry_run=True", *words]) == 0


def test_a_model_that_is_to_come_is_taken_by_its_name_without_a_warning(caplog):
    inputs.check_task("yolo26n.pt", None)
    assert "guess" not in caplog.text
    with pytest.raises(UserError, match="task=segment"):
        inputs.check_task("yolo26n-seg.pt", None)


def test_a_data_set_that_ultralytics_knows_by_name_is_not_looked_for_here(tmp_path, tiny_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def check(file):
        asked.append(file)
        raise UserError("offline")

    monkeypatch.setattr(dataset, "check", check)
    for name in ("coco8.yaml", os.path.relpath(tiny_data)):
        with pytest.raises(UserError, match="offline"):
            dataset.read_data(name)
    assert asked == ["coco8.yaml", str(Path(os.path.relpath(tiny_data)).absolute())]
