"""The trainer classes in this process: every task, pickling, the DDP launch file.

Covers yolo_musgd/trainers.py and train/announcement.py.
"""

import dataclasses
import errno
import importlib
import inspect
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.optim import registry, zoo
from yolo_musgd.settings import Settings, setting
from yolo_musgd.train import announcement
from yolo_musgd.train import trainer as ours

plugin.register()


def bases():
    from ultralytics.models import yolo

    found = {}
    for task in ("detect", "segment", "pose", "obb", "classify", "semantic", "depth"):
        module = getattr(yolo, task, None)
        for name in getattr(module, "__all__", ()):
            if name.endswith("Trainer"):
                found[task] = getattr(module, name)
    return found


def test_there_are_trainers_for_all_tasks():
    assert {"detect", "segment", "pose", "obb", "classify"} <= set(bases())


@pytest.mark.parametrize("task", sorted(bases()))
def test_one_mixin_over_every_trainer(task):
    base = bases()[task]
    cls = ours.trainer_class(base)
    assert issubclass(cls, base)
    assert issubclass(cls, ours.MuSGDTrainerMixin)
    assert "Trainer" in cls.__name__  # Ultralytics decides by the name whether to attach its loggers
    assert ours.trainer_class(cls) is cls
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_every_trainer_of_ultralytics_is_found_by_name():
    """DDP's workers import it so; those that train YOLO-World and YOLOE from scratch do not end in Trainer."""
    from ultralytics.engine.trainer import BaseTrainer

    found = set()
    for module in ("rtdetr.train", "yolo.detect", "yolo.world", "yolo.world.train_world", "yolo.yoloe"):
        for cls in vars(importlib.import_module(f"ultralytics.models.{module}")).values():
            if isinstance(cls, type) and issubclass(cls, BaseTrainer) and cls is not BaseTrainer:
                made = ours.trainer_class(cls)
                assert pickle.loads(pickle.dumps(made)) is made
                found.add(cls.__name__)
    assert {"RTDETRTrainer", "WorldTrainerFromScratch", "YOLOETrainerFromScratch", "YOLOEPETrainer"} <= found


def test_classes_are_found_by_name_in_a_fresh_process():
    from ultralytics.models.yolo.detect import DetectionTrainer

    data = pickle.dumps(ours.trainer_class(DetectionTrainer))
    code = f"import pickle; print(pickle.loads({data!r}).__mro__[2].__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "DetectionTrainer"
    with pytest.raises(AttributeError, match="MuSGDNoSuchTrainer"):
        _ = ours.MuSGDNoSuchTrainer


def test_yolo_hands_out_our_trainer_for_every_task():
    from ultralytics import YOLO

    for name, task in (("yolo26n.yaml", "detect"), ("yolo26n-cls.yaml", "classify"), ("yolo26n-obb.yaml", "obb")):
        assert YOLO(name, task=task)._smart_load("trainer") is ours.trainer_class(bases()[task])
        assert "Validator" in YOLO(name, task=task)._smart_load("validator").__name__


