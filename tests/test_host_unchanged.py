"""Plain ``yolo`` with the plugin is plain ``yolo`` without it: same files, same figures, whatever the mode."""

from __future__ import annotations

import csv
import os
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow
SHARED = Path(os.environ.get("YOLO_MUSGD_SHARED", Path(__file__).resolve().parents[2] / "shared"))

EVERY_MODE = textwrap.dedent(
    """
    import os
    import shutil
    import sys
    import ultralytics.cfg
    from ultralytics.utils import DEFAULT_CFG_DICT
    tiny, model, data, images, clip, tracker, conf = sys.argv[1:]
    runs = os.path.abspath("runs")
    model = model or f"{runs}/t/weights/best.pt"
    own = f"{runs}/own.pt"
    plain = f"project={runs} exist_ok=True verbose=True device=cpu"
    for mode, words in (
        ("train", f"model=yolo26n.yaml data={tiny} imgsz=64 epochs=2 batch=8 workers=0 plots=False name=t {plain}"),
        ("val", f"model={model} data={data} imgsz=160 batch=4 workers=0 plots=False name=v {plain}"),
        ("predict", f"model={model} source={images} imgsz=160 conf={conf} save_txt=True save_conf=True name=p {plain}"),
        ("export", f"model={own} format=onnx imgsz=160 device=cpu"),
        ("track", f"model={model} source={clip} imgsz=160 conf={conf} tracker={tracker} save_txt=True name=k {plain}"),
        ("benchmark", f"model={own} data={data} imgsz=160 format=onnx device=cpu"),
    ):
        print("## mode", mode, flush=True)
        ultralytics.cfg.entrypoint(f"yolo {mode} {words}")
        if mode == "train":
            shutil.copyfile(model, own)  # the exported file lies beside it
    print("## plugin", "adapt_factor" in DEFAULT_CFG_DICT)
    """
)


def real_or_drawn(base: Path, tiny_data: Path) -> tuple[str, Path, Path, np.ndarray, float]:
    """Weights ("" for those just trained), data.yaml, folder of pictures, the video's scene, lowest score.

    With the real images beside the checkout: trained weights and photographs, so that there is something to find.
    """
    import cv2

    photos = SHARED / "data" / "coco128" / "images" / "val"
    weights = SHARED / "weights" / "yolo26n_rebuilt.pt"
    if not (photos.is_dir() and weights.is_file()):
        images = tiny_data.parent / "images" / "val"
        return "", tiny_data, images, cv2.imread(str(sorted(images.iterdir())[0])), 0.0001
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        folder = base / "real" / kind / "val"
        folder.mkdir(parents=True)
        for photo in sorted(photos.iterdir())[:16]:
            source = photos.parents[1] / kind / "val" / f"{photo.stem}{suffix}"
            if source.is_file():
                shutil.copyfile(source, folder / source.name)
    data = yaml.safe_load((photos.parents[1] / "data.yaml").read_text())
    data = {"path": str(base / "real"), "train": "images/val", "val": "images/val", "names": data["names"]}
    (base / "real.yaml").write_text(yaml.safe_dump(data))
    from ultralytics.utils import ASSETS

    return str(weights), base / "real.yaml", base / "real" / "images" / "val", cv2.imread(str(ASSETS / "bus.jpg")), 0.25


@pytest.fixture(scope="module")
def both(run, tiny_data, tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Folder and printed text of the same commands, with the plugin ("1") and without ("0")."""
    for package in ("cv2", "lap", "onnx", "onnxruntime", "onnxslim"):
        pytest.importorskip(package, reason="what Ultralytics asks for to track and to export")
    import cv2
    from ultralytics.utils import ROOT

    base = tmp_path_factory.mktemp("modes")
    weights, data, images, scene, conf = real_or_drawn(base, tiny_data)
    clip, size = base / "clip.avi", (scene.shape[1] * 3 // 4, scene.shape[0] * 3 // 4)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for step in range(8):  # the camera pans
        left = step * (scene.shape[1] - size[0]) // 8
        writer.write(np.ascontiguousarray(scene[-size[1] :, left : left + size[0]]))
    writer.release()
    rules = yaml.safe_load((ROOT / "cfg" / "trackers" / "bytetrack.yaml").read_text())
    rules.update(track_high_thresh=conf, track_low_thresh=conf / 2, new_track_thresh=conf)
    (base / "tracker.yaml").write_text(yaml.safe_dump(rules))
    out = {}
    for switch in ("1", "0"):
        folder = base / switch
        folder.mkdir()
        words = [tiny_data, weights, data, images, clip, base / "tracker.yaml", conf]
        done = run("python", "-c", EVERY_MODE, *words, cwd=folder, env={"YOLO_MUSGD": switch})
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert done.stdout.strip().endswith("## plugin True" if switch == "1" else "## plugin False")
        out[switch] = (folder, done.stdout)
    return out


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## mode (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_train_writes_the_same_results(both):
    with_it, without = (
        list(csv.DictReader((both[switch][0] / "runs" / "t" / "results.csv").read_text().splitlines()))
        for switch in "10"
    )
    assert len(without) == 2
    assert list(with_it[0]) == list(without[0])  # not a column more
    for one, other in zip(with_it, without, strict=True):
        assert {k: v for k, v in one.items() if k.strip() != "time"} == {
            k: v for k, v in other.items() if k.strip() != "time"
        }
    assert {p.name for p in (both["1"][0] / "runs" / "t").iterdir()} == {
        p.name for p in (both["0"][0] / "runs" / "t").iterdir()
    }


@pytest.mark.parametrize("mode", ["train", "val", "benchmark"])
def test_the_same_figures_are_printed(both, mode):
    rows = [re.findall(r"^ +all .*$", sections(both[switch][1])[mode], re.MULTILINE) for switch in "10"]
    assert rows[0] == rows[1]
    assert rows[1]


@pytest.mark.parametrize(("mode", "folder"), [("predict", "p"), ("track", "k")])
def test_the_same_boxes_are_written(both, mode, folder):
    with_it, without = (
        {p.name: p.read_text() for p in (both[switch][0] / "runs" / folder / "labels").glob("*.txt")} for switch in "10"
    )
    assert with_it == without
    assert any(without.values())


def test_the_exported_graph_is_the_same(both):
    onnx = pytest.importorskip("onnx")
    graphs = [onnx.load(both[switch][0] / "runs" / "own.onnx") for switch in "10"]
    assert graphs[0].graph.SerializeToString(deterministic=True) == graphs[1].graph.SerializeToString(
        deterministic=True
    )


def test_benchmark_gives_the_same_table(both):
    """Format, status, size and accuracy; the times differ from run to run."""
    rows = []
    for switch in "10":
        cells = [re.findall(r"[^\s|│┆]+", line) for line in sections(both[switch][1])["benchmark"].splitlines()]
        (row,) = [line[line.index("ONNX") :] for line in cells if "ONNX" in line and "✅" in line and len(line) > 5]
        rows.append(row[:4])
    assert rows[0] == rows[1]
    assert float(rows[1][2]) > 5  # megabytes: it is the row it should be
