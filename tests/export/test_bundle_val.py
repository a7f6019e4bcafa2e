"""export/bundle_val.py: the judged images travel as a COCO file, and the board finds the figure that export found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolo_musgd.cli import main
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.images import synthetic_frame, write_image
from yolo_musgd.export.bundle_val import copy_val


def judged(model: Path, source: Path, out: Path) -> dict[str, float]:
    assert main(["val", str(model), f"source={source}", f"project={out}", "threads=1"]) == 0
    return json.loads((out / "val" / "val.json").read_text())["result"]


def test_the_board_finds_what_export_found(random_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    words = [f"model={random_checkpoint}", f"data={tiny_data}", "imgsz=64", "target=x86", "precision=fp32"]
    assert main(["export", *words, "runtime=onnxruntime", "bundle=True", f"project={tmp_path}/runs"]) == 0
    run = tmp_path / "runs" / "exp"
    manifest = json.loads((run / "random_fp32_onnx_model" / "manifest.json").read_text())
    expected = manifest["map50_95"]["fp32"]
    here = judged(run / "random_fp32_onnx_model", run / "val.json", tmp_path / "here")
    assert here["map50_95"] == pytest.approx(expected, abs=1e-4)
    bundle = run / "edge-x86-onnxruntime"
    there = judged(bundle / "model", bundle / "val" / "annotations.json", tmp_path / "there")
    assert there == here
    assert (bundle / "run.sh").read_text().count("edge.pyz val model source=val/annotations.json") == 1


def test_at_most_so_many_images(random_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    from yolo_musgd.data.coco import write_coco
    from yolo_musgd.data.reader import check, read_split

    split = read_split(check(str(tiny_data)), "val")
    names = {0: "circle", 1: "square", 2: "triangle"}
    file = write_coco(tmp_path / "val.json", split.images, names)
    assert copy_val(str(file), names, tmp_path / "few", 3) == 3
    content = json.loads((tmp_path / "few" / "annotations.json").read_text())
    assert {entry["file_name"] for entry in content["images"]} == {p.name for p in (tmp_path / "few").glob("*.jpg")}
    kept = {entry["id"] for entry in content["images"]}
    assert {note["image_id"] for note in content["annotations"]} <= kept


@pytest.mark.parametrize("secret", ["text", "missing"])
def test_only_images_are_taken(secret: str, tmp_path: Path) -> None:
    """A foreign COCO file may name any file of this machine."""
    (tmp_path / "passwords.txt").write_text("secret")
    name = str(tmp_path / ("passwords.txt" if secret == "text" else "absent.jpg"))
    content = {
        "images": [{"id": 1, "file_name": name, "width": 9, "height": 9}],
        "annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 0, "name": "a"}],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError):
        copy_val(str(file), {0: "a"}, tmp_path / "out", 9)
    assert not list((tmp_path / "out").glob("*"))


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    """Windows' editors begin a file with one."""
    write_image(str(tmp_path / "a.png"), synthetic_frame(40, 40))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],
        "annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 0, "name": "a"}],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    assert copy_val(str(file), {0: "a"}, tmp_path / "out", 9) == 1
