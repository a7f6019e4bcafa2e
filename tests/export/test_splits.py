"""Which split judges, with which images, and whether the classes are the model's."""

from pathlib import Path

import pytest
from PIL import Image

from yolo_musgd.data.reader import judging_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.splits import calibration_set, check_names, read_splits


@pytest.fixture
def data(tmp_path):
    """What Ultralytics read: a data set whose test split has two images and no label file."""
    for split in ("val", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (32, 32)).save(tmp_path / "images" / split / f"{name}.jpg")
    return {
        "names": {0: "a"},
        "path": tmp_path,
        "val": str(tmp_path / "images" / "val"),
        "test": str(tmp_path / "images" / "test"),
    }


def test_one_labelled_image_is_enough(data):
    (data["path"] / "labels" / "test" / "b.txt").touch()  # empty: an image without objects
    assert judging_split(data) == "test"


def test_images_without_labels_judge_nothing(data):
    assert judging_split(data) == "val"


def test_a_list_of_images_without_labels(data):
    listed = data["path"] / "test-dev.txt"
    listed.write_text("./images/test/a.jpg\n./images/test/b.jpg\n")
    assert judging_split({**data, "test": str(listed)}) == "val"
    (data["path"] / "labels" / "test" / "a.txt").touch()
    assert judging_split({**data, "test": str(listed)}) == "test"


@pytest.mark.parametrize("entry", [None, "", "nosuch/images", "nosuch.txt", [], ["nosuch/images"]])
def test_a_test_split_that_is_not_there(data, entry):
    assert judging_split({**data, "test": entry}) == "val"
    assert judging_split({"val": data["val"]}) == "val"


def test_images_without_objects_judge_too(tmp_path):
    for split, count in (("train", 11), ("val", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (32, 32), (k * 20, 0, count)).save(tmp_path / "images" / split / f"{k}.png")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    assert read_splits(str(tmp_path / "data.yaml")).val == (), "nothing says that these are labelled"
    (tmp_path / "labels" / "val" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    splits = read_splits(str(tmp_path / "data.yaml"))
    assert len(splits.val) == 3, "Ultralytics counts what is found in an image without a label file as false"
    (tmp_path / "images" / "train" / "0.png").write_text("no picture")
    assert {Path(file).stem for file in calibration_set(splits, 11).files} == set(map(str, range(1, 11)))


def test_where_train_is_val_a_damaged_image_does_not_calibrate(tmp_path):
    """A BMP that is cut short passes Ultralytics' check and cannot be decoded."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for k in range(12):
        Image.new("RGB", (32, 32), (k * 20, 0, 0)).save(tmp_path / "images" / f"{k:02}.bmp")
    (tmp_path / "labels" / "01.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    damaged = tmp_path / "images" / "06.bmp"
    damaged.write_bytes(damaged.read_bytes()[:200])
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [a]\n")
    splits = read_splits(str(tmp_path / "data.yaml"))
    assert len(splits.train) == 12
    assert len(calibration_set(splits, 128).files) == 11
    four = calibration_set(splits, 4).files
    assert len(four) == 4
    assert str(damaged) not in four


def test_classes_in_another_order_are_refused_and_renamed_ones_named(caplog):
    model = {0: "cat", 1: "dog", 2: "owl"}
    check_names(model, {0: "Cat", 1: "dog", 2: "owl"}, "d.yaml")
    assert not caplog.messages
    check_names(model, {0: "cat", 1: "hound", 2: "owl"}, "d.yaml")
    assert "1 of 3 classes otherwise: class 1 is 'dog' in the model and 'hound' there" in caplog.text
    with pytest.raises(UserError, match="in another order: class 0 is 'cat' in the model and 'dog' there"):
        check_names(model, {0: "dog", 1: "cat", 2: "owl"}, "d.yaml")
    with pytest.raises(UserError, match="in another order: class 0 is 'cat' in the model and 'Dog' there"):
        check_names(model, {0: "Dog", 1: "Cat", 2: "Owl"}, "d.yaml")
