"""The archive for a board: what is in it, what it refuses.

Covers bundle_model.py and bundle_texts.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from detectors import alter, boxes, detector

from yolo_musgd.cli import main as command
from yolo_musgd.edge.runtimes.artifact import sha256_of
from yolo_musgd.export import bundle_model
from yolo_musgd.export.bundle import build_pyz
from yolo_musgd.export.targets import NAMES


def pyz(path: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60, check=False)


def test_pyz_is_reproducible_and_holds_edge_only(tmp_path: Path) -> None:
    first, second = build_pyz(tmp_path / "a.pyz"), build_pyz(tmp_path / "b.pyz")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    names = zipfile.ZipFile(first).namelist()
    assert {name.split("/")[0] for name in names} == {"edge", "__main__.py"}
    assert first.stat().st_size < 200_000


@pytest.mark.parametrize("target", NAMES)
def test_bundle_runs_by_itself(target: str, tmp_path: Path) -> None:
    model = detector(tmp_path / "best.onnx")
    assert command(["bundle", f"model={model}", f"target={target}", f"project={tmp_path}/out"]) == 0
    folder = tmp_path / "out" / f"edge-{target}"
    present = {path.name for path in folder.iterdir()}
    assert present == {"model", "edge.pyz", "requirements.txt", "run.sh", "samples", "README.md"}
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert list((folder / "samples").iterdir())
    assert "edge.pyz bench model" in (folder / "README.md").read_text()
    assert subprocess.run(["sh", "-n", str(folder / "run.sh")], check=False).returncode == 0
    with tarfile.open(tmp_path / "out" / f"edge-{target}.tar.gz") as archive:
        assert f"edge-{target}/edge.pyz" in archive.getnames()
    done = pyz(
        folder / "edge.pyz",
        "detect",
        "model",
        "source=samples",
        "project=results",
        "runtime=onnxruntime",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results" / "detect" / "detections.json").read_text())
    assert {row["name"] for row in found["images"][0]["detections"]} == {"dog"}


def test_damaged_bundle_is_not_run(tmp_path: Path) -> None:
    assert (
        command(["bundle", f"model={detector(tmp_path / 'best.onnx')}", f"project={tmp_path}/out", "archive=false"])
        == 0
    )
    folder = tmp_path / "out" / "edge-x86"
    with (folder / "model" / "best.onnx").open("ab") as file:
        file.write(b"\0")
    done = pyz(folder / "edge.pyz", "bench", "model", "n=1", folder=folder)
    assert done.returncode == 2
    assert "changed or damaged" in done.stderr
    assert not (folder / "runs").exists()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A model folder with a manifest, as a bundle has it."""
    model = detector(tmp_path / "best.onnx")
    assert command(["bundle", f"model={model}", f"project={tmp_path}/first", "archive=false"]) == 0
    return tmp_path / "first" / "edge-x86" / "model"


