"""Budgets: hours cut the epochs, a drop that is too large undoes pruning; both without training anything.

Covers dag.py.
"""

import dataclasses
import json
import os

import pytest
from PIL import Image

from yolo_musgd import cli
from yolo_musgd.edge.errors import UserError
from yolo_musgd.pipeline import command, dag, samples
from yolo_musgd.pipeline.dataset import DataSet, digest, digest_folder, read_data
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.settings import PipelineSettings

DATA = DataSet("d.yaml", {"train": ["x.jpg"] * 256, "val": ["y.jpg"]}, ["thing"])


def settings(**arguments):
    return PipelineSettings(data="d.yaml", target="raspberry-pi-5", imgsz=64, **arguments)


@pytest.fixture
def probed(tmp_path):
    """A runner whose probe took two seconds for half of the images."""
    folder = tmp_path / "steps" / "probe" / "run"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text("epoch,time\n1,2.0\n")
    return Runner(tmp_path, {})


def seconds(plan):
    """What a plan should take by the probe's epoch of 4 s."""
    share = 0.4 + 0.6 * (1 + plan.cut)
    training = 4.0 * command.OVERHEAD * (plan.epochs + plan.finetune_epochs * share)
    return training + sum(s.seconds for s in dag.steps_of(plan) if not s.epochs)


@pytest.mark.parametrize("hours", [0.15, 0.2, 0.5])
def test_hours_are_kept(probed, hours):
    plan = command._plan(settings(max_hours=hours, epochs=1000, finetune_epochs=300), DATA, None, probed)
    assert seconds(plan) <= hours * 3600
    assert (
        seconds(dataclasses.replace(plan, epochs=plan.epochs + 4, finetune_epochs=plan.finetune_epochs + 4))
        > hours * 3600
    )
    assert plan.finetune_epochs == pytest.approx(0.3 * plan.epochs, abs=1.5)


def test_hours_to_spare_change_nothing(probed):
    plan = command._plan(settings(max_hours=100.0), DATA, None, probed)
    assert (plan.epochs, plan.finetune_epochs) == (100, 30)


def test_too_few_hours_say_how_many(probed):
    with pytest.raises(
        UserError, match=r"max_hours=0\.01 is too little: an epoch takes 5 s here.*at least max_hours=0\.\d+"
    ):
        command._plan(settings(max_hours=0.01), DATA, None, probed)


class Imagined(Runner):
    """Steps that only write the manifest in which an export notes its accuracy."""

    def __init__(self, folder):
        super().__init__(folder, {})
        self.names = []

    def run(self, steps, offset=0, total=None):
        for step in steps:
            self.names.append(step.name)
            if step.name.startswith("export-"):
                folder = self.place(step.name) / "export" / "best_model"
                folder.mkdir(parents=True, exist_ok=True)
                accuracy = {"export-final": 0.30, "export-final-20": 0.36, "export-final-0": 0.39}.get(step.name, 0.40)
                (folder / "manifest.json").write_text(json.dumps({"map50_95": {"fp32": 0.4, "int8": accuracy}}))


@pytest.mark.parametrize(
    ("limit", "cut", "last"),
    [
        (None, -0.4, "bundle"),
        (0.2, -0.4, "bundle"),
        (0.05, -0.2, "bundle-20"),
        (0.02, 0.0, "bundle-0"),
        (0.0, 0.0, "bundle-0"),
    ],
)
def test_a_drop_that_is_too_large_prunes_less(tmp_path, limit, cut, last):
    runner = Imagined(tmp_path)
    plan = command._plan(settings(max_drop=limit), DATA, None, runner)
    kept = command._run_steps(runner, plan)
    assert kept.cut == pytest.approx(cut)
    assert runner.names[-1] == last
    assert sum(name.startswith("bundle") for name in runner.names) == 1
    assert ("prune-0" in runner.names) is False
    if limit == 0.0:
        assert "more than max_drop=0" in runner.notes[-1]  # kept all the same, and the report says so


def test_steps_come_after_what_they_need(tmp_path):
    plain = [{}, {"flops": 0.0}, {"finetune_epochs": 0}, {"precision": "fp32"}]
    relu = [{"activation": "relu"}, {"flops": 0.0, "activation": "relu"}]
    taught = [{"teacher": "base"}, {"teacher": "base", "epochs": 0, "model": "m.pt"}, {"teacher": "big.pt"}]
    for chosen in (*plain, *relu, *taught):
        plan = command._plan(settings(**chosen), DATA, None, Runner(tmp_path, {}))
        seen = set()
        for step in dag.steps_of(plan):
            assert set(step.needs) <= seen
            named = {w for word in step.words for w in _places(word)} - {"out", "stem", *step.inputs}
            assert named <= set(step.needs), step.name
            seen.add(step.name)


def test_both_models_pictures_are_cut_at_the_score_that_the_page_names(tmp_path):
    steps = {s.name: s for s in dag.steps_of(command._plan(settings(), DATA, None, Runner(tmp_path, {})))}
    assert "conf=0.25" in steps["detect-before"].words  # an artifact has its own best threshold otherwise
    assert "conf=0.25" in steps["detect-after"].words