def make_task_data(task, root):
    """Eight labelled squares for one task, in the format that Ultralytics reads."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(8 if split == "train" else 4):
            x, y = rng.uniform(16, 32, size=2)
            image = Image.new("RGB", (64, 64), (90, 90, 90))
            ImageDraw.Draw(image).rectangle((x, y, x + 20, y + 20), fill=(220, 30 * (i % 2), 30))
            folder = root / split / str(i % 2) if task == "classify" else root / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i}.jpg")
            if task == "classify":
                continue
            corners = [(x, y), (x + 20, y), (x + 20, y + 20), (x, y + 20)]
            flat = " ".join(f"{v / 64:.6f}" for point in corners for v in point)
            box = f"{(x + 10) / 64:.6f} {(y + 10) / 64:.6f} {20 / 64:.6f} {20 / 64:.6f}"
            points = " ".join(f"{a / 64:.6f} {b / 64:.6f} 2" for a, b in corners)
            text = {"detect": box, "segment": flat, "obb": flat, "pose": f"{box} {points}"}[task]
            labels = root / "labels" / split
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{i}.txt").write_text(f"{i % 2} {text}\n")
    if task == "classify":
        return root
    kpt = "kpt_shape: [4, 3]\n" if task == "pose" else ""
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [a, b]\n{kpt}")
    return root / "data.yaml"


MODELS = [("segment", "yolo26n-seg"), ("pose", "yolo26n-pose"), ("obb", "yolo26n-obb"), ("classify", "yolo26n-cls")]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "model"), MODELS)
def test_every_task_trains(task, model, tmp_path):
    from ultralytics import YOLO

    yolo = YOLO(f"{model}.yaml", task=task)
    yolo.train(
        data=str(make_task_data(task, tmp_path / "data")), optimizer="MuSGD", epochs=1, imgsz=64, batch=4, nbs=4,
        workers=0, amp=False, plots=False, project=str(tmp_path), name="run", device="cpu",
    )  # fmt: skip
    assert type(yolo.trainer).__module__ == "yolo_musgd.trainers"
    assert type(yolo.trainer.optimizer).__module__ == "yolo_musgd.optim.musgd"
    header = (tmp_path / "run" / "results.csv").read_text().splitlines()[0]
    assert "optim/beta_t" in header
    assert (tmp_path / "run" / "optimizer_steps.csv.gz").exists()


def make_trainer(tiny_data, tmp_path, **overrides):
    from ultralytics.models.yolo.detect import DetectionTrainer

    arguments = {
        "model": "yolo26n.yaml", "data": str(tiny_data), "epochs": 1, "imgsz": 64, "batch": 8, "nbs": 8, "workers": 0,
        "device": "cpu", "amp": False, "plots": False, "project": str(tmp_path), "name": "ddp", "optimizer": "MuSGD",
    }  # fmt: skip
    return ours.trainer_class(DetectionTrainer)(overrides={**arguments, **overrides})


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("musgd", "MuSGD"),
        ("MuonSGD", "MuonSGD"),
        ("musgd-native", "MuSGD-native"),
        ("sgd", "SGD"),
        ("adagrad", "Adagrad"),
    ],
)
def test_pictures_carry_the_name_that_was_typed(tiny_data, tmp_path, monkeypatch, typed, shown):
    from ultralytics.nn.tasks import DetectionModel

    trainer = make_trainer(tiny_data, tmp_path, optimizer=typed, telemetry=True)
    model = DetectionModel("yolo26n.yaml", verbose=False)
    trainer.build_optimizer(model, typed, lr=0.01, momentum=0.9, decay=5e-4, iterations=100)
    titles = []
    monkeypatch.setattr("yolo_musgd.train.optimizer_plots.plot_steps", lambda folder, name: titles.append(name))
    trainer._monitor.plot()
    assert titles == [shown]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"adapt_factor": 0.5}, "SGD ignores adapt_factor=0.5; add optimizer=MuSGD to use it"),
        ({"muon_rows": 0.9}, "SGD ignores muon_rows=0.9; add optimizer=MuSGD or MuonSGD to use it"),
        ({"toy_width": 2.0}, "SGD ignores toy_width=2.0; add optimizer=Toy to use it"),
    ],
)
def test_an_argument_of_another_optimizer_says_whose_it_is(monkeypatch, given, told):
    @dataclasses.dataclass(frozen=True)
    class ToySettings(Settings):
        toy_width: float = setting(1.0, "an argument of its own")

    said = []
    monkeypatch.setitem(zoo.RECIPES, "Toy", zoo.Recipe("torch.optim", "SGD", settings=ToySettings))
    toy = registry.OptimizerInfo("Toy", "", "", "1x", 0.1, make=registry.builder("Toy"))
    monkeypatch.setitem(registry.REGISTRY, "Toy", toy)
    monkeypatch.setattr("yolo_musgd.train.settings.PLUGIN_SETTINGS", (*ours.PLUGIN_SETTINGS, ToySettings))
    monkeypatch.setattr(announcement.LOGGER, "warning", said.append)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    announcement.announce(registry.find("SGD"), optimizer, given, (), fine_tunes=False)
    assert said == [told]


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("MuonSGD", {"adapt_factor": 0.5}, "adapt_factor=0.5; add optimizer=MuSGD to use it"),
        ("MuonSGD", {"adapt_factor": 0.5, "muon_rest": "musgd"}, None),
        ("MuonSGD", {"nesterov": False, "muon_rows": 0.9}, None),
        ("MuonAdamW", {"nesterov": False}, "nesterov=False; add optimizer=MuSGD or MuonSGD to use it"),
        ("MuonAdamW", {"muon_rest": "musgd"}, "muon_rest=musgd; add optimizer=MuSGD or MuonSGD to use it"),
        ("MuonAdamW", {"muon_rows": 0.9, "head_lr": 2.0}, None),
        ("MuSGD", {"orthogonalize": False, "adapt_factor": 0.5, "head_lr": 2.0}, None),
        ("MuSGD", {"orthogonalize": False, "muon_rows": 0.9}, "muon_rows=0.9 with orthogonalize=False"),
    ],
)  # fmt: skip
def test_an_argument_without_effect_is_told(monkeypatch, name, given, told):
    said, shown = [], []
    monkeypatch.setattr(announcement.LOGGER, "warning", said.append)
    monkeypatch.setattr(announcement.LOGGER, "info", shown.append)
    model = torch.nn.Linear(4, 4)
    groups = [{"params": list(model.parameters()), "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}]
    optimizer = registry.find(name).build(groups, given, model)
    announcement.announce(registry.find(name), optimizer, {"lr0": 0.01, **given}, (), fine_tunes=False)
    assert said == ([f"{name} ignores {told}"] if told else [])
    for key, value in given.items():
        assert (f"{key}={value}" in shown[0]) is (not told or not told.startswith(key)), key


@pytest.mark.slow
def test_the_file_that_ultralytics_writes_for_ddp_workers_runs(tiny_data, tmp_path):
    from pathlib import Path

    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    trainer = make_trainer(tiny_data, tmp_path, adapt_factor=0.04)
    file = generate_ddp_file(trainer)
    try:
        import os

        environment = {**os.environ, "YOLO_MUSGD": "0"}  # the class itself must bring the keys
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=300, env=environment)
    finally:
        ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapt_factor=0.04" in done.stdout + done.stderr
    best = next(Path(tmp_path).rglob("best.pt"))
    assert torch.load(best, weights_only=False)["train_args"]["adapt_factor"] == 0.04


@pytest.mark.parametrize(
    ("optimizer", "given", "wanted"),
    [
        ("MuSGD", {}, {"muon_lr": 0.3, "second_moment": 0.99, "body_lr": 0.5, "head_lr": 1.5}),
        ("MuSGD", {"muon_lr": 1.0}, {"muon_lr": 1.0, "second_moment": 0.99, "body_lr": 0.5, "head_lr": 1.5}),
        ("MuonSGD", {}, {"muon_lr": 0.3, "second_moment": None}),
        ("MuSGD", {"orthogonalize": False}, {"muon_lr": None, "second_moment": None}),
        ("SGD", {}, {"muon_lr": None, "second_moment": None}),
    ],
)
def test_workers_of_ddp_start_from_what_their_parent_knows_of_the_weights(
    tiny_data, tmp_path, monkeypatch, optimizer, given, wanted
):
    """Recent releases hand them the built model, which does not say whether its weights were learned."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG_DICT

    class SeenError(Exception):
        """The parent is about to start its workers."""

    def start_workers(trainer):
        raise SeenError

    monkeypatch.setattr("ultralytics.engine.trainer.generate_ddp_command", start_workers)
    parent = make_trainer(tiny_data, tmp_path, optimizer=optimizer, **given)
    weights = DetectionModel("yolo26n.yaml", nc=7, verbose=False)
    parent.model = parent.get_model(cfg=weights.yaml, weights=weights)
    parent.ddp = True
    with pytest.raises(SeenError):
        parent.train()
    assert {k: getattr(parent.args, k) for k in wanted} == wanted
    worker = type(parent)(cfg={**DEFAULT_CFG_DICT, "save_dir": ""}, overrides=vars(parent.args))
    made = worker.build_optimizer(parent.model, optimizer, lr=0.01, momentum=0.9, decay=5e-4, iterations=100)
    if "body_lr" in wanted:
        assert made.param_groups[0]["muon_lr"] == wanted["muon_lr"]
        assert made.param_groups[0]["second_moment"] == wanted["second_moment"]
        assert {round(g["lr"], 6) for g in made.param_groups} == {0.005, 0.015}