def relist(artifact: Path, **more: str) -> None:
    """Write the manifest anew, with the hashes of what is there and ``more`` entries."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"] = {"best.onnx": sha256_of(str(artifact / "best.onnx")), **more}
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def packed(artifact: Path, target: Path) -> set[str]:
    assert command(["bundle", f"model={artifact}", f"project={target}"]) == 0
    with tarfile.open(target / "edge-x86.tar.gz") as archive:
        inside = {name.removeprefix("edge-x86/model/") for name in archive.getnames() if "/model/" in name}
    model = target / "edge-x86" / "model"
    assert inside == {path.relative_to(model).as_posix() for path in model.rglob("*")}
    return inside


def test_what_the_manifest_lists_is_packed_and_nothing_else(artifact: Path, tmp_path: Path) -> None:
    (artifact / "notes").mkdir()
    (artifact / "notes" / "listed.txt").write_text("kept")
    (artifact / "unlisted.txt").write_text("x")
    (artifact / "foreign.pt").write_bytes(b"x")
    (artifact / "passwords").symlink_to("/etc/passwd")
    relist(artifact, **{"notes/listed.txt": sha256_of(str(artifact / "notes" / "listed.txt"))})
    assert packed(artifact, tmp_path / "again") == {"best.onnx", "manifest.json", "notes", "notes/listed.txt"}
    assert (tmp_path / "again" / "edge-x86" / "model" / "notes" / "listed.txt").read_text() == "kept"


@pytest.mark.parametrize("kind", ["a listed link", "the model", "the manifest", "a folder", "without a manifest"])
def test_no_link_is_followed_out_of_the_folder(
    kind: str, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "words.txt").write_text("secret")
    digest = sha256_of(str(secret / "words.txt"))
    if kind == "a listed link":
        (artifact / "link").symlink_to(secret / "words.txt")
        relist(artifact, link=digest)
    elif kind == "a folder":
        (artifact / "sub").symlink_to(secret)
        relist(artifact, **{"sub/words.txt": digest})
    else:
        name = "manifest.json" if kind == "the manifest" else "best.onnx"
        (artifact / name).rename(secret / name)
        (artifact / name).symlink_to(secret / name)
        if kind == "without a manifest":
            (artifact / "manifest.json").unlink()
    assert command(["bundle", f"model={artifact}", f"project={tmp_path}/out"]) == 2
    assert "is a link to somewhere outside" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_links_inside_and_a_link_that_the_user_named_are_files(artifact: Path, tmp_path: Path) -> None:
    (artifact / "real.txt").write_text("x")
    (artifact / "link.txt").symlink_to("real.txt")
    relist(artifact, **{"link.txt": sha256_of(str(artifact / "real.txt"))})
    assert packed(artifact, tmp_path / "a") == {"best.onnx", "manifest.json", "link.txt"}
    assert not (tmp_path / "a" / "edge-x86" / "model" / "link.txt").is_symlink()
    (tmp_path / "latest.onnx").symlink_to(artifact / "best.onnx")
    assert packed(tmp_path / "latest.onnx", tmp_path / "b") == {"latest.onnx", "manifest.json"}


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:/secret", "foreign.pt"]
)
def test_the_manifest_lists_files_of_its_folder_and_no_pickles(
    name: str, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first" / "edge-x86" / "secret").write_text("x")
    (artifact / "foreign.pt").write_text("x")
    relist(artifact, **{name: sha256_of(str(artifact / "foreign.pt"))})
    assert command(["bundle", f"model={artifact}", f"project={tmp_path}/out"]) == 2
    assert re.search("points outside the artifact|is a pickle", capsys.readouterr().err)
    assert not list((tmp_path / "out").glob("*"))


def test_weights_beside_a_model_are_packed_with_their_hash(tmp_path: Path) -> None:
    model = onnx.load(str(detector(tmp_path / "best.onnx")))
    folder = tmp_path / "big"
    folder.mkdir()
    onnx.save_model(
        model, str(folder / "best.onnx"), save_as_external_data=True, location="best.onnx_data", size_threshold=0
    )
    assert packed(folder / "best.onnx", tmp_path / "out") == {"best.onnx", "best.onnx_data", "manifest.json"}
    manifest = json.loads((tmp_path / "out" / "edge-x86" / "model" / "manifest.json").read_text())
    assert manifest["files"]["best.onnx_data"] == sha256_of(str(folder / "best.onnx_data"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 4}, "export it with batch=1"),
        ({"answer": np.full((1, 6, 4), 7, np.float32)}, "scores reach from 7 to 7"),
        ({"answer": np.full((1, 6, 4), np.nan, np.float32)}, "no numbers"),
        ({"answer": np.zeros((1, 9, 4), np.float32)}, "9 rows; 2 class names need 6"),
        ({"answer": np.zeros((1, 6, 4, 1), np.float32)}, "output has shape"),
        ({"answer": boxes(), "metadata": {"end2end": None}}, "export it again"),
        ({"answer": boxes([0, 0, 9, 9, 0.5, 2]), "metadata": {"head": "RTDETRDecoder"}}, "sixth column is no class"),
        ({"answer": boxes([0, 0, 9, 9, 0.5, 0.25]), "metadata": {"end2end": "True"}}, "sixth column is no class"),
        ({"answer": boxes([0, 0, 9, 9, 0.5, 2]), "metadata": {"end2end": "True"}}, "sixth column is no class"),
    ],
)
def test_nothing_is_packed_that_the_runner_has_not_run(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = alter(detector(tmp_path / "best.onnx"), **change)
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_nms_inside_the_graph_works(tmp_path: Path) -> None:
    metadata = {"args": "{'nms': True}"}
    model = alter(detector(tmp_path / "best.onnx"), answer=boxes([4, 4, 20, 20, 0.9, 1]), metadata=metadata)
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out", "archive=false"]) == 0
    folder = tmp_path / "out" / "edge-x86"
    assert json.loads((folder / "model" / "manifest.json").read_text())["head"] == "nms"
    done = pyz(folder / "edge.pyz", "detect", "model", "source=samples", "project=results", folder=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results" / "detect" / "detections.json").read_text())
    assert [row["name"] for row in found["images"][0]["detections"]] == ["dog"]


def test_ultralytics_own_kinds_of_export(run, random_checkpoint: Path, tmp_path: Path) -> None:
    """nms=True works, batch=4 is refused; both as ``yolo export`` writes them."""
    model = tmp_path / "best.pt"
    shutil.copyfile(random_checkpoint, model)
    for words, code in ((["nms=True"], 0), (["batch=4"], 2)):
        done = run("yolo", "export", f"model={model}", "format=onnx", "imgsz=64", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        project = f"project={tmp_path}/{words[0]}"
        assert command(["bundle", f"model={tmp_path}/best.onnx", project, "archive=false"]) == code


def test_without_a_runtime_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_model, "available", lambda name: (False, ""))
    model = detector(tmp_path / "best.onnx")
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out"]) == 2
    assert "pip install onnxruntime, or pack it as it is with probe=false" in capsys.readouterr().err
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out", "probe=false"]) == 0


def test_the_archive_is_the_same_every_time_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector(tmp_path / "best.onnx")
    for name in ("a", "b"):
        assert command(["bundle", f"model={model}", f"project={tmp_path}/{name}"]) == 0
    first, second = (tmp_path / name / "edge-x86.tar.gz" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    shutil.rmtree(tmp_path / "a" / "edge-x86")
    assert command(["bundle", f"model={model}", f"project={tmp_path}/a"]) == 0  # after a kill at the last rename
    shutil.rmtree(tmp_path / "a" / "edge-x86")
    first.write_bytes(b"the user's own")
    assert command(["bundle", f"model={model}", f"project={tmp_path}/a"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert first.read_bytes() == b"the user's own"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["edge-x86.tar.gz"]


def test_the_users_umask_holds(tmp_path: Path) -> None:
    model = detector(tmp_path / "best.onnx")
    before = os.umask(0o077)
    try:
        assert command(["bundle", f"model={model}", f"project={tmp_path}/out"]) == 0
    finally:
        os.umask(before)
    made = [tmp_path / "out" / "edge-x86.tar.gz", *(tmp_path / "out" / "edge-x86").rglob("*")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)
    assert (tmp_path / "out" / "edge-x86" / "run.sh").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["../out", "/tmp/x", "a/b", "..", "x" * 300])
def test_names_are_of_one_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = detector(tmp_path / "best.onnx")
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out/in", f"name={name}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"best.onnx", "out"}


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["target=jetson-nano"], {"quantized": True}, "no INT8"),
        (["target=jetson-nano"], {"operator": "Mod"}, "no Mod operator"),
        (["target=jetson-nanoo"], {}, "did you mean jetson-nano?"),
        (["samples=nowhere"], {}, "no such file or folder"),
        (["sampels=x"], {}, "did you mean samples=?"),
    ],
)
def test_refusals(
    words: list[str], changes: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector(tmp_path / "best.onnx", **changes)
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_warnings_and_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = detector(tmp_path / "best.onnx", opset=14)
    assert command(["bundle", f"model={model}", "target=jetson-nano", f"project={tmp_path}/out"]) == 0
    assert "opset=13" in capsys.readouterr().err
    assert command(["bundle", f"model={model}", "target=jetson-nano", f"project={tmp_path}/out"]) == 2
    assert "there already" in capsys.readouterr().err
    assert command(["bundle"]) == 2
    assert "model= is required" in capsys.readouterr().err


def test_exist_ok_takes_an_empty_folder_and_says_what_it_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, place = detector(tmp_path / "best.onnx"), tmp_path / "out"
    place.mkdir()
    words = ["bundle", f"model={model}", f"save_dir={place}", "exist_ok=True", "probe=false"]
    foreign = tmp_path / "out.tar.gz"
    foreign.write_text("mine")
    assert command([*words, "archive=false"]) == 0
    assert (place / "edge.pyz").is_file()
    assert foreign.read_text() == "mine"
    shutil.rmtree(place)
    place.mkdir()
    (place / "mine").touch()
    capsys.readouterr()
    assert command(words) == 2
    assert "holds something else than results of this command" in capsys.readouterr().err
    assert [p.name for p in place.iterdir()] == ["mine"]


def test_a_format_that_no_runtime_of_the_board_reads_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m_ncnn_model"
    model.mkdir()
    (model / "model.ncnn.param").write_text("7767517\n")
    (model / "model.ncnn.bin").write_bytes(b"")
    (model / "metadata.yaml").write_text("task: detect\nimgsz:\n- 64\n- 64\nnames:\n  0: a\n")
    words = ["bundle", f"model={model}", "probe=false", "archive=false", f"project={tmp_path}/out"]
    assert command([*words, "target=raspberry-pi-5"]) == 0
    assert "reads no" not in capsys.readouterr().err
    assert command([*words, "target=jetson-nano"]) == 0
    assert "note: tensorrt of an original Jetson Nano" in capsys.readouterr().err
    assert "reads no ncnn model" in (tmp_path / "out" / "edge-jetson-nano" / "README.md").read_text()


def test_several_artifacts_race_on_the_board(tmp_path: Path) -> None:
    one, two = detector(tmp_path / "one.onnx"), detector(tmp_path / "two.onnx")
    words = [f"model=[{one},{two}]", "target=x86", f"project={tmp_path}/out", "archive=false"]
    assert command(["bundle", *words]) == 0
    folder = tmp_path / "out" / "edge-x86"
    assert {path.name for path in (folder / "models").iterdir()} == {"one", "two"}
    assert "edge.pyz race models" in (folder / "README.md").read_text()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHON": sys.executable}
    quick = ["n=2", "seconds=0", "warmup=0", "power=none", "picture=false"]
    done = subprocess.run(
        ["sh", "run.sh", *quick], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: ") == 1  # what the script types itself is no advice
    choice = json.loads((folder / "models" / "choice.json").read_text())
    assert choice["model"] in ("one", "two")
    said, results, following, where = done.stdout.splitlines()[-4:]
    assert re.match(rf"[\d.]+ frames a second on .* \({choice['runtime']}, {choice['threads']} thread", said)
    assert results == "results: results/bench"
    camera = "next: python3 edge.pyz serve models source=0"
    assert following.startswith(f"{camera} # on a PC: yolo-musgd compare-bench results/bench/bench.json")
    assert where == f"folder: {folder}"
    bench = json.loads((folder / "results" / "bench" / "bench.json").read_text())
    assert bench["runs"][0]["runtime"]["name"] == choice["runtime"]
    assert [run["runtime"]["threads"] for run in bench["runs"]] == [choice["threads"]]


def test_artifacts_that_cannot_race_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    one, same = detector(tmp_path / "one.onnx"), detector(tmp_path / "a" / "one.onnx")
    assert command(["bundle", f"model=[{one},{same}]", f"project={tmp_path}/out"]) == 2
    assert "two artifacts are called one" in capsys.readouterr().err
    other = alter(detector(tmp_path / "other.onnx"), metadata={"names": "{0: 'bird', 1: 'fish'}"})
    assert command(["bundle", f"model=[{one},{other}]", f"project={tmp_path}/out"]) == 2
    assert "different classes" in capsys.readouterr().err
