"""race.py and choice.py: who is chosen, why the others are not, and that serve and detect take the choice."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge import race as module
from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.bench import default_source
from yolo_musgd.edge.choice import CHOICE, apply_choice, list_artifacts, write_choice
from yolo_musgd.edge.detect import Detector
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.images import read_image
from yolo_musgd.edge.race import Entrant, choose_of, race, surely_slower
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime


def entrant(name: str, times: list[float], threads: int | None = 1, size: int = 1, out: str = "") -> Entrant:
    one = Entrant(name, SimpleNamespace(size_bytes=size, precision="fp32", sha256="0"), "onnxruntime", threads)
    one.p50_ms, one.out = times, out
    return one


def test_the_fastest_in_every_round_is_chosen() -> None:
    fast, slow = entrant("fast", [10, 30, 11]), entrant("slow", [12, 36, 13])  # the board was hot in the second round
    assert choose_of([slow, fast]) == [fast]


def test_no_difference_is_said_and_the_choice_is_not_luck() -> None:
    lean, wide = entrant("lean", [10.1, 9.9, 10.2], threads=1), entrant("wide", [10.0, 10.0, 10.0], threads=4)
    assert choose_of([wide, lean]) == [lean, wide]
    lean.p50_ms = [10.0, 10.1, 9.9]
    assert choose_of([lean, wide]) == [lean, wide]
    small = entrant("small", [10.0, 10.2, 10.1], size=0)
    for order in itertools.permutations([lean, wide, small]):
        assert choose_of(order) == [small, lean, wide]


@given(st.lists(st.tuples(*[st.floats(1, 50)] * 3), min_size=1, max_size=6), st.floats(0.1, 10))
def test_choosing(rows: list[tuple[float, ...]], factor: float) -> None:
    entrants = [entrant(str(k), list(times), threads=k % 3) for k, times in enumerate(rows)]
    found = choose_of(entrants)
    fastest = min(entrants, key=lambda one: one.time_ms)
    assert fastest in found
    assert not surely_slower(fastest, fastest)
    names = [one.path for one in found]
    assert names == [one.path for one in choose_of(entrants[::-1])] or len({one.time_ms for one in entrants}) < len(
        rows
    )
    for one in entrants:
        one.p50_ms = [time * factor for time in one.p50_ms]  # another clock
    assert len(choose_of(entrants)) in range(1, len(entrants) + 1)


def test_who_may_be_as_fast_but_took_longer_is_not_taken_for_its_fewer_threads() -> None:
    lean, wide = entrant("lean", [9.0, 14.0, 15.0], threads=1), entrant("wide", [10.0, 10.0, 10.0], threads=4)
    assert choose_of([lean, wide]) == [wide, lean]  # a noisy board: no difference is sure


@pytest.mark.parametrize(("precision", "asked"), [("fp32", None), ("int8", None), ("fp16", "fp16")])
def test_the_runtime_computes_as_in_bench(precision: str, asked: str | None) -> None:
    one = entrant("x", [1.0])
    one.artifact.precision = precision
    assert one.precision == asked  # NCNN would leave its FP16 for a file that says fp32


def test_who_is_out_is_not_chosen() -> None:
    kept, wrong = entrant("kept", [10, 10]), entrant("wrong", [1, 1], out="mAP too low")
    assert choose_of([wrong, kept]) == [kept]
    with pytest.raises(UserError, match=r"nobody finished the race: mAP too low"):
        choose_of([wrong])


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    speed = {"a": 10.0, "b": 11.0, "c": 40.0}

    def turn(one: Entrant, frames: object, count: int) -> None:
        order.append(one.path)
        one.p50_ms.append(speed[one.path])

    monkeypatch.setattr(module, "run_turn", turn)
    entrants = [entrant(name, []) for name in "abc"]
    race(entrants, [None], 3, 1)
    assert order == ["a", "b", "c", "b", "a", "a", "b"]  # another begins each round; c is out after the first
    assert "4.0 times as slow" in entrants[2].out


def test_loss_of_accuracy_puts_out(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = {"good": 0.40, "fine": 0.385, "bad": 0.30, "broken": None}
    answers = {name: (value, "" if value else "it crashed") for name, value in maps.items()}
    calls = []
    monkeypatch.setattr(module, "_judged", lambda one, labels, limit: calls.append(one) or answers[one.path])
    entrants = [entrant(name, [], threads) for name in maps for threads in (1, 2)]
    module.judge_all(entrants, "x", 5, 0.02)
    assert len(calls) == 4  # once, whatever the threads
    assert [bool(one.out) for one in entrants] == [False] * 4 + [True] * 4
    assert entrants[-1].out == "it crashed"


@pytest.fixture
def bundle(small_models: dict[str, Path], pictures: Path, tmp_path: Path) -> Path:
    """Two artifacts with samples, and labels that the raw one fits."""
    folder = tmp_path / "bundle"
    for name, model in small_models.items():
        (folder / "models" / name).mkdir(parents=True)
        shutil.copyfile(model, folder / "models" / name / "model.onnx")
    shutil.copytree(pictures, folder / "samples")
    shutil.copytree(pictures, folder / "val")
    artifact = open_artifact(str(small_models["raw"]))
    detector = Detector(artifact, open_runtime(artifact, "onnxruntime", 1), conf=0.0, max_det=12)
    images, notes = [], []
    for k, path in enumerate(sorted(pictures.iterdir())):
        image = read_image(str(path))
        images.append({"id": k, "file_name": path.name, "width": image.shape[1], "height": image.shape[0]})
        for x1, y1, x2, y2, _, c in detector(image).tolist():
            if min(x2 - x1, y2 - y1) > 2:
                notes.append({"image_id": k, "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1]})
    categories = [{"id": k, "name": name} for k, name in artifact.names.items()]
    content = {"images": images, "annotations": notes, "categories": categories}
    (folder / "val" / "annotations.json").write_text(json.dumps(content))
    return folder


def test_race_then_detect(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(bundle / "models")
    assert main(["detect", models, f"source={bundle}/samples"]) == 2
    assert f"let them race first: yolo-musgd race {models}" in capsys.readouterr().err
    words = ["runtimes=onnxruntime", "threads=[1,2]", "rounds=2", "frames=3", f"project={tmp_path}/out"]
    assert main(["race", models, *words]) == 0
    said = capsys.readouterr().out
    *_, found, results, following = said.splitlines()
    assert found.startswith("fastest: ")
    assert results == f"results: {tmp_path}/out/race"
    assert following == f"next: yolo-musgd serve {models} source=0"
    report = json.loads((tmp_path / "out" / "race" / "race.json").read_text())
    assert len(report["entrants"]) == 4
    assert {entry["threads"] for entry in report["entrants"]} == {1, 2}
    assert all(0.1 < entry["map50_95"] <= 1 for entry in report["entrants"] if not entry["out"])
    choice = json.loads((bundle / "models" / CHOICE).read_text())
    assert choice["model"] in ("raw", "nms_free")
    assert choice["map50_95"] == max(entry["map50_95"] for entry in report["entrants"])
    assert main(["detect", models, f"source={bundle}/samples", f"project={tmp_path}/out"]) == 0
    detections = json.loads((tmp_path / "out" / "detect" / "detections.json").read_text())
    assert detections["runtime"]["threads"] == choice["threads"]
    assert detections["model"]["sha256"] == open_artifact(f"{models}/{choice['model']}").sha256


def test_one_that_cannot_be_loaded_costs_only_itself(bundle: Path, tmp_path: Path) -> None:
    broken = bundle / "models" / "nms_free" / "model.onnx"
    data = bytearray(broken.read_bytes())
    data[data.index(b"TopK") : data.index(b"TopK") + 4] = b"Blah"
    broken.write_bytes(data)
    words = ["runtimes=onnxruntime", "threads=1", "rounds=2", "frames=2", f"project={tmp_path}/out"]
    assert main(["race", str(bundle / "models"), *words]) == 0
    report = json.loads((tmp_path / "out" / "race" / "race.json").read_text())
    out = {Path(entry["path"]).name: entry["out"] for entry in report["entrants"]}
    assert "cannot run" in out["nms_free"]
    assert out["raw"] == ""


def test_one_artifact_alone_leaves_no_choice(bundle: Path, tmp_path: Path) -> None:
    alone = str(bundle / "models" / "raw")
    words = ["runtimes=onnxruntime", "threads=[1]", "rounds=2", "frames=2", f"project={tmp_path}/out"]
    assert main(["race", alone, f"source={bundle}/samples", *words]) == 0
    assert sorted(path.name for path in Path(alone).iterdir()) == ["model.onnx"]
    assert main(["detect", alone, f"source={bundle}/samples", f"project={tmp_path}/out"]) == 0


def test_a_folder_may_have_a_comma_in_its_name(bundle: Path, tmp_path: Path) -> None:
    models = shutil.move(bundle / "models", bundle / "models,2")
    words = ["runtimes=onnxruntime", "threads=[1]", "rounds=2", "frames=2", f"project={tmp_path}/out"]
    assert main(["race", str(models), *words]) == 0
    assert (models / CHOICE).is_file()


def test_few_damaged_images_do_not_judge(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bundle / "val" / "annotations.json"
    content = json.loads(file.read_text())
    content["images"] += [{**content["images"][0], "id": 90 + k} for k in range(9)]
    content["images"] += [{**content["images"][0], "id": 99, "file_name": "absent.jpg"}]
    file.write_text(json.dumps(content))
    words = [str(bundle / "models"), "runtimes=onnxruntime", "threads=1", "rounds=2", "frames=2"]
    assert main(["race", *words, f"project={tmp_path}/out"]) == 0
    report = json.loads((tmp_path / "out" / "race" / "race.json").read_text())
    assert any(entry["map50_95"] for entry in report["entrants"])
    assert "left out: cannot read " in capsys.readouterr().err
    content["images"] += [{**content["images"][0], "id": 100, "file_name": "absent.jpg"}]
    file.write_text(json.dumps(content))
    assert main(["race", *words, f"project={tmp_path}/out"]) == 2
    assert "more than a tenth" in capsys.readouterr().err


def test_an_rtdetr_is_judged_on_stretched_images(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Recorder:
        def answer(self, blob: np.ndarray) -> np.ndarray:
            seen.append(blob.copy())
            return np.zeros((3, 6), np.float32)

        def close(self) -> None: ...

    artifact = open_artifact(str(bundle / "models" / "raw"))._replace(head="rtdetr")
    one = Entrant("x", artifact, "onnxruntime", 1)
    monkeypatch.setattr(one, "open", Recorder)
    assert module._judged(one, str(bundle / "val" / "annotations.json"), 3) == (0.0, "")
    padding = np.float32(114) / np.float32(255)
    assert all((blob[0, :, 0] != padding).any() and (blob[0, :, :, 0] != padding).any() for blob in seen)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runtimes=tflite"], "must be of"),
        (["source=synthetic.mp4"], "no such file"),
        (["labels=nowhere.json"], "nobody finished the race"),
        (["rounds=1"], "must be in"),
    ],
)
def test_bad_words(words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", str(bundle / "models"), "threads=1", *words, f"project={bundle}/out"]) == 2
    assert said in capsys.readouterr().err
    assert not (bundle / "models" / CHOICE).exists()


def options_of(model: Path, **given: object) -> SimpleNamespace:
    return SimpleNamespace(**{"model": str(model), "runtime": None, "threads": None, "precision": None, **given})


def test_the_users_words_win(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"model": "raw", "runtime": "onnxruntime", "threads": 2, "precision": "fp32", "board": "here"}
    write_choice(str(bundle / "models"), content)
    chosen = options_of(bundle / "models", threads=1)
    apply_choice(chosen, "here")
    assert (chosen.model, chosen.runtime, chosen.threads) == (str(bundle / "models" / "raw"), "onnxruntime", 1)
    assert capsys.readouterr().err == ""
    apply_choice(options_of(bundle / "models"), "elsewhere")
    assert "race again" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"model": "../../etc"}, {"model": "/etc"}, {"threads": "x"}, {"model": "."}])
def test_a_damaged_choice_is_refused(change: dict[str, object], bundle: Path) -> None:
    content = {"model": "raw", "runtime": "onnxruntime", "threads": 2, "board": "here"}
    write_choice(str(bundle / "models"), {**content, **change})
    with pytest.raises(UserError, match="is damaged"):
        apply_choice(options_of(bundle / "models"), "here")


def test_what_is_an_artifact(bundle: Path, tmp_path: Path) -> None:
    models = bundle / "models"
    assert list_artifacts(str(models)) == [str(models / "nms_free"), str(models / "raw")]
    assert list_artifacts(str(models / "raw")) == [str(models / "raw")]
    assert list_artifacts(str(tmp_path)) == [str(tmp_path)]
    (models / "._raw.onnx").write_bytes(b"\0\5\x16\7")  # what macOS notes about a file on a foreign disk
    (models / "raw" / "._model.onnx").write_bytes(b"\0\5\x16\7")
    assert list_artifacts(str(models)) == [str(models / "nms_free"), str(models / "raw")]
    assert open_artifact(str(models / "raw")).model == str(models / "raw" / "model.onnx")


@pytest.mark.parametrize("given", ["{}/models", "{}/models/", "."])
def test_samples_lie_beside_the_model(given: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle / "models")
    assert default_source(given.format(bundle)) == str(bundle / "samples")