@pytest.mark.slow
def test_a_trainer_of_the_users_own_gets_the_optimizers_too(tiny_data, tmp_path):
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    class MyTrainer(DetectionTrainer):
        """A trainer that a user wrote without knowing of the plugin."""

    yolo = YOLO("yolo26n.yaml")
    yolo.train(
        trainer=MyTrainer, data=str(tiny_data), optimizer="MuSGD", adapt_factor=0.07, epochs=1, imgsz=64, batch=8,
        nbs=8, workers=0, amp=False, plots=False, project=str(tmp_path), name="run", device="cpu",
    )  # fmt: skip
    assert isinstance(yolo.trainer, MyTrainer)
    assert type(yolo.trainer.optimizer).__module__ == "yolo_musgd.optim.musgd"
    assert yolo.trainer.optimizer.param_groups[0]["adapt_factor"] == 0.07


def test_a_trainer_of_the_users_own_may_have_a_constructor_of_its_own(tiny_data, tmp_path):
    """Ultralytics calls it with ``overrides`` and ``_callbacks`` alone."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Short(DetectionTrainer):
        def __init__(self, overrides=None, _callbacks=None):
            super().__init__(overrides=overrides, _callbacks=_callbacks)

    class Long(DetectionTrainer):
        def __init__(self, *args, flavour="plain", **kwargs):
            self.flavour = flavour
            super().__init__(*args, **kwargs)

    given = {"model": "yolo26n.yaml", "data": str(tiny_data), "device": "cpu", "project": str(tmp_path)}
    assert ours.trainer_class(Short)(overrides=given, _callbacks=None).args.data == str(tiny_data)
    assert ours.trainer_class(Long)(overrides=given, flavour="sweet").flavour == "sweet"
    for bad in ({"overrides": {**given, "optimizer": "SDG"}}, {"cfg": {**given, "optimizer": "SDG"}}):
        with pytest.raises(UserError, match="did you mean SGD"):
            ours.trainer_class(Long)(**bad)
    with pytest.raises(UserError, match="did you mean SGD"):
        ours.trainer_class(Short)({**given, "optimizer": "SDG"})


def test_a_run_folder_whose_weights_ultralytics_could_not_read_again_is_refused(tiny_data, tmp_path, monkeypatch):
    """It leaves apostrophes out of the path of any checkpoint: the training ended in a FileNotFoundError."""
    from ultralytics.nn.tasks import load_checkpoint

    folder = tmp_path / "o'neil"
    with pytest.raises(UserError, match=r"o'neil.*choose another project="):
        make_trainer(tiny_data, folder)
    assert not any(folder.iterdir())
    assert make_trainer(tiny_data, folder, optimizer="SGD").save_dir.is_dir(), "the host's own runs are its own affair"
    torch.save({"model": torch.nn.Linear(1, 1)}, folder / "w.pt")
    monkeypatch.setattr("ultralytics.utils.downloads.get_github_assets", lambda *args, **kwargs: ("", []))
    with pytest.raises(FileNotFoundError, match="oneil"):
        load_checkpoint(folder / "w.pt")


@pytest.mark.parametrize("what", ["cfg", "data"])
def test_a_file_that_is_missing_is_not_called_a_folder_that_cannot_be_written(tmp_path, what):
    nowhere = str(tmp_path / "nowhere.yaml")
    given = {"model": "yolo26n.yaml", "device": "cpu", "project": str(tmp_path / "runs")}
    words = {"cfg": nowhere, "overrides": given} if what == "cfg" else {"overrides": {**given, "data": nowhere}}
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        ours.trainer_class(bases()["detect"])(**words)
    assert nowhere in str(caught.value)
    assert "cannot write" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "given", "rate", "second"),
    [
        ("yaml", {}, 2.0, 0.0),
        ("checkpoint", {}, 0.3, 0.99),
        ("loaded", {}, 0.3, 0.99),
        ("yaml", {"pretrained": "CHECKPOINT"}, 0.3, 0.99),
        ("checkpoint", {"pretrained": False}, None, None),  # 8.4.0 takes the weights nevertheless
        ("checkpoint", {"second_moment": 0.0}, 0.3, 0.0),
    ],
)
def test_settings_follow_the_weights_that_training_really_starts_from(
    tiny_data, tmp_path, caplog, start, given, rate, second
):
    from ultralytics import YOLO
    from ultralytics.utils import LOGGER

    class SeenError(Exception):
        """Training has begun; nothing more is wanted of it."""

    def look(trainer):
        raise SeenError

    checkpoint = str(tmp_path / "w.pt")
    torch.manual_seed(12345)  # a trainer of the test before may have left the seed that this training begins with
    yolo = YOLO("yolo26n.yaml")
    yolo.save(checkpoint)
    if start != "yaml":
        yolo = YOLO(checkpoint) if start == "checkpoint" else yolo.load(checkpoint)
    yolo.add_callback("on_train_start", look)
    given = {k: checkpoint if v == "CHECKPOINT" else v for k, v in given.items()}
    LOGGER.addHandler(caplog.handler)
    try:
        with pytest.raises(SeenError):
            yolo.train(
                data=str(tiny_data), optimizer="MuSGD", epochs=1, imgsz=64, batch=8, workers=0, amp=False, plots=False,
                project=str(tmp_path), name="run", device="cpu", **given,
            )  # fmt: skip
    finally:
        LOGGER.removeHandler(caplog.handler)
    trainer = yolo.trainer
    weights = YOLO(checkpoint).model.state_dict()["model.1.conv.weight"]
    learned = torch.allclose(trainer.model.state_dict()["model.1.conv.weight"], weights, atol=1e-3)  # saved in fp16
    if rate is None:
        rate, second = (0.3, 0.99) if learned else (2.0, 0.0)
    assert learned == (rate == 0.3)
    assert {(g["muon_lr"], g["second_moment"]) for g in trainer.optimizer.param_groups} == {(rate, second)}
    assert (trainer.args.muon_lr, trainer.args.second_moment) == (rate, second), "what a resume would start with"
    said = next(line for line in caplog.messages if "from yolo-musgd" in line)
    assert f"muon_lr={rate}" in said
    assert ("as suits trained weights" if rate == 0.3 else "as suits random weights") in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "given", "body", "head"),
    [
        (7, {}, 0.005, 0.015),
        (7, {"head_lr": 4.0}, 0.005, 0.04),
        (7, {"optimizer": "MuonSGD"}, 0.01, 0.01),
        (7, {"orthogonalize": False}, 0.01, 0.01),
        (None, {}, 0.01, 0.01),  # as many classes as the data set: the head is no new one
    ],
)
def test_a_head_for_new_classes_takes_longer_steps_and_the_rest_shorter_ones(
    tiny_data, tmp_path, classes, given, body, head
):
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    classes = classes or len(yaml.safe_load(tiny_data.read_text())["names"])
    yolo = YOLO("yolo26n.yaml")
    yolo.model = DetectionModel("yolo26n.yaml", nc=classes, verbose=False)
    yolo.save(tmp_path / "w.pt")
    trainer = make_trainer(tiny_data, tmp_path, model=str(tmp_path / "w.pt"), lr0=0.01, **given)
    trainer._setup_train()
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: g["initial_lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert len(rates) == sum(p.requires_grad for p in trainer.model.parameters())
    last = f"model.{len(trainer.model.model) - 1}."  # blocks of the body have a cv3 too
    for name, rate in rates.items():
        new = name.startswith((f"{last}cv3.", f"{last}one2one_cv3."))
        assert rate == pytest.approx(head if new else body), name
    if trainer.args.optimizer == "MuSGD" and trainer.args.orthogonalize:
        written = (trainer.args.body_lr * 0.01, trainer.args.head_lr * 0.01)
        assert written == pytest.approx((body, head)), "what a resume would start with"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MuSGD", "MuonSGD", "MuonAdamW"])
def test_the_rate_of_the_classification_head_is_that_of_ultralytics_own(tiny_data, tmp_path, name):
    def boosted(**given):
        trainer = make_trainer(tiny_data, tmp_path, lr0=0.01, **given)
        trainer._setup_train()
        names = {id(p): n for n, p in trainer.model.named_parameters()}
        rates = {names[id(p)]: g["initial_lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
        assert set(rates.values()) <= {0.01, 0.03}
        return {n for n, rate in rates.items() if rate == 0.03}, len(rates)

    ours, count = boosted(optimizer=name, head_lr=3.0)
    assert ours
    assert all(".cv3." in n or ".one2one_cv3." in n for n in ours)
    assert boosted(optimizer=name) == (set(), count)
    if theirs := boosted(optimizer="MuSGD-native")[0]:  # releases before 8.4.190 went by fragments of names
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "told"), [(1, "auto picked AdamW at lr0=0.0"), (6000, "MuSGD (Ultralytics' own")])
def test_auto_says_what_it_picked_and_what_it_ignores(tiny_data, tmp_path, caplog, epochs, told):
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils import LOGGER

    trainer = make_trainer(tiny_data, tmp_path, optimizer="auto", lr0=0.5, epochs=epochs)
    LOGGER.addHandler(caplog.handler)
    try:
        trainer._setup_train()
    finally:
        LOGGER.removeHandler(caplog.handler)
    (said,) = (x for x in caplog.messages if "auto picked" in x)
    if '"MuSGD", lr_fit' in inspect.getsource(BaseTrainer.build_optimizer):
        told = {1: "MuSGD (Ultralytics' own", 6000: "auto picked SGD at lr0=0.01"}[epochs]  # the rule of 8.4.0
    assert told in said
    assert "lr0= and momentum= are ignored" in said
    assert "optimizer=MuSGD" in said
    rate = min(g["initial_lr"] for g in trainer.optimizer.param_groups)  # new classes may have three times as much
    assert rate != 0.5
    assert f"lr0={rate:g}" in said


def test_bad_arguments_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    from ultralytics import YOLO

    from yolo_musgd.settings import SettingsError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="adapt_factor"):
        YOLO("yolo26n.yaml").train(data=["a.yaml", "b.yaml"], optimizer="MuSGD", adapt_factor=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_param_groups_are_the_hosts(tiny_data, tmp_path):
    trainer = make_trainer(tiny_data, tmp_path)
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert len(groups) == 3
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    grouped = [p for g in groups for p in g["params"]]
    assert {id(p) for p in trained} == {id(p) for p in grouped}
    assert len(grouped) == len({id(p) for p in grouped})
    by_decay = [g for g in groups if g["weight_decay"] > 0]
    assert len(by_decay) == 1
    assert all(p.ndim == 4 for p in by_decay[0]["params"])


class Saves:
    """A trainer of Ultralytics that only saves, as it does: what the test makes of ``write`` is how it ends."""

    def __init__(self, folder):
        self.wdir = folder / "weights"
        self.wdir.mkdir(parents=True)
        self.last, self.best, self.device = self.wdir / "last.pt", self.wdir / "best.pt", torch.device("meta")
        self.args, self.ddp, self.resume = types.SimpleNamespace(exist_ok=True), False, False
        self.content, self.write = b"first", Path.write_bytes

    def save_model(self):
        self.write(self.last, self.content)
        self.write(self.best, self.content)
        return True


def half(error):
    def write(file, content):
        file.write_bytes(content[: len(content) // 2])
        raise error

    return write


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=["Ctrl-C", "full disk"]
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, error):
    """Ultralytics writes into last.pt itself: an end in the middle of that cost all that had been trained."""
    trainer = type("Ours", (ours.MuSGDTrainerMixin, Saves), {"__init__": Saves.__init__})(tmp_path)
    assert trainer.save_model() is True
    trainer.content, trainer.write = b"second", half(error)
    with pytest.raises(type(error)):
        trainer.save_model()
    assert {p.name: p.read_bytes() for p in trainer.wdir.iterdir()} == {"last.pt": b"first", "best.pt": b"first"}
    trainer.write = Path.write_bytes
    trainer.save_model()
    assert {p.name: p.read_bytes() for p in trainer.wdir.iterdir()} == {"last.pt": b"second", "best.pt": b"second"}


@pytest.mark.parametrize("where", ["save_metrics", "save_model"])
def test_a_full_disk_is_told_in_a_line_with_what_goes_on(tiny_data, tmp_path, monkeypatch, where):
    from ultralytics.engine.trainer import BaseTrainer

    whole = getattr(BaseTrainer, where)

    def full(trainer, *args, **kwargs):
        if trainer.epoch == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(trainer, *args, **kwargs)

    monkeypatch.setattr(BaseTrainer, where, full)
    trainer = make_trainer(tiny_data, tmp_path, epochs=3)
    with pytest.raises(UserError) as told:
        trainer.train()
    command = f"go on with: yolo train resume=True model={trainer.last}"
    assert str(told.value) == f"cannot write to {trainer.save_dir}: No space left on device; {command}"
    assert torch.load(trainer.last, weights_only=False)["epoch"] == 0


def test_a_checkpoint_that_somebody_reads_is_written_all_the_same(tmp_path, monkeypatch):
    """On Windows it cannot be replaced then."""
    trainer = type("Ours", (ours.MuSGDTrainerMixin, Saves), {"__init__": Saves.__init__})(tmp_path)
    trainer.last.write_bytes(b"the epoch before")

    def refuse(part, file):
        raise PermissionError(13, "Access is denied", str(file))

    monkeypatch.setattr(Path, "replace", refuse)
    assert trainer.save_model() is True
    assert {p.name: p.read_bytes() for p in trainer.wdir.iterdir()} == {"last.pt": b"first", "best.pt": b"first"}


def test_a_checkpoint_of_an_earlier_run_is_nothing_to_go_on_with(tmp_path):
    """With exist_ok=True it lies where the new one would be saved."""
    trainer = type("Ours", (ours.MuSGDTrainerMixin, Saves), {"__init__": Saves.__init__})(tmp_path)
    trainer.last.write_bytes(b"of an earlier run")
    assert trainer._how_to_resume() == "interrupted before the first epoch was saved"
    trainer.save_model()
    assert trainer._how_to_resume() == f"interrupted; go on with: yolo train resume=True model={trainer.last}"
    resumed = type("Ours", (ours.MuSGDTrainerMixin, Saves), {"__init__": Saves.__init__})(tmp_path / "other")
    resumed.last.write_bytes(b"what it goes on with")
    resumed.resume = True
    assert "go on with" in resumed._how_to_resume()
