"""Which split judges: test only where it can."""

import pytest

from yolo_musgd.export.images import judging_split


@pytest.fixture
def data(tmp_path):
    """What Ultralytics read: a data set whose test split has two images and no label file."""
    for split in ("val", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / "images" / split / f"{name}.jpg").touch()
    return {"path": tmp_path, "val": str(tmp_path / "images" / "val"), "test": str(tmp_path / "images" / "test")}


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
