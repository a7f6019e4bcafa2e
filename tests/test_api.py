"""The commands as Python functions: the same arguments, the same answers, nothing loaded before it is needed.

Covers edge/result.py.
"""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

import yolo_musgd
from yolo_musgd import api, commands
from yolo_musgd.edge.options import items
from yolo_musgd.edge.result import Result
from yolo_musgd.resources import load_yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_types_are_those_of_the_commands():
    spec = importlib.util.spec_from_file_location("stubs", ROOT / ".ci" / "stubs.py")
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    written = (ROOT / "yolo_musgd" / "api.pyi").read_text(encoding="utf-8")
    assert written == stubs.formatted(stubs.stubs()), "python .ci/stubs.py writes it anew"


@pytest.mark.parametrize("name", api.NAMES)
def test_a_function_takes_what_its_command_takes(name):
    parameters = inspect.signature(getattr(yolo_musgd, name)).parameters
    table = commands.arguments(name)
    assert list(parameters) == [a.name for a in table] + ["train"] * commands.COMMANDS[name].trains
    for a in table:
        assert parameters[a.name].default == (None if a.default is commands.REQUIRED else a.default)
        assert a.help in inspect.getdoc(getattr(api, name))


def test_words_become_the_commands(monkeypatch, tmp_path):
    seen = {}

    def main(given):
        seen.update(given)
        return Result("compare", "done", figures={"x": 1.5})

    monkeypatch.setattr(
        "yolo_musgd.commands.load", lambda path, load=commands.load: main if "main" in path else load(path)
    )
    found = yolo_musgd.compare(
        data=["shapes.yaml"], optimizers=["SGD", {"optimizer": "MuSGD", "lr0": 0.02}], seeds=2,
        tune={"lr0": [0.01, 0.02]}, project=tmp_path, dry_run=True, epochs=None,
    )  # fmt: skip
    assert found.to_dict()["figures"] == {"x": 1.5}
    assert seen == {
        "data": '["shapes.yaml"]', "optimizers": '["SGD", {"optimizer": "MuSGD", "lr0": 0.02}]', "seeds": "2",
        "tune": '{"lr0": [0.01, 0.02]}', "project": str(tmp_path), "dry_run": "True",
    }  # fmt: skip


@pytest.mark.parametrize(
    "names", [["données.yaml", "a b.yaml"], ["データ/😀.yaml", "it's, so.yaml"], ['C:\\sets\\"x".yaml']]
)
def test_entries_of_a_list_keep_every_letter(names):
    word = api._word(names)
    assert items(word) == names
    assert load_yaml(word, "data") == names


def test_arguments_of_training_may_stand_beside_a_federations_own(monkeypatch):
    seen = {}
    monkeypatch.setattr(api, "run", lambda name, words: seen.update({name: words}) or Result(name, "done"))
    yolo_musgd.federate("shapes.yaml", clients=2, imgsz=96, val=None)
    assert seen == {"federate": ["data=shapes.yaml", "clients=2", "imgsz=96"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: yolo_musgd.export("nowhere.pt"), "model=nowhere.pt does not exist"),
        (lambda: yolo_musgd.export(), "model= is required"),
        (lambda: yolo_musgd.export(modle="a.pt"), "did you mean model"),
        (lambda: yolo_musgd.export("a.pt", imgsz="big"), "imgsz must be a whole number"),
        (lambda: yolo_musgd.compare(cfg="quick"), "cfg= is now protocol="),
        (lambda: yolo_musgd.bench("nowhere.onnx"), "no model at nowhere.onnx"),
        (lambda: yolo_musgd.pipeline("nowhere.yaml"), "nowhere.yaml"),
        (lambda: yolo_musgd.prune("x.pt", flops=0.5), "flops must be in"),
        (lambda: yolo_musgd.federate("x.yaml", roundz=3), "did you mean rounds"),
        (lambda: yolo_musgd.federate(clients=2), "data= is required"),
        (lambda: yolo_musgd.export("a.pt", train=3), "export has no argument 'train'"),
    ],
)
def test_bad_input_is_a_user_error(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(yolo_musgd.UserError, match=message):
        call()
    assert not list(tmp_path.iterdir())


def test_nothing_large_is_loaded_for_a_signature_or_a_mistake(run):
    code = "import sys, inspect, yolo_musgd\n"
    code += "assert 'yolo_musgd.commands' not in sys.modules\n"
    code += "from yolo_musgd.export.settings import ExportSettings\nassert callable(yolo_musgd.export)\n"
    code += "try: yolo_musgd.prune('nowhere.pt')\nexcept yolo_musgd.UserError as error: print(error)\n"
    code += "print(inspect.signature(yolo_musgd.prune).parameters['epochs'].default)\n"
    code += "assert not {'torch', 'ultralytics'} & set(sys.modules)"
    done = run("python", "-c", code, fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["model=nowhere.pt does not exist", "30"]


def test_a_result_says_three_lines_and_is_json():
    found = Result(
        "export", "smaller\nby half", "runs/x", {"model": "runs/x/m.onnx"}, {"drop": None}, "yolo-musgd bundle"
    )
    assert str(found).splitlines() == ["smaller by half", "results: runs/x", "next: yolo-musgd bundle"]
    assert json.loads(json.dumps(found.to_dict()))["figures"] == {"drop": None}
    assert str(Result("idle", "3 W")) == "3 W"
    assert str(Result("x", "done", "runs", {"page": "runs/a.html"})).splitlines()[1] == "results: runs/a.html"


@pytest.mark.parametrize(("argv", "said"), [("/usr/bin/yolo-musgd", "yolo-musgd"), ("a/edge.pyz", "python3 edge.pyz")])
def test_what_to_type_next_is_what_is_there(argv, said, monkeypatch):
    from yolo_musgd.edge.result import program

    monkeypatch.setattr("sys.argv", [argv])
    assert program() == said
