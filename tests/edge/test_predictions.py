"""val predictions=: what something else detected, in COCO's result format, scored as our own artifacts are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.data.coco import write_coco
from yolo_musgd.data.reader import LabelledImage
from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.average_precision import Evaluator
from yolo_musgd.edge.coco import open_coco, read_coco
from yolo_musgd.edge.detect import Detector
from yolo_musgd.edge.evaluate import VAL_CONF, judge
from yolo_musgd.edge.pictures.images import read_image
from yolo_musgd.edge.pictures.letterbox import Letterbox, place_for_val
from yolo_musgd.edge.predictions import read_predictions
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export import compare


class Chosen:
    conf, iou, max_det = VAL_CONF, 0.7, 300


@pytest.fixture
def labelled(small_models: dict[str, Path], pictures: Path) -> Path:
    """A COCO file whose boxes are the model's own best ones, a little shifted; ids of categories are no classes."""
    artifact = open_artifact(str(small_models["raw"]))
    detector = Detector(artifact, open_runtime(artifact, "onnxruntime", 1), conf=0.0, max_det=12)
    images, notes = [], []
    for k, path in enumerate(sorted(pictures.iterdir())):
        image = read_image(str(path))
        images.append({"id": 100 + k, "file_name": path.name, "width": image.shape[1], "height": image.shape[0]})
        for x1, y1, x2, y2, _, c in detector(image).tolist():
            box = [x1 + 0.05 * k * (x2 - x1), y1, x2 - x1, y2 - y1]
            if min(box[2:]) > 2:
                notes.append({"id": len(notes), "image_id": 100 + k, "category_id": 7 + 3 * int(c), "bbox": box})
    categories = [{"id": 7 + 3 * c, "name": artifact.names[c]} for c in range(80)]
    path = pictures / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return path


def results_of(model: Path, labels: Path, by_name: bool) -> tuple[list[dict[str, object]], Evaluator]:
    """What the model finds, as COCO results, and the evaluator that judged it directly."""
    artifact = open_artifact(str(model))
    runtime, evaluator, letterbox = open_runtime(artifact, "onnxruntime", 1), Evaluator(), Letterbox((128, 128))
    out = []
    for k, (path, targets) in enumerate(read_coco(str(labels), artifact.names)):
        image = read_image(path)
        found = judge((image, targets), artifact, runtime, letterbox, evaluator, Chosen)
        where = place_for_val(image.shape[:2], (128, 128))
        found[:, 0:4:2] = (found[:, 0:4:2] - where.left) * image.shape[1] / where.width
        found[:, 1:4:2] = (found[:, 1:4:2] - where.top) * image.shape[0] / where.height
        for x1, y1, x2, y2, score, c in found.tolist():
            name = Path(path).stem if by_name else 100 + k
            box = [x1, y1, x2 - x1, y2 - y1]
            out.append({"image_id": name, "category_id": 7 + 3 * int(c), "bbox": box, "score": score})
    return out, evaluator


