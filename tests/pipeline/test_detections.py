"""Detections before and after: which boxes are common, and a picture that carries itself."""

import base64
import io

import pytest
from PIL import Image

from yolo_musgd.pipeline import detections
from yolo_musgd.pipeline.detections import WIDEST, embed, pairs


def record(image, *boxes):
    found = [{"class": c, "name": f"c{c}", "score": s, "box": list(b)} for c, s, b in boxes]
    return {"image": str(image), "width": 200, "height": 100, "detections": found}


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "a photo.jpg"
    Image.new("RGB", (200, 100), "red").save(file)
    return file


def test_boxes_of_one_model_only_are_marked(photo):
    before = {"images": [record(photo, (0, 0.9, (10, 10, 50, 50)), (1, 0.8, (100, 10, 150, 60)))]}
    after = {"images": [record(photo, (0, 0.7, (12, 10, 52, 50)), (2, 0.6, (100, 10, 150, 60)))]}
    (pair,) = pairs(before, after, photo.parent)
    assert [b.alone for b in pair.before.boxes] == [False, True]
    assert [b.alone for b in pair.after.boxes] == [False, True]  # the same place, another class
    assert pair.aspect == 0.5
    first = pair.before.boxes[0]
    assert (first.x, first.y, first.width, first.height) == pytest.approx((0.05, 0.05, 0.2, 0.2))
    assert pair.before.words == "1 c0, 1 c1"
    assert first.label == "c0 0.90"


def test_nothing_found_is_said(photo):
    (pair,) = pairs({"images": [record(photo)]}, {"images": [record(photo)]}, photo.parent)
    assert (pair.before.words, pair.before.boxes) == ("nothing", [])


def test_a_picture_that_only_one_saw_is_left_out(photo):
    assert pairs({"images": [record(photo)]}, {"images": []}, photo.parent) == []


def test_pictures_are_found_where_they_lie_now(photo, tmp_path):
    """The pipeline's folder was moved between the two detections, or after both."""
    old, new = tmp_path / "old" / photo.name, tmp_path / "new" / photo.name
    new.parent.mkdir()
    photo.rename(new)
    (pair,) = pairs({"images": [record(old)]}, {"images": [record(new)]}, new.parent)
    assert (pair.name, pair.picture) == (photo.name, embed(new))


def test_large_photos_are_made_smaller_and_upright(tmp_path):
    file = tmp_path / "x.jpg"
    picture = Image.new("RGB", (3000, 1000), "blue")
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(file, exif=exif)
    head, _, data = embed(file).partition(",")
    assert head == "data:image/jpeg;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.width <= WIDEST
    assert shown.height == pytest.approx(3 * shown.width, abs=3)


def test_in_a_crowd_only_what_the_other_lacks_is_labelled():
    rows = [{"class": 0, "name": "cell", "score": 0.9, "box": [k, 0, k + 1, 1]} for k in range(70)]
    view = detections._view(rows, set(range(65)), 100)
    assert view.crowded
    assert [bool(box.label) for box in view.boxes] == [False] * 65 + [True] * 5
    assert not detections._view(rows[:5], set(range(5)), 100).crowded
