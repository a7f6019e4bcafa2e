"""When a finished run may stand for one that is asked for, and when it must not.

Covers identify.py and store.py.
"""

import dataclasses
import json
import os
import shlex
import shutil

import pytest
import yaml

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab import identify
from yolo_musgd.lab.runs import RunSpec, device_kind, resolve, versions
from yolo_musgd.lab.store import Store, read_results

plugin.register()


def spec(**args):
    return RunSpec("d.yaml", "m.yaml", {"optimizer": "MuSGD", "epochs": 3, "seed": 0, **args}, "data", "model")


def recorded(s):
    """A run's identity after its way through run.json."""
    return json.loads(json.dumps(s.identity))


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"adapt_factor": 0.01},  # the default, written out
        {"optimizer": "musgd"},
        {"plots": False, "project": "x", "name": "y", "telemetry": True, "save": False},
        {"patience": 100},  # cannot stop 3 epochs early
        {"device": "cpu", "amp": False},
    ],
    ids=str,
)
def test_the_same_run_in_other_words(other):
    mine = spec(device="cpu")
    assert mine.matches(recorded(spec(**{"device": "cpu", **other})))


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"epochs": 4}, {"lr0": 0.02}, {"adapt_factor": 0.02}, {"optimizer": "SGD"}, {"imgsz": 64},
     {"workers": 0}, {"patience": 2}, {"pretrained": "x.pt"}, {"device": "0"}],
    ids=str,
)  # fmt: skip
def test_another_run(other):
    mine, theirs = spec(device="cpu"), spec(**{"device": "cpu", **other})
    assert not mine.matches(recorded(theirs))
    assert mine.key != theirs.key


def test_other_data_models_and_releases_do_not_match():
    mine = spec()
    assert not mine.matches(recorded(dataclasses.replace(mine, data_id="other")))
    assert not mine.matches(recorded(dataclasses.replace(mine, model_id="other")))
    theirs = recorded(mine)
    theirs["versions"]["torch"] = "1.0"
    assert not mine.matches(theirs)
    theirs["versions"] = dict.fromkeys(versions())  # plain yolo train does not say
    assert mine.matches(theirs)


def test_settings_of_the_plugin_do_not_matter_to_sgd():
    assert spec(optimizer="SGD").matches(recorded(spec(optimizer="SGD", adapt_factor=0.5)))


def test_a_run_of_before_a_setting_existed_has_its_default():
    theirs = recorded(spec())
    del theirs["args"]["adapt_factor"]
    assert spec().matches(theirs)
    assert not spec(adapt_factor=0.02).matches(theirs)


def test_a_run_with_an_optimizer_of_the_past_is_passed_over():
    theirs = recorded(spec())
    theirs["args"]["optimizer"] = "MuSGD-of-old"
    assert not spec().matches(theirs)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": 3}', '{"identity": {"data": "x"}}'])
def test_a_record_that_is_none_is_no_run(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content)
    assert Store(tmp_path).find(spec()) is None


def test_the_folder_says_what_is_in_it():
    key = spec(lr0=0.02, epochs=7, seed=5).key
    assert key.startswith("d-m-MuSGD-lr0.02-e7-s5-")
    assert spec().key == spec().key


def test_a_folder_has_a_name_that_the_system_takes(tmp_path):
    long = RunSpec(
        "ä" * 120 + ".yaml", "b" * 240 + ".pt", {"optimizer": "SGD", "epochs": 3, "seed": 0}, "data", "model"
    )
    (tmp_path / f".{long.key}.lock").touch()
    other = RunSpec("ä" * 121 + ".yaml", long.model, long.args, "other", "model")
    assert long.key != other.key


def test_the_command_may_be_typed():
    words = shlex.split(RunSpec("a b.yaml", "m.yaml", {"optimizer": "SGD", "classes": [0, 1]}, "d", "m").command)
    assert words == ["yolo", "train", "model=m.yaml", "data=a b.yaml", "optimizer=SGD", "classes=[0, 1]"]


def test_a_spec_survives_its_way_to_the_worker():
    mine = spec(imgsz=64)
    assert RunSpec.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine


