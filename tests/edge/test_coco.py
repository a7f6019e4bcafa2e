"""yolo_musgd.edge.coco: COCO files of ours and of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.edge.coco import read_coco
from yolo_musgd.edge.errors import UserError

NAMES = {0: "cat", 1: "dog"}


def content(**changes: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "b.jpg", "width": 100, "height": 50},
                   {"id": 3, "file_name": "a.jpg", "width": 10, "height": 10}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 17, "bbox": [0, 0, 100, 50]},
            {"id": 3, "image_id": 7, "category_id": 17, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 17, "bbox": [0, 0, 0, 9]},
        ],
        "categories": [{"id": 18, "name": "Dog"}, {"id": 17, "name": "cat"}],
        **changes,
    }  # fmt: skip


def write(folder: Path, value: object) -> str:
    file = folder / "val.json"
    file.write_text(json.dumps(value))
    return str(file)


def test_boxes_by_class_name(tmp_path: Path) -> None:
    (first, boxes), (second, none) = read_coco(write(tmp_path, content()), NAMES)
    assert (first, second) == (str(tmp_path / "b.jpg"), str(tmp_path / "a.jpg"))
    np.testing.assert_allclose(boxes, [[1, 0.2, 0.2, 0.2, 0.2], [0, 0.5, 0.5, 1, 1]])
    assert none.shape == (0, 5)


def test_names_that_differ_are_taken_in_the_order_of_their_ids(tmp_path: Path) -> None:
    strange = [{"id": 18, "name": "y"}, {"id": 17, "name": "x"}]
    path = write(tmp_path, content(categories=strange))
    assert read_coco(path, NAMES)[0][1][:, 0].tolist() == [1, 0]
    assert read_coco(path, {})[0][1][:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("names", [{0: "cat", 1: "cat"}, {0: "cat", 1: "Cat"}])
def test_two_classes_of_one_name_stay_apart(names: dict[int, str], tmp_path: Path) -> None:
    categories = [{"id": 17 + index, "name": name} for index, name in names.items()]
    assert read_coco(write(tmp_path, content(categories=categories)), names)[0][1][:, 0].tolist() == [1, 0]


def test_classes_of_another_model_are_told_plainly(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    with pytest.raises(UserError) as caught:
        read_coco(path, {0: "a", 1: "b", 2: "c"})
    assert str(caught.value) == f"{path} has 2 classes, the model 3; give the labels of its own data set"


def test_images_elsewhere(tmp_path: Path) -> None:
    assert read_coco(write(tmp_path, content()), NAMES, "photos")[0][0] == "photos/b.jpg"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ([], "no COCO file"), (None, "no COCO file"), ("text", "no COCO file"), ({"images": []}, "annotations"),
        (content(categories=[{"id": 17, "name": "cat"}, {"id": 18, "name": "cow"}]), "cow"),
        (content(categories=[{"id": 17, "name": "x"}]), "1 classes, the model 2"),
        (content(images=[{"id": 7, "file_name": "b.jpg", "width": 0, "height": 50}]), "no COCO file"),
        (content(annotations=[{"image_id": 99, "category_id": 17, "bbox": [0, 0, 1, 1]}]), "KeyError"),
        (content(annotations=[{"image_id": 7, "category_id": 17, "bbox": "abcd"}]), "ValueError"),
        (content(annotations=[7]), "no COCO file"), (content(images={"a": 1}), "no COCO file"),
    ],
)  # fmt: skip
def test_what_is_no_coco_file_is_one_line(tmp_path: Path, value: object, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        read_coco(write(tmp_path, value), NAMES)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_json(tmp_path: Path) -> None:
    file = tmp_path / "val.json"
    for data in (b"{", b"\xff\xfe", b"[" * 100_000):
        file.write_bytes(data)
        with pytest.raises(UserError):
            read_coco(str(file), NAMES)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1e300"])
@pytest.mark.parametrize("at", range(4))
def test_boxes_that_are_no_boxes(number: str, at: int, tmp_path: Path) -> None:
    bbox = ["1", "2", "3", "4"]
    bbox[at] = number
    text = json.dumps(content(annotations=[{"id": 1, "image_id": 7, "category_id": 18, "bbox": 9}]))
    (tmp_path / "val.json").write_text(text.replace('"bbox": 9', f'"bbox": [{", ".join(bbox)}]'))
    boxes = np.zeros((0, 5))
    if number == "NaN" and at > 1:  # no width or height, so no box, as one of width 0
        boxes = read_coco(str(tmp_path / "val.json"), NAMES)[0][1]
    else:
        with pytest.raises(UserError, match="no number, or far outside"):
            read_coco(str(tmp_path / "val.json"), NAMES)
    assert len(boxes) == 0


@pytest.mark.parametrize(
    ("place", "change", "why"),
    [
        ("images", {"id": 3}, "an image's id stands twice"),
        ("categories", {"id": 17}, "a category's id stands twice"),
        ("images", {"width": -1}, "-1 x 50 pixels"),
        ("images", {"height": 0}, "100 x 0 pixels"),
        ("images", {"width": float("inf")}, "inf x 50 pixels"),
        ("images", {"width": 10**40}, r"1e\+40 x 50 pixels"),
        ("images", {"file_name": None}, "an image None of"),
        ("images", {"file_name": ["a"]}, r"an image \['a'\] of"),
    ],
)
def test_what_would_lose_boxes_in_silence_is_an_error(place: str, change: dict, why: str, tmp_path: Path) -> None:
    value = content()
    value[place][0].update(change)
    with pytest.raises(UserError, match=f"is no COCO file of boxes .*{why}"):
        read_coco(write(tmp_path, value), NAMES)