@pytest.mark.parametrize("by_name", [False, True])
def test_predictions_get_the_map_of_their_model(
    by_name: bool, small_models: dict[str, Path], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, evaluator = results_of(small_models["raw"], labelled, by_name)
    stranger = {"image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5}
    np.random.default_rng(0).shuffle(results)  # type: ignore[arg-type]
    path = tmp_path / "preds.json"
    path.write_text(json.dumps([*results, stranger]))
    slowest = "latency_ms=90000.5"  # so that it is the last row on any machine
    words = ["val", f"predictions={path}", f"source={labelled}", "label=Hailo-8L", slowest]
    assert main([*words, f"project={tmp_path}"]) == 0
    assert "1 detections are of other images" in capsys.readouterr().out
    report = json.loads((tmp_path / "val" / "val.json").read_text())
    expected = evaluator.result({})
    assert 0.1 < expected["map50_95"] < 1
    for key in ("map50_95", "map50", "precision", "recall"):
        assert report["result"][key] == pytest.approx(expected[key], abs=2e-3)
    assert (report["result"]["images"], report["result"]["labels"]) == (3, expected["labels"])

    bench = tmp_path / "bench"
    quick = ["n=2", "seconds=0", "warmup=0", "power=none", "picture=false", "source=synthetic", "idle=0"]
    assert main(["bench", str(small_models["raw"]), *quick, f"project={bench}"]) == 0
    benches = [json.loads((bench / "bench" / "bench.json").read_text())]
    rows = compare.rows_of(benches, [report])
    assert [row.board == "Hailo-8L" for row in rows] == [False, True]
    assert (rows[1].p50_ms, rows[1].map50_95) == (90000.5, report["result"]["map50_95"])
    table = compare.markdown(rows)
    assert "latency as stated" in table
    assert "predictions, 3 images" in table
    compare.picture(rows, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 1000
    unknown = dict(report, stated={"latency_ms": None})
    assert "not measured" in compare.markdown(compare.rows_of(benches, [unknown]))
    compare.picture(compare.rows_of(benches, [unknown]), tmp_path / "without.png")


def test_what_ultralytics_wrote_is_of_the_images_that_it_names(tmp_path: Path) -> None:
    """Its ids are the numbers in the files' names, which are other images' ids in a COCO file of an export."""
    from types import SimpleNamespace

    import torch
    from ultralytics.models.yolo.detect import DetectionValidator

    files = [tmp_path / name for name in ("2.jpg", "0.jpg", "1.jpg", "b.jpg", "b.png", "x/twin.jpg", "y/twin.jpg")]
    images = [
        LabelledImage(str(file), np.array([[k % 2, 0.5, 0.5, 0.2, 0.2]]), (100, 100)) for k, file in enumerate(files)
    ]
    labels = write_coco(tmp_path / "val.json", images, {0: "a", 1: "b"})
    validator = SimpleNamespace(jdict=[], class_map=[1, 2])
    for k, file in enumerate(files):
        found = {"bboxes": torch.tensor([[k, 1.0, 50, 60]]), "conf": torch.tensor([0.5]), "cls": torch.tensor([k % 2])}
        DetectionValidator.pred_to_json(validator, found, {"im_file": str(file)})  # type: ignore[arg-type]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(validator.jdict))
    rows, notes = read_predictions(str(path), open_coco(str(labels), {0: "a", 1: "b"}), 0.001, 300)
    assert [[(row[0], row[5]) for row in some.tolist()] for some in rows] == [
        *([(float(k), float(k % 2))] for k in range(5)), [], [],
    ]  # fmt: skip
    assert notes == ["2 detections are of other images"]  # of which of the twins, nobody knows


GOOD = {"image_id": 100, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no list of COCO results"),
        ([1], "entry 0"),
        ([GOOD, {**GOOD, "category_id": 8}], "entry 1"),
        ([{**GOOD, "score": 1.5}], "entry 0"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "entry 0"),
        ([{**GOOD, "bbox": [1, 2, "nan", 4]}], "entry 0"),
        ([{**GOOD, "bbox": [1, 2, -3, 4]}], "entry 0"),
        ([{**GOOD, "image_id": 5}], "none of 1 detections"),
        ([], "holds no detection"),
        ([{**GOOD, "category_id": 0}], "category_id 0 is none of the labels': 7, 10, 13, 16, 19, ..."),
        ([{**GOOD, "category_id": []}], "entry 0"),
        ([{**GOOD, "score": 87}], "score 87 must be in [0, 1]"),
        ([{k: v for k, v in GOOD.items() if k != "score"}], "it lacks 'score'"),
        ([{**GOOD, "bbox": [1, 2, 3, -4]}], "must be [x, y, width, height]"),
    ],
)
def test_bad_predictions_are_one_line(
    content: object, said: str, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "preds.json"
    path.write_text(json.dumps(content))
    assert main(["val", f"predictions={path}", f"source={labelled}", f"project={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


FIRST = "file name of the first image"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"image_id": 100.0}, ""),
        ({"image_id": "100"}, ""),
        ({"image_id": FIRST}, ""),
        ({"bbox": [5, 5, 0, 9]}, "; 1 boxes have no area"),
        (
            {"bbox": [0.1, 0.2, 0.3, 0.4]},
            "; all boxes lie in one corner: bbox is in pixels, not in fractions of the image",
        ),
        ({"bbox": [400, 300, 640, 480]}, "; 1 boxes reach out of their image: bbox is [x, y, width, height]"),
    ],
)
def test_what_looks_like_another_format_is_told(
    change: dict[str, object], said: str, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "preds.json"
    if change.get("image_id") == FIRST:
        change = {"image_id": json.loads(labelled.read_text())["images"][0]["file_name"]}
    path.write_text(json.dumps([GOOD | change]))
    assert main(["val", f"predictions={path}", f"source={labelled}", f"project={tmp_path}/out"]) == 0
    words = capsys.readouterr().out.splitlines()[-3]
    assert words.startswith("mAP50-95 ")
    assert words.endswith(f" labels{said}")


def test_a_hundred_thousand_boxes_are_no_trouble(labelled: Path) -> None:
    coco = open_coco(str(labelled), {})
    path = labelled.with_name("many.json")
    scores = np.random.default_rng(0).permutation(100_000) / 100_000
    path.write_text(json.dumps([{**GOOD, "image_id": 100 + k % 3, "score": s} for k, s in enumerate(scores.tolist())]))
    found, notes = read_predictions(str(path), coco, 0.0, 300)
    assert [len(rows) for rows in found] == [300, 300, 300]
    for k, rows in enumerate(found):
        assert rows[:, 4].tolist() == sorted(scores[k::3].tolist(), reverse=True)[:300]
    assert notes == []


def test_a_model_and_predictions_is_one_too_many(
    small_models: dict[str, Path], labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["val", str(small_models["raw"]), "predictions=x.json", f"source={labelled}"]) == 2
    assert "not both" in capsys.readouterr().err