@pytest.mark.parametrize(
    ("given", "kind"), [("cpu", "cpu"), ("0", "cuda"), (0, "cuda"), ("0,1", "cuda"), ("mps", "mps")]
)
def test_device_kind(given, kind):
    assert device_kind(given) == kind


def test_resolving_twice_changes_nothing():
    once = resolve({"optimizer": "muonsgd", "epochs": 200, "patience": 50, "device": "cpu"})
    assert once["patience"] == 50
    assert resolve(once) == once


def test_an_epoch_that_was_repeated_counts_once(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("epoch,  m\n1,0.1\n2,0.2\n2,0.3\n3,nan\n4,")
    columns = read_results(file)
    assert columns["epoch"] == [1, 2, 3, 4]
    assert columns["m"][:2] == [0.1, 0.3]
    assert read_results(tmp_path / "none.csv") == {}


@pytest.fixture
def plain_run(tmp_path, tiny_data):
    """The folder that a plain ``yolo train`` leaves behind."""
    folder = tmp_path / "runs" / "train"
    folder.mkdir(parents=True)
    args = {"mode": "train", "model": "yolo26n.yaml", "data": str(tiny_data), "epochs": 2, "seed": 0, "patience": 100,
            "optimizer": "SGD", "device": "cpu", "imgsz": 64}  # fmt: skip
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    (folder / "results.csv").write_text("epoch,time,metrics/mAP50-95(B)\n1,5,0.1\n2,10,0.2\n")
    return folder


def asked(tiny_data, **args):
    args = {"optimizer": "SGD", "epochs": 2, "seed": 0, "imgsz": 64, "device": "cpu", **args}
    data, model = identify.data_id(str(tiny_data)), identify.model_id("yolo26n.yaml")
    return RunSpec(str(tiny_data), "yolo26n.yaml", args, data, model)


def test_a_run_of_plain_yolo_train_is_imported(tmp_path, tiny_data, plain_run):
    store = Store(tmp_path / "store", [str(tmp_path / "runs")])
    assert store.find(asked(tiny_data, seed=1)) is None
    record = store.find(asked(tiny_data))
    assert record.final("metrics/mAP50-95(B)") == 0.2
    assert record.facts["imported_from"] == str(plain_run)
    again = Store(tmp_path / "store").find(asked(tiny_data))  # it now belongs to the store
    assert again.facts["imported_from"] == str(plain_run)


def test_an_unfinished_run_is_not_imported(tmp_path, tiny_data, plain_run):
    (plain_run / "results.csv").write_text("epoch,time,metrics/mAP50-95(B)\n1,5,0.1\n")
    assert Store(tmp_path / "store", [str(tmp_path)]).find(asked(tiny_data)) is None


def test_musgd_of_a_run_without_the_plugin_is_ultralytics_own(tmp_path, tiny_data, plain_run):
    args = yaml.safe_load((plain_run / "args.yaml").read_text())
    (plain_run / "args.yaml").write_text(yaml.safe_dump({**args, "optimizer": "MuSGD"}))
    store = Store(tmp_path / "store", [str(tmp_path / "runs")])
    assert store.find(asked(tiny_data, optimizer="MuSGD")) is None
    assert store.find(asked(tiny_data, optimizer="MuSGD-native")).facts["imported_from"] == str(plain_run)
    (plain_run / "args.yaml").write_text(yaml.safe_dump({**args, "optimizer": "MuSGD", "adapt_factor": 0.01}))
    store = Store(tmp_path / "other", [str(tmp_path / "runs")])
    assert store.find(asked(tiny_data, optimizer="MuSGD-native")) is None
    assert store.find(asked(tiny_data, optimizer="MuSGD")).facts["imported_from"] == str(plain_run)


def test_an_import_fetches_no_data(tmp_path, tiny_data, plain_run):
    """The images of an old run are gone and its YAML would fetch them: only the protocol's own data may be fetched."""
    gone = tmp_path / "gone.yaml"
    (tmp_path / "fetch.sh").write_text(f"touch '{tmp_path}/fetched'\n")
    gone.write_text(f"path: {tmp_path}/none\ntrain: train\nval: val\nnames: [a]\ndownload: bash {tmp_path}/fetch.sh\n")
    args = yaml.safe_load((plain_run / "args.yaml").read_text())
    (plain_run / "args.yaml").write_text(yaml.safe_dump({**args, "data": str(gone)}))
    assert Store(tmp_path / "store", [str(tmp_path / "runs")]).find(asked(tiny_data)) is None
    assert not (tmp_path / "fetched").exists()
    with pytest.raises(UserError):
        identify.data_id(str(gone))
    assert (tmp_path / "fetched").exists()  # so this YAML does fetch


def test_the_clock_of_a_resumed_run_goes_on(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,time\n1,10\n2,20\n3,5\n4,15\n5,4\n")
    assert read_results(tmp_path / "results.csv")["time"] == [10, 20, 25, 35, 39]


def test_a_folder_to_import_from_must_exist(tmp_path):
    with pytest.raises(UserError, match=r"imports=.*nowhere is not a folder"):
        Store(tmp_path, [str(tmp_path / "nowhere")])


def test_folders_that_cannot_be_listed_are_passed_over(tmp_path, monkeypatch):
    """As of /proc, where a process ends while it is looked at."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.csv").write_text("epoch\n1\n")
    real = os.scandir

    def scandir(path="."):
        if str(path).endswith("/a"):
            raise OSError(22, "Invalid argument", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert Store(tmp_path / "mine", [str(tmp_path)]) is not None


def test_fingerprints_follow_the_content(tmp_path, tiny_data):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_data.parent, copy)
    (copy / "data.yaml").write_text(tiny_data.read_text().replace(str(tiny_data.parent), str(copy)))
    assert identify.data_id(str(copy / "data.yaml")) == identify.data_id(str(tiny_data))
    label = next((copy / "labels" / "val").glob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.1 0.1\n")
    identify._read.cache_clear()
    changed = identify.data_id(str(copy / "data.yaml"))
    assert changed != identify.data_id(str(tiny_data))
    label.write_text(label.read_text().replace("0.1 0.1\n", "0.1 0.2\n"))  # corrected, of the same size
    identify._read.cache_clear()
    assert identify.data_id(str(copy / "data.yaml")) not in (changed, identify.data_id(str(tiny_data)))


def test_models_are_told_apart(tmp_path):
    assert identify.model_id("yolo26n.yaml") != identify.model_id("yolo26s.yaml")  # one file, two scales
    (tmp_path / "a.pt").write_bytes(b"1")
    (tmp_path / "b.pt").write_bytes(b"1")
    assert identify.model_id(str(tmp_path / "a.pt")) == identify.model_id(str(tmp_path / "b.pt"))


@pytest.mark.parametrize(
    ("of", "name", "message"),
    [(identify.data_id, "nowhere.yaml", "data=nowhere.yaml .*nowhere.yaml"),
     (identify.model_id, "nowhere.yaml", "model=nowhere.yaml: .*nowhere.yaml"),
     (identify.model_id, "nowhere.pt", "model=nowhere.pt")],
)  # fmt: skip
def test_what_is_not_there(of, name, message):
    with pytest.raises(UserError, match=message):
        of(name)


@pytest.mark.parametrize(
    "text", ["on: 1\nnc: 3\n", "nc: {1: 2, a: 3}\n", "- 1\n", "nc: &a [*a]\n", "{1: 2, x: 3}", "5"]
)
def test_a_yaml_that_is_no_model_is_one_line(text, tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"^model=.*odd\.yaml: .+") as caught:
        identify.model_id(str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_image_has_no_part_in_the_fingerprint(tmp_path, caplog):
    """Training leaves it out, and so does what recognises the data set (it was a traceback once)."""
    from yolo_musgd.data.shapes import generate

    data = generate(tmp_path / "set", {"train": 12, "val": 12}, size=64)
    file = data / "data.yaml"
    file.write_text(f"path: {data}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    before = identify.data_id(str(file))
    identify._read.cache_clear()
    (data / "images" / "val" / "zz.jpg").write_bytes(b"no image")
    (data / "labels" / "val" / "zz.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with caplog.at_level("WARNING"):  # whatever an earlier test switched off
        assert identify.data_id(str(file)) == before
    assert "zz.jpg" in caplog.text
