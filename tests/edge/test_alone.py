"""The bundle that the installed command makes, in an environment of numpy, onnxruntime and an image library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from yolo_musgd.edge.__main__ import main


def python_with(folder: Path, libraries: dict[str, str]) -> Path:
    """A Python that has these packages (name to import -> name of its folder of native libraries), as links to ours."""
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name, native in libraries.items():
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            pytest.skip(f"{name} is not installed")
        package = Path(spec.origin).parent
        for part in (package, package.with_name(native)):
            if part.exists():
                (site / part.name).symlink_to(part)
    return folder / "bin" / "python"


BARE = {"numpy": "numpy.libs", "onnxruntime": "onnxruntime.libs"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment without an image library."""
    return python_with(tmp_path_factory.mktemp("bare"), BARE)


@pytest.fixture(
    scope="module", params=[("PIL", "pillow.libs"), ("cv2", "opencv_python.libs")], ids=lambda pair: pair[0]
)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with one image library."""
    return python_with(tmp_path_factory.mktemp("alone"), {**BARE, request.param[0]: request.param[1]})


@pytest.fixture(scope="module")
def bundle(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, run: object) -> Path:
    """A bundle, made by the installed command outside the checkout."""
    folder = tmp_path_factory.mktemp("bundle")
    done = run("yolo-musgd", "bundle", f"model={random_models['raw']}", "name=b", cwd=folder)  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "bundle" / "b"


def in_alone(python: Path, *words: object, cwd: Path, code: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words], env={**environment, "PYTHON": str(python)}, cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def test_nothing_else_is_there(alone: Path, bare: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    names = ["numpy", "onnxruntime", "torch", "cv2", "PIL", "ultralytics", "yolo_musgd", "matplotlib"]
    assert in_alone(bare, bare, "-c", code.format(names=names), cwd=tmp_path) == "['numpy', 'onnxruntime']\n"
    assert len(in_alone(alone, alone, "-c", code.format(names=names), cwd=tmp_path).split()) == 3


def test_without_an_image_library(bare: Path, bundle: Path, tmp_path: Path) -> None:
    words = [f"project={tmp_path}", "n=3", "seconds=0", "warmup=0"]
    assert "images: no library; install one: python3 -m pip" in in_alone(bare, bare, "edge.pyz", "doctor", cwd=bundle)
    for command in (["detect", "model", "source=samples"], ["val", "model", "source=samples"], ["bench", "model"]):
        said = in_alone(bare, bare, "edge.pyz", *command, f"project={tmp_path}", cwd=bundle, code=2)
        assert "edge: images need OpenCV or Pillow" in said
        assert "pip install opencv-python-headless" in said
    assert list(tmp_path.iterdir()) == []
    in_alone(bare, bare, "edge.pyz", "bench", "model", "source=synthetic", *words, cwd=bundle)
    report = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (report["source"]["source"], report["source"]["image_backend"]) == ("synthetic 128x128", None)
    assert "no library" in (tmp_path / "bench" / "bench.md").read_text()


def test_run_script_as_it_stands(alone: Path, bundle: Path) -> None:
    shutil.rmtree(bundle / "results", ignore_errors=True)
    in_alone(alone, "sh", "run.sh", "n=3", "seconds=0", "warmup=0", cwd=bundle)
    report = json.loads((bundle / "results" / "bench" / "bench.json").read_text())
    assert report["runs"][0]["frames"] == 3
    assert report["source"]["image_backend"] in ("opencv", "pillow")
    assert report["runs"][0]["runtime"]["graph"]["convolutions"] == 102
    found = json.loads((bundle / "results" / "detect" / "detections.json").read_text())
    assert len(found["images"]) == len(list((bundle / "samples").iterdir()))


def test_val_there_is_val_here(alone: Path, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    pictures.rename(images)
    labels.mkdir()
    words = [f"source={images}", "runtime=onnxruntime", "threads=1"]
    assert main(["detect", str(bundle / "model"), *words, f"project={tmp_path}/seen", "conf=0.0", "max_det=12"]) == 0
    for entry in json.loads((tmp_path / "seen" / "detect" / "detections.json").read_text())["images"]:
        size = (entry["width"], entry["height"])
        lines = []
        for found in entry["detections"]:
            x1, y1, x2, y2 = (found["box"][k] / size[k % 2] for k in range(4))
            lines.append(f"{found['class']} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
        (labels / f"{Path(entry['image']).stem}.txt").write_text("".join(lines))
    assert main(["val", str(bundle / "model"), *words, f"project={tmp_path}/here"]) == 0
    in_alone(alone, alone, "edge.pyz", "val", "model", *words, f"project={tmp_path}/there", cwd=bundle)
    here, there = (
        json.loads((tmp_path / side / "val" / "val.json").read_text())["result"] for side in ("here", "there")
    )
    assert here["map50_95"] > 0.1
    assert there["map50_95"] == pytest.approx(here["map50_95"], abs=0.002)
