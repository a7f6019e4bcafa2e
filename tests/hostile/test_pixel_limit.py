"""A header that announces more pixels than OpenCV takes costs one image, on a PC as on a board."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from damage import huge_png
from PIL import Image

from yolo_musgd.data import reader
from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.bundle_val import copy_val
from yolo_musgd.export.splits import Splits, calibration_set

pytestmark = pytest.mark.filterwarnings("ignore")
GOOD = 19


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data.yaml of 19 good pictures and one whose header announces 2^36 pixels."""
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for number in range(GOOD + 1):
        Image.new("RGB", (48, 40), (number * 9, 0, 99)).save(tmp_path / "images" / "val" / f"{number}.png")
        (tmp_path / "labels" / "val" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "images" / "val" / "7.png").write_bytes(huge_png(1 << 18, 1 << 18))
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {tmp_path}\ntrain: images/val\nval: images/val\nnames: [thing]\n")
    return file


def test_a_split_leaves_it_out(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = reader.read_split(reader.check(str(data)), "val")
    assert (len(found.images), len(found.left_out)) == (GOOD, 1)
    assert "7.png" in found.left_out[0]
    assert "1 of 20 val images cannot be used" in caplog.text
    assert not reader.decodable(str(data.parent / "images" / "val" / "7.png"))


def test_calibration_leaves_it_out(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = tuple(str(p) for p in sorted((data.parent / "images" / "val").iterdir()))
    splits = Splits(str(data), files, (), {0: "thing"}, 3)
    with caplog.at_level(logging.WARNING, "yolo_musgd"):
        chosen = calibration_set(splits, 20)
    assert len(chosen.files) == GOOD
    assert "1 of 20 train images cannot be used" in caplog.text


def test_a_bundle_leaves_it_out(data: Path, tmp_path: Path) -> None:
    files = [f"images/val/{number}.png" for number in range(GOOD + 1)]
    content = {
        "images": [{"id": k, "file_name": name, "width": 48, "height": 40} for k, name in enumerate(files)],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 2, 9, 9]} for k in range(len(files))],
        "categories": [{"id": 1, "name": "thing"}],
    }
    annotations = tmp_path / "coco.json"
    annotations.write_text(json.dumps(content))
    assert copy_val(str(annotations), {0: "thing"}, tmp_path / "packed", 20) == GOOD
    packed = json.loads((tmp_path / "packed" / "annotations.json").read_text())
    assert len(packed["images"]) == len(packed["annotations"]) == GOOD
    for name in files[:2]:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"3 of 20 images cannot be used: .*more than a tenth"):
        copy_val(str(annotations), {0: "thing"}, tmp_path / "again", 20)
