"""Whole training runs on 16 pictures: the `yolo` command as people type it, and what it leaves behind.

Covers refusals.py.
"""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from yolo_musgd.edge.errors import UserError
from yolo_musgd.train.records import COLUMNS, STEPS_FILE, read_steps

pytestmark = pytest.mark.slow
EPOCHS = 3
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def results(folder):
    with (folder / "results.csv").open() as file:
        return [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]


def weights(folder, which="last"):
    checkpoint = torch.load(folder / "weights" / f"{which}.pt", map_location="cpu", weights_only=False)
    model = checkpoint["model"] if checkpoint.get("model") is not None else checkpoint["ema"]
    return {k: v.float() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def cli_run(run, tiny_data, train_words, project):
    """The reference run: plain `yolo train optimizer=MuSGD`, TensorBoard on, layers recorded."""
    assert run("yolo", "settings", "tensorboard=True").returncode == 0
    done = run(
        "yolo", "train", "optimizer=musgd", "adapt_factor=0.05", "telemetry_layers=True", *train_words,
        f"data={tiny_data}", f"epochs={EPOCHS}", f"project={project}", "name=cli",
    )  # fmt: skip
    run("yolo", "settings", "tensorboard=False")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "cli", done.stdout + done.stderr


def test_results_csv_has_the_optimizers_columns(cli_run):
    rows = results(cli_run[0])
    assert len(rows) == EPOCHS
    for row in rows:
        assert {f"optim/{c}" for c in COLUMNS} == {k for k in row if k.startswith("optim/")}
        assert float(row["optim/grad_norm"]) > 0
        assert float(row["optim/grad_norm_clipped"]) <= 10.001
        low, p10, mean, p90, high = (float(row[f"optim/beta_t{x}"]) for x in ("_min", "_p10", "", "_p90", "_max"))
        assert 0 < low <= p10 <= p90 <= high <= 0.937
        assert low <= mean <= high
        assert float(row["optim/skipped_steps"]) == 0


def test_the_log_says_which_musgd_runs_and_how_to_get_the_other(cli_run):
    line = [x for x in cli_run[1].splitlines() if "optimizer:" in x]
    assert len(line) == 1
    assert "MuSGD" in line[0]
    assert "adapt_factor=0.05" in line[0]
    assert "MuSGD-native" in line[0]


def test_our_keys_are_in_args_yaml_and_in_the_checkpoint(cli_run):
    args = yaml.safe_load((cli_run[0] / "args.yaml").read_text())
    assert args["adapt_factor"] == 0.05
    assert args["optimizer"] == "musgd"
    saved = torch.load(cli_run[0] / "weights" / "best.pt", map_location="cpu", weights_only=False)["train_args"]
    assert saved["adapt_factor"] == 0.05
    assert saved["telemetry_layers"] is True


def test_every_step_is_on_record(cli_run):
    steps = read_steps(cli_run[0] / STEPS_FILE)
    assert steps["step"].tolist() == list(range(1, 2 * EPOCHS + 1))  # 16 pictures, batch 8
    assert steps["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
    assert (steps["grad_norm"] >= steps["grad_norm_clipped"] - 1e-4).all()
    assert math.isclose(steps["beta_t_max"][0], 0.8, abs_tol=1e-3)  # Ultralytics warms the momentum up from 0.8


def test_pictures(cli_run):
    from PIL import Image

    for name in ("optimizer.png", "optimizer_layers.png", "results.png"):
        with Image.open(cli_run[0] / name) as picture:
            assert min(picture.size) > 400, name


def test_tensorboard_got_the_same_figures(cli_run):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(cli_run[0]))
    events.Reload()
    logged = {e.step: e.value for e in events.Scalars("optim/beta_t")}
    rows = results(cli_run[0])
    for epoch in range(1, EPOCHS + 1):
        assert logged[epoch] == pytest.approx(float(rows[epoch - 1]["optim/beta_t"]), rel=1e-4)
    assert "optim/grad_norm" in events.Tags()["scalars"]


def test_layers_name_real_parameters(cli_run):
    with (cli_run[0] / "optimizer_layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {row["layer"] for row in rows}
    assert "model.0.conv.weight" in names
    assert len(rows) == EPOCHS * len(names)
    assert all(0 < float(row["beta_t"]) <= 0.937 for row in rows)


def test_python_api_trains_the_same_model(cli_run, run, tiny_data, train_words, project):
    """A fresh process, with the installed hook off: the trainer class by itself does what the command does."""
    words = dict(w.split("=") for w in train_words)
    code = f"""
import yaml
from ultralytics import YOLO
from yolo_musgd import MuSGDTrainer
words = {{k: yaml.safe_load(v) for k, v in {words!r}.items() if k != "model"}}
YOLO("yolo26n.yaml").train(trainer=MuSGDTrainer, optimizer="MuSGD", adapt_factor=0.05, data={str(tiny_data)!r},
                           epochs={EPOCHS}, plots=False, project={str(project)!r}, name="api", **words)
"""
    done = run("python", "-c", code, env={"YOLO_MUSGD": "0"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(project / "api"), weights(cli_run[0]))


def test_telemetry_changes_nothing(cli_run, run, tiny_data, train_words, project):
    done = run(
        "yolo", "train", "optimizer=MuSGD", "adapt_factor=0.05", "telemetry=False", "plots=False", *train_words,
        f"data={tiny_data}", f"epochs={EPOCHS}", f"project={project}", "name=silent",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(project / "silent"), weights(cli_run[0]))
    assert not (project / "silent" / STEPS_FILE).exists()
    assert not any(k.startswith("optim/") for k in results(project / "silent")[0])


def test_columns_keep_their_order_without_validation(run, tiny_data, train_words, project):
    """Ultralytics hands the metrics of the last validation in again: learning rates once stood under optim/beta_t."""
    done = run(
        "yolo", "train", "optimizer=MuSGD", "val=False", "plots=False", *train_words,
        f"data={tiny_data}", "epochs=4", f"project={project}", "name=noval",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = results(project / "noval")
    assert len(rows) == 4
    for row in rows:
        assert None not in row
        assert 0 < float(row["optim/beta_t"]) <= 0.937
        assert 0 <= float(row["lr/pg0"]) <= 0.1
        assert float(row["optim/grad_norm"]) > 0.5


def test_an_argument_that_the_optimizer_ignores_is_named(run, tiny_data, train_words, project):
    done = run(
        "yolo", "train", "optimizer=SGD", "adapt_factor=0.5", "plots=False", *train_words,
        f"data={tiny_data}", "epochs=1", f"project={project}", "name=idle",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SGD ignores adapt_factor=0.5; add optimizer=MuSGD" in done.stdout + done.stderr


def test_a_failed_start_leaves_a_folder_of_the_user_alone(run, train_words, tmp_path):
    (tmp_path / "mine" / "keep").mkdir(parents=True)
    done = run(
        "yolo", "train", "optimizer=MuSGD", *train_words, "data=nowhere.yaml", f"project={tmp_path}", "name=mine",
        "exist_ok=True",
    )  # fmt: skip
    assert done.returncode == 2
    assert (tmp_path / "mine" / "keep").is_dir()


def test_a_recipe_by_name_and_a_key_that_overrides_it(run, tiny_data, train_words, project):
    done = run(
        "yolo", "train", "cfg=musgd-article.yaml", "adapt_factor=0.2", "plots=False", *train_words,
        f"data={tiny_data}", "epochs=1", f"project={project}", "name=recipe",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    args = yaml.safe_load((project / "recipe" / "args.yaml").read_text())
    assert (args["adapt_factor"], args["norm_source"], args["nesterov"]) == (0.2, "decayed", False)


def interrupted(words, folder, epochs_done, env=None):
    """Start a run and kill it, as a power cut would, once ``epochs_done`` epochs are in its checkpoint."""
    command = [str(Path(sys.executable).with_name("yolo")), "train", *map(str, words)]
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    last, deadline = folder / "weights" / "last.pt", time.monotonic() + 240
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / "results.csv").exists() and len(results(folder)) >= epochs_done and last.exists():
                process.send_signal(signal.SIGSTOP)
                try:  # the checkpoint of that epoch, unless it is just being written
                    state = torch.load(last, map_location="cpu", weights_only=False)
                    if state["epoch"] >= epochs_done - 1:
                        break
                except (RuntimeError, EOFError):
                    pass
                process.send_signal(signal.SIGCONT)
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read().decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    return state


def test_an_interrupted_training_says_what_goes_on(tiny_data, tmp_path):
    from ultralytics import YOLO

    def stop(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    model = YOLO("yolo26n.yaml")
    model.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; go on with: yolo train resume=True .*last\.pt") as told:
        model.train(
            optimizer="MuSGD", data=str(tiny_data), imgsz=64, batch=4, workers=0, epochs=3, device="cpu", plots=False,
            project=str(tmp_path / "my runs"), name="cut",
        )  # fmt: skip
    last = tmp_path / "my runs" / "cut" / "weights" / "last.pt"
    assert str(told.value).endswith(f"'model={last}'")  # quoted, for the blank in it
    assert last.is_file()


@pytest.mark.parametrize("call", [1, 2], ids=["after the last epoch", "after the final validation"])
def test_a_training_that_was_interrupted_behind_its_last_epoch_is_not_to_be_resumed(tiny_data, tmp_path, call):
    """Ultralytics would refuse it or, its checkpoint being stripped by then, train anew from it."""
    from ultralytics import YOLO

    calls = []

    def stop(trainer):
        calls.append(trainer.epoch)
        if len(calls) == call:
            raise KeyboardInterrupt

    model = YOLO("yolo26n.yaml")
    model.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt, match=r"after the last epoch; the trained model: .*best\.pt") as told:
        model.train(
            data=str(tiny_data), epochs=1, imgsz=64, batch=8, workers=0, device="cpu", amp=False, plots=False,
            project=str(tmp_path), name="cut", optimizer="MuSGD",
        )  # fmt: skip
    assert "resume" not in str(told.value)


def test_resume_brings_settings_and_state_back(run, tiny_data, train_words, project):
    folder = project / "resumed"
    words = [
        "optimizer=MuSGD", "adapt_factor=0.07", "norm_mode=relative", "plots=False", *train_words,
        f"data={tiny_data}", "epochs=5", f"project={project}", "name=resumed",
    ]  # fmt: skip
    state = interrupted(words, folder, epochs_done=2)
    assert state["optimizer"]["param_groups"][0]["adapt_factor"] == 0.07
    assert len(state["optimizer"]["param_groups"]) == 3
    code = f"""
import torch
from ultralytics import YOLO
from yolo_musgd.optim.state import unprotect
def check(trainer):
    saved = torch.load({str(folder / "weights" / "last.pt")!r}, map_location="cpu", weights_only=False)["optimizer"]
    saved, now = unprotect(saved), unprotect(trainer.optimizer.state_dict())
    assert type(trainer.optimizer).__module__ == "yolo_musgd.optim.musgd", type(trainer.optimizer)
    for a, b in zip(saved["param_groups"], now["param_groups"]):
        assert a["adapt_factor"] == b["adapt_factor"] == 0.07
        assert b["norm_mode"] == "relative" and torch.equal(a["norm_sq_mean"], b["norm_sq_mean"])
    assert saved["state"].keys() == now["state"].keys() and saved["state"]
    for key, entry in saved["state"].items():
        for name in {{"exp_avg", "momentum_buffer"}} & entry.keys():  # of filters, of the rest
            assert torch.equal(entry[name].float(), now["state"][key][name])
    print("STATE IS BACK")
model = YOLO({str(folder / "weights" / "last.pt")!r})
model.add_callback("on_train_start", check)
model.train(resume=True)
"""
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "STATE IS BACK" in done.stdout
    rows = results(folder)
    assert [int(r["epoch"]) for r in rows][-1] == 5
    steps = read_steps(folder / STEPS_FILE)
    assert sorted(set(steps["epoch"])) == list(range(1, 6))
    assert (steps["epoch"][1:] >= steps["epoch"][:-1]).all()


@pytest.mark.parametrize("env", [{"YOLO_MUSGD": "0"}, {}])
def test_a_native_musgd_checkpoint_resumes_as_native(run, tiny_data, train_words, project, env):
    """Started by Ultralytics alone (plugin off) under the name MuSGD, or here as MuSGD-native."""
    name = "native-plain" if env else "native-named"
    optimizer = "MuSGD" if env else "MuSGD-native"
    words = [
        f"optimizer={optimizer}", "plots=False", *train_words,
        f"data={tiny_data}", "epochs=4", f"project={project}", f"name={name}",
    ]  # fmt: skip
    state = interrupted(words, project / name, epochs_done=1, env=env)
    assert any("use_muon" in g for g in state["optimizer"]["param_groups"])
    done = run("yolo", "train", "resume", f"model={project / name / 'weights' / 'last.pt'}")
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "MuSGD is Ultralytics' own (Muon + SGD)" in log
    assert int(results(project / name)[-1]["epoch"]) == 4


def test_plain_ultralytics_is_untouched_with_the_plugin_off(run, tiny_data, train_words, project):
    words = (*train_words, f"data={tiny_data}", "epochs=1", "plots=False", f"project={project}")
    done = run("yolo", "train", "optimizer=MuSGD", *words, "name=off", env={"YOLO_MUSGD": "0"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapt_factor" not in (project / "off" / "args.yaml").read_text()
    done = run("yolo", "train", "adapt_factor=0.1", *words, "name=off2", env={"YOLO_MUSGD": "0"})
    assert done.returncode != 0
    assert "adapt_factor" in done.stderr


def test_ultralytics_own_optimizers_give_the_same_weights_with_and_without_the_plugin(
    run, tiny_data, train_words, project
):
    words = (*train_words, f"data={tiny_data}", "epochs=1", "plots=False", f"project={project}")
    for name, env in (("sgd-with", {}), ("sgd-without", {"YOLO_MUSGD": "0"})):
        done = run("yolo", "train", "optimizer=SGD", *words, f"name={name}", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(project / "sgd-with"), weights(project / "sgd-without"))
    headers = [list(results(project / n)[0]) for n in ("sgd-with", "sgd-without")]
    assert headers[0] == headers[1]


def test_musgd_native_is_ultralytics_own_to_the_last_bit(run, tiny_data, train_words, project):
    words = (*train_words, f"data={tiny_data}", "epochs=1", "plots=False", f"project={project}")
    for optimizer, name, env in (("MuSGD-native", "native-with", {}), ("MuSGD", "native-without", {"YOLO_MUSGD": "0"})):
        done = run("yolo", "train", f"optimizer={optimizer}", *words, f"name={name}", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(project / "native-with"), weights(project / "native-without"))


def test_a_checkpoint_of_ours_works_without_the_plugin(cli_run, run, tiny_data, project):
    best = cli_run[0] / "weights" / "best.pt"
    words = (f"model={best}", f"data={tiny_data}", "imgsz=64", "plots=False", f"project={project}")
    for env in ({}, {"YOLO_MUSGD": "0"}):
        done = run("yolo", "val", *words, env=env)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=MuSDG"], "optimizer=MuSDG"),
        (["optimizer=MuSGD", "adapt_factor=-1"], "adapt_factor"),
        (["optimizer=MuSGD", "norm_scope=tensors"], "did you mean tensor?"),
        (["optimizer=MuSGD", "data=nowhere.yaml"], "nowhere.yaml"),
        (["optimizer=MuSGD", "adapt_facter=0.1"], "Similar arguments are i.e. ['adapt_factor=0.01']"),
        (["cfg=quickstrat"], "cfg=quickstrat cannot be read; did you mean cfg=quickstart?"),
        (["optimizer=musgd", "epochs=abc"], "'epochs=abc' is of invalid type str"),
        (["optimizer=musgd", "lr0=abc"], "'lr0=abc' is of invalid type str"),
        (["optimizer=musgd", "warmup_momentum=1.5"], "'warmup_momentum=1.5' is an invalid value"),
        (["optimizer=musgd", "model=bset"], "model=bset does not exist; give a .pt"),
        (["optimizer=musgd", "model=runs/bset.pt"], "model=runs/bset.pt does not exist; give a .pt"),
        pytest.param(["optimizer=musgd", "device=0"], "device=0: PyTorch sees no GPU here", marks=WITHOUT_GPU),
        pytest.param(["optimizer=musgd", "device=0,1"], "device=0,1: PyTorch sees no GPU", marks=WITHOUT_GPU),
    ],
)
def test_bad_arguments_give_one_line_and_write_nothing(run, tiny_data, train_words, tmp_path, words, message):
    done = run("yolo", "train", *train_words, f"data={tiny_data}", *words, f"project={tmp_path}", "name=bad")
    assert done.returncode == 2
    error = [line for line in done.stderr.splitlines() if "yolo-musgd:" in line]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_non_numeric_adapt_factor_is_refused(run, tiny_data, train_words, tmp_path):
    done = run(
        "yolo", "train", *train_words, f"data={tiny_data}", "optimizer=MuSGD", "adapt_factor=lots",
        f"project={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "adapt_factor must be >= 0, got 'lots'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_empty_labels_are_refused(run, train_words, tmp_path):
    from yolo_musgd.data.shapes import generate

    data = generate(tmp_path / "empty", {"train": 4, "val": 2}, size=64)
    for label in (data / "labels" / "train").iterdir():
        label.write_text("")
    (data / "data.yaml").write_text(f"path: {data}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    done = run(
        "yolo", "train", "optimizer=MuSGD", *train_words, f"data={data / 'data.yaml'}", "epochs=1",
        f"project={tmp_path / 'runs'}",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no object is labelled in" in done.stderr
    assert "4 images, 0 boxes" in done.stderr
    assert not any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("broken", ["no folder", "class ids out of range"])
def test_labels_that_cannot_be_used_are_one_line(broken, run, train_words, tmp_path):
    import shutil

    from yolo_musgd.data.shapes import generate

    data = generate(tmp_path / "set", {"train": 4, "val": 2}, size=64)
    if broken == "no folder":
        shutil.rmtree(data / "labels")
    for label in (data / "labels").rglob("*.txt"):
        label.write_text("7 0.5 0.5 0.2 0.2\n")
    (data / "data.yaml").write_text(f"path: {data}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    words = (*train_words, f"data={data / 'data.yaml'}", "epochs=1", f"project={tmp_path / 'runs'}")
    done = run("yolo", "train", "optimizer=MuSGD", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("yolo-musgd: ")
    assert "labels" in done.stderr.strip().splitlines()[-1]
    assert done.stderr.strip().splitlines()[-1].count("ignoring corrupt") <= 1  # an example, not each of them
    assert "Traceback" not in done.stderr
    assert not any((tmp_path / "runs").iterdir())


def test_classes_that_no_box_has_are_named(tmp_path):
    from ultralytics import YOLO

    data = _one_class(tmp_path / "ones")
    with pytest.raises(UserError, match=r"classes=\[2\]: no box in 4 images"):
        YOLO("yolo26n.yaml").train(
            optimizer="MuSGD", data=data, classes=[2], imgsz=64, batch=4, workers=0, epochs=1, device="cpu",
            project=str(tmp_path / "runs"),
        )  # fmt: skip


def _one_class(folder):
    from yolo_musgd.data.shapes import generate

    data = generate(folder, {"train": 4, "val": 2}, size=64)
    for label in (data / "labels").rglob("*.txt"):
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (data / "data.yaml").write_text(f"path: {data}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    return str(data / "data.yaml")


def test_a_folder_without_images_is_refused(run, train_words, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "empty" / "images" / split).mkdir(parents=True)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path / 'empty'}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    words = (*train_words, f"data={data}", "epochs=1", f"project={tmp_path / 'runs'}")
    done = run("yolo", "train", "optimizer=MuSGD", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"yolo-musgd: data={data}: train: No images found in ")
    assert "Traceback" not in done.stderr
    assert not any((tmp_path / "runs").iterdir())


def test_an_unwritable_run_folder_is_refused(run, tiny_data, train_words, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(
        "yolo", "train", "optimizer=MuSGD", *train_words, f"data={tiny_data}", "epochs=1",
        f"project={tmp_path / 'file'}",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot write the run folder" in done.stderr
    assert "choose another project=" in done.stderr


def test_tune_varies_and_passes_on_our_keys(run, tiny_data, train_words, project):
    words = dict(w.split("=") for w in train_words)
    code = f"""
import yaml
from ultralytics import YOLO
words = {{k: yaml.safe_load(v) for k, v in {words!r}.items() if k != "model"}}
YOLO("yolo26n.yaml").tune(data={str(tiny_data)!r}, iterations=1, epochs=1, optimizer="MuSGD", adapt_factor=0.03,
    space={{"adapt_factor": (0.01, 0.1)}}, plots=False, val=False, project={str(project)!r}, name="tune", **words)
"""
    done = run("python", "-c", code, cwd=project)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    tuned = [yaml.safe_load(f.read_text()) for f in project.rglob("best_hyperparameters.yaml")]
    assert len(tuned) == 1, log
    assert 0.01 <= tuned[0]["adapt_factor"] <= 0.1
