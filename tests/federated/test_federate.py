"""``yolo-musgd federate`` from end to end, on Flower's simulation engine.

Covers {command,settings,federation_report,judge}.py.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")
pytest.importorskip("ray", reason="the extra federated is not installed")

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated import command as command_module
from yolo_musgd.federated.arrays import read_arrays
from yolo_musgd.federated.settings import FederateSettings, by_recipe, others, training_arguments

WORDS = ("imgsz=64", "batch=8", "nbs=8", "workers=0", "device=cpu", "amp=False", "seed=3")
MAIN = "metrics/mAP50-95(B)"


def command(*words, script=""):
    """The command in a fresh process group; ``script`` runs before it."""
    start = f"{script}\nimport sys\nfrom yolo_musgd.cli import main\nsys.exit(main(['federate', *sys.argv[1:]]))"
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, words), *WORDS],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finished(process, code=0):
    out, _ = process.communicate(timeout=540)
    assert process.returncode == code, out
    return out


def rows(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(once, tiny_data):
    """Two clients, three rounds, nothing in the way."""

    def make(folder):
        words = (f"data={tiny_data}", f"project={folder}", "clients=2", "rounds=3", "baselines=central")
        return folder / "exp", finished(command(*words))

    return once("federation", make)


@pytest.mark.slow
def test_every_round_is_recorded(whole):
    folder, out = whole
    table = rows(folder)
    assert [(row["round"], row["clients"], row["left_out"]) for row in table] == [(f"{n}", "2", "") for n in (1, 2, 3)]
    values = sum(a.size for name, a in read_arrays(folder / "state.npz").items() if name.startswith("model/"))
    for row in table:
        assert 2 * 4 * values < int(row["bytes_up"]) == int(row["bytes_down"]) < 1.03 * 2 * 4 * values
    assert "round 3/3: 2 of 2 clients" in out
    report = json.loads((folder / "report.json").read_text())
    assert report["baselines"].keys() == {"central"}
    assert [row["round"] for row in report["rounds"]] == [1, 2, 3]
    text = (folder / "report.md").read_text()
    assert "| central |" in text
    assert (folder / "rounds.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_global_model_is_a_checkpoint_for_anybody(whole, tiny_data):
    from ultralytics import YOLO

    folder, _ = whole
    model = YOLO(folder / "weights" / "last.pt")
    stored = read_arrays(folder / "state.npz")
    for name, value in model.model.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_array_equal(value.numpy(), stored[f"model/{name}"].astype(np.float16).astype(np.float32))
    found = model.val(data=str(tiny_data), imgsz=64, batch=8, device="cpu", plots=False, verbose=False)
    assert found.results_dict[MAIN] == pytest.approx(float(rows(folder)[-1][MAIN]), abs=1e-5)


@pytest.mark.slow
def test_a_federation_that_was_killed_goes_on_to_the_same_bits(whole, tiny_data, tmp_path):
    """Killed after its first round; the same command does the others, and ends where the undisturbed one did."""
    words = (f"data={tiny_data}", f"project={tmp_path}", "clients=2", "rounds=3")
    process = command(*words)
    end = time.monotonic() + 400
    while not (tmp_path / "exp" / "results.csv").exists() and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 1 <= len(rows(tmp_path / "exp")) < 3
    out = finished(command(*words))
    assert "round 1/3" not in out
    assert [row["round"] for row in rows(tmp_path / "exp")] == ["1", "2", "3"]
    expected, found = read_arrays(whole[0] / "state.npz"), read_arrays(tmp_path / "exp" / "state.npz")
    for name in expected:
        if name.startswith("model/"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


SPOILED = textwrap.dedent("""
    import os
    import numpy as np
    import yolo_musgd.federated.client as client
    honest = client.train_round

    def spoiled(home, content, honest=honest, record=client.record):
        number = content["config"]["round"]
        from yolo_musgd.federated import local

        train = local.train
        if number == 1 and home.name == "client 1":
            local.train = lambda *_: os._exit(9)
        try:
            reply = honest(home, content)
        finally:
            local.train = train
        if number == 2 and home.name == "client 2":
            arrays = {name: array.numpy() for name, array in reply["arrays"].items()}
            arrays["dense"] = np.full_like(arrays["dense"], np.nan)
            reply["arrays"] = record(arrays)
        return reply

    client.train_round = spoiled