@pytest.mark.parametrize(
    ("chosen", "teacher", "needs", "inputs"),
    [
        ({"teacher": "base"}, "{train}/run/weights/best.pt", ("prune", "train"), ("data", "finetune_cfg")),
        ({"teacher": "base", "epochs": 0, "model": "m.pt"}, "{model}", ("prune",), ("data", "finetune_cfg", "model")),
        ({"teacher": "big.pt"}, "{teacher}", ("prune",), ("data", "finetune_cfg", "teacher")),
    ],
)
def test_the_fine_tuning_depends_on_its_teacher(tmp_path, chosen, teacher, needs, inputs):
    chosen = {"activation": "relu", "flops": 0.0, **chosen}
    steps = {s.name: s for s in dag.steps_of(command._plan(settings(**chosen), DATA, None, Runner(tmp_path, {})))}
    assert {"flops=0", "activation=relu"} <= set(steps["prune-0" if "prune-0" in steps else "prune"].words)
    assert f"distill_model={teacher}" in steps["finetune"].words
    assert (steps["finetune"].needs, steps["finetune"].inputs) == (needs, inputs)


def _places(word):
    return [part.split("}")[0] for part in word.split("{")[1:]]


def test_the_digest_follows_the_files(tiny_data, tmp_path):
    data, cache = read_data(str(tiny_data)), tmp_path / "cache.json"
    first = digest(data, cache)
    assert digest(data, cache) == first == digest(data, None)
    assert data.judged == "test"
    fewer = dataclasses.replace(data, images={**data.images, "val": data.images["val"][1:]})
    assert digest(fewer, None) != first
    cached = json.loads(cache.read_text())
    assert set(data.images["train"]) < set(cached)


def splits(folder, **labels):
    """A data set with one image a split, and label files where they are asked for."""
    for split, labelled in labels.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "images" / split / "a.jpg")
        if labelled:
            (folder / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    file = folder / "data.yaml"
    rows = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    file.write_text(f"path: {folder}\n{rows}names: [thing]\n")
    return str(file)


def test_too_few_images_to_prune_are_found_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = splits(tmp_path / "few", train=True, val=True)
    words = [f"data={data}", "model=yolo26n.yaml", "dry_run=True", "imgsz=64"]
    assert cli.main(["pipeline", *words]) == 2
    assert "has 1 training images, and pruning needs at least 16" in capsys.readouterr().err
    assert cli.main(["pipeline", *words, "flops=0"]) == 0


@pytest.mark.parametrize(
    ("labels", "judged"),
    [({"test": True}, "test"), ({"test": False}, "val"), ({}, "val")],
    ids=["labels", "no labels", "not there"],
)
def test_only_a_split_with_labels_judges(tmp_path, labels, judged):
    """Roboflow names a test split that was not downloaded; COCO's test-dev has no labels."""
    data = read_data(splits(tmp_path, train=True, val=True, **labels))
    assert data.judged == judged
    assert set(data.images) == {"train", "val", judged}


def test_a_data_set_that_cannot_judge_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image of its val split has a label file"):
        read_data(splits(tmp_path, train=True, val=False))


def test_hours_cut_the_fine_tuning_where_nothing_else_trains(probed):
    chosen = {"epochs": 0, "finetune_epochs": 300}
    plan = command._plan(settings(max_hours=0.2, **chosen), DATA, None, probed)
    assert plan.epochs == 0
    assert 1 <= plan.finetune_epochs < 300
    assert seconds(plan) <= 0.2 * 3600
    with pytest.raises(UserError, match="at least max_hours=") as refused:
        command._plan(settings(max_hours=0.01, **chosen), DATA, None, probed)
    least = float(str(refused.value).rpartition("=")[2])
    assert command._plan(settings(max_hours=least, **chosen), DATA, None, probed).finetune_epochs in range(1, 10)
    with pytest.raises(UserError, match="is too little"):
        command._plan(settings(max_hours=least - 0.02, **chosen), DATA, None, probed)


@pytest.mark.parametrize("untrained", [{"flops": 0.0}, {"finetune_epochs": 0}])
def test_hours_without_any_training(probed, untrained):
    plan = command._plan(settings(max_hours=1.0, epochs=0, **untrained), DATA, None, probed)
    assert plan.epochs == 0
    with pytest.raises(UserError, match=r"steps that do not train about .*at least max_hours=0\.\d+"):
        command._plan(settings(max_hours=0.01, epochs=0, **untrained), DATA, None, probed)


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_the_least_hours_are_enough_for_one_epoch(probed, epochs):
    with pytest.raises(UserError) as refused:
        command._plan(settings(max_hours=0.01, epochs=epochs), DATA, None, probed)
    least = float(str(refused.value).rpartition("=")[2])
    plan = command._plan(settings(max_hours=least, epochs=epochs), DATA, None, probed)
    assert plan.epochs >= 1


def test_a_folder_that_was_left_while_the_data_was_read_is_no_strangers(tmp_path):
    """Ctrl-C then leaves the lock, and no args.yaml yet."""
    folder = tmp_path / "pipeline"

    def interrupted():
        with command._alone(folder):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert [file.name for file in folder.iterdir()] == [".lock"]


def test_photos_may_have_the_longest_names_and_names_that_are_not_utf8(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")
    (photos / "a.png").rename(photos / ("ä" * 125 + ".png"))
    assert samples.main([f"source={photos}", f"out={tmp_path / 'out'}"]) == 0
    assert [file.suffix for file in (tmp_path / "out").iterdir()] == [".png"]
    before = digest_folder(photos)
    try:
        os.close(os.open(os.fsencode(photos) + b"/caf\xe9.png", os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert digest_folder(photos) != before