""")


@pytest.mark.slow
def test_a_client_that_dies_or_sends_nan_is_left_out_of_that_round(tiny_data, tmp_path):
    words = (
        f"data={tiny_data}",
        f"project={tmp_path}",
        "clients=3",
        "rounds=3",
        "split=dirichlet:0.5",
        "compress=topk:0.1",
    )
    out = finished(command(*words, script=SPOILED))
    table = rows(tmp_path / "exp")
    assert [(r["clients"], r["left_out"]) for r in table] == [("2", "client 1"), ("2", "client 2"), ("3", "")], out
    assert "round 1: client 1 is left out: its process ended while it trained" in out
    assert re.search(r"round 2: client 2 is left out: model\.\S+ holds NaN or infinity", out), out
    assert all(
        np.isfinite(a).all() for n, a in read_arrays(tmp_path / "exp" / "state.npz").items() if n.startswith("model/")
    )
    full = int(table[0]["bytes_down"]) / 3
    assert int(table[2]["bytes_down"]) < 1.4 * full  # two clients had left something out and get the whole model
    assert int(table[2]["bytes_up"]) < 3 * 0.12 * full
    report = (tmp_path / "exp" / "report.md").read_text()
    assert "| 1 | client 1 | its process ended while it trained" in report


@pytest.mark.slow
def test_heads_may_stay_at_home(tiny_data, tmp_path):
    words = (
        f"data=[{tiny_data},{tiny_data}]",
        "split=folders",
        f"project={tmp_path}",
        "rounds=2",
        "share=backbone",
        "strategy=fedmuon",
    )
    finished(command(*words))
    stored = read_arrays(tmp_path / "exp" / "state.npz")
    shared = {name.removeprefix("model/") for name in stored if name.startswith("model/")}
    assert shared
    assert all(int(name.split(".")[1]) < 11 for name in shared)
    heads = [read_arrays(tmp_path / "exp" / "clients" / c / "state-2.npz") for c in "01"]
    private = [name for name in heads[0] if name.startswith("private/")]
    assert not {name.removeprefix("private/") for name in private} & shared
    assert any((heads[0][name] != heads[1][name]).any() for name in private)
    assert all(np.isfinite(float(row[MAIN])) for row in rows(tmp_path / "exp"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("data=tiny", "clients=99"), "clients=99: the train split has 16 images"),
        (("data=tiny", "split=folders"), "one a client"),
        (("data=tiny", "split=sorted"), "must be iid, folders or dirichlet:ALPHA"),
        (("data=tiny", "share=tail"), "'tail' is none of all"),
        (("data=tiny", "compress=zip"), "must be none, half, bits:N with N from 1 to 4, or topk:SHARE"),
        (("data=tiny", "optimizer=MuSDG"), "MuSGD"),
        (("data=tiny", "epochs=3"), "rounds= times local_epochs= are the epochs"),
        (("data=tiny", "imgsz=big"), "imgsz"),
        (("data=tiny", "strategy=fedsgd"), "strategy must be one of fedavg, fedprox, fedadam, fedmuon"),
        (("data=tiny", "strategy=fedprox", "server_lr=0.5"), "server_lr= is for strategy=fedavg or fedadam or fedmuon"),
        (("data=tiny", "proximal_mu=0.5"), "proximal_mu= is for strategy=fedprox, not for fedavg"),
        (("data=tiny", "model=absent.yaml"), "model=absent.yaml does not exist"),
        (("data=absent.yaml",), "data=absent.yaml cannot be read"),
        (("clients=2",), "data= is required, for example data=shapes.yaml"),
        (("data=tiny", "roundz=3"), "did you mean rounds"),
    ],
)
def test_bad_input_is_one_line_before_any_work(run, tiny_data, tmp_path, words, line):
    given = [word.replace("data=tiny", f"data={tiny_data}") for word in words]
    done = run("yolo-musgd", "federate", *given, f"project={tmp_path}/out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    told = [x for x in done.stderr.splitlines() if x.startswith("yolo-musgd")]
    assert len(told) == 1
    assert line in told[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "optimizer"),
    [
        ({}, "MuSGD"), ({"cfg": "muon.yaml"}, "MuonSGD"), ({"cfg": "muon.yaml", "optimizer": "SGD"}, "SGD"),
    ],
)  # fmt: skip
def test_the_recipe_names_the_optimizer_unless_the_words_do(words, optimizer):
    given = {"data": "shapes.yaml", "rounds": "3", **words}
    arguments = training_arguments(others(given, FederateSettings))
    settings = by_recipe(FederateSettings.read(given), given, arguments)
    assert (settings.optimizer, settings.rounds) == (optimizer, 3)


def test_what_the_user_chose_for_the_machine_reaches_its_clients(tmp_path):
    arguments = training_arguments({"device": "mps", "workers": "0", "lr0": "0.1"})
    context = SimpleNamespace(node_config={"partition-id": 1})
    data = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    home = command_module.home_of(data, tmp_path, "x.yaml", None, command_module.own_arguments(arguments), context)
    assert (home.data, dict(home.own)) == (data[1], {"device": "mps", "workers": 0})
    assert command_module.own_arguments({"device": [0, 1]}) == {}


@pytest.mark.parametrize(("count", "jobs", "each"), [(1, 2, 0.5), (4, 3, 1), (5, 2, 2), (2, 2, 1)])
def test_a_client_gets_whole_gpus_or_a_part_of_one(monkeypatch, count, jobs, each):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    asked = command_module._backend(FederateSettings(jobs=jobs), {})
    assert asked["client_resources"]["num_gpus"] == each


def test_a_folder_is_for_one_federation_at_a_time(tmp_path):
    with (
        command_module._alone(tmp_path / "exp"),
        pytest.raises(UserError, match="another federation is at work in"),
        command_module._alone(tmp_path / "exp"),
    ):
        pass
    with command_module._alone(tmp_path / "exp"):
        pass
    command_module._check_folder(tmp_path / "exp", FederateSettings(), {})


def test_another_federation_in_the_folder_is_refused(run, tiny_data, tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "args.yaml").write_text("clients: 3\nrounds: 2\n")
    done = run("yolo-musgd", "federate", f"data={tiny_data}", f"project={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another federation" in done.stderr
    assert (tmp_path / "exp" / "args.yaml").read_text() == "clients: 3\nrounds: 2\n"
