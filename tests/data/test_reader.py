"""yolo_musgd.data.reader and .coco: situations from public bug reports; the oracle is Ultralytics' loader.

Covers coco.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_musgd.data import reader
from yolo_musgd.data.coco import as_coco, write_coco
from yolo_musgd.edge.errors import UserError

NO_RULES = reader.Rules()
BOX = "0 0.5 0.5 0.4 0.4\n"


def picture(path: Path, side: int = 32, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png" if path.suffix.lower() == ".png" else ".jpg", noise(side, seed))
    assert ok
    path.write_bytes(data.tobytes())
    return path


def noise(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


class Folder:
    """A small data set: twelve good val images ``good<i>.jpg`` with one box each, and whatever a test adds."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.labels = root, root / "images" / "val", root / "labels" / "val"
        self.labels.mkdir(parents=True)
        for i in range(12):
            self.add(f"good{i:02}.jpg", BOX, i)
        self.settings: dict[str, object] = {"names": {0: "a", 1: "b"}, "val": "images/val"}

    def add(self, name: str, label: str | bytes | None, seed: int = 0) -> Path:
        file = picture(self.images / name, seed=seed)
        if label is not None:
            target = (self.labels / name).with_suffix(".txt")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(label if isinstance(label, bytes) else label.encode())
        return file

    def read(self, rules: reader.Rules = NO_RULES) -> reader.Split:
        yaml = self.root / "data.yaml"
        yaml.write_text(json.dumps({"path": str(self.root), "train": "images/val", **self.settings}))
        return reader.read_split(reader.check(str(yaml)), "val", rules)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


def taken_by_the_host(file: Path, folder: Folder) -> list[object]:
    """What Ultralytics reads of one image, empty where it leaves it out."""
    from ultralytics.data.utils import verify_image_label

    seen = verify_image_label((str(file), str(folder.labels / f"{file.stem}.txt"), "", False, 2, 0, 0, False))
    return [] if seen[0] is None else list(seen)


def names(split: reader.Split) -> list[str]:
    return [Path(file).name for file in split.files if not Path(file).name.startswith("good")]


@pytest.mark.parametrize("hidden", ["._photo.jpg", ".thumbs/photo.jpg", ".trash/deep/photo.jpg", "Thumbs.db", "x.gif"])
def test_what_file_managers_leave_is_no_image(folder: Folder, hidden: str) -> None:
    folder.add(hidden, None) if hidden.endswith("jpg") else (folder.images / hidden).write_bytes(b"x")
    split = folder.read()
    assert names(split) == []
    assert not split.left_out
    assert len(split.images) == 12


@pytest.mark.parametrize("name", ["sub/deep/x.jpg", "ÜBER größe.JPG", "a.b.c.jpeg", "x.PNG"])
def test_names_and_nested_folders(folder: Folder, name: str) -> None:
    folder.add(name, BOX)
    split = folder.read()
    assert names(split) == [Path(name).name]
    assert len(split.images[split.files.index(str(folder.images / name))].labels) == 1


@pytest.mark.parametrize(
    ("label", "boxes"),
    [
        ("\ufeff" + BOX, 1), (BOX.replace("\n", "\r\n"), 1), ("\n\n" + BOX + "\n", 1), (BOX + BOX, 1), ("", 0),
        (None, 0),        ("0 .1 .1 .5 .1 .5 .5 .1 .5\n", 1), ("1 0.5 0.5 1.005 0.4\n", 1),
    ],
)  # fmt: skip
def test_labels_that_count(folder: Folder, label: str | None, boxes: int) -> None:
    file = folder.add("x.jpg", label)
    if label and label[0] == "\ufeff" and not taken_by_the_host(file, folder):
        pytest.skip("this release of Ultralytics does not read a byte order mark")
    split = folder.read()
    assert [len(i.labels) for i in split.images if i.file.endswith("x.jpg")] == [boxes]


@pytest.mark.parametrize(
    "label",
    ["0 0.5 0.5 0.4\n", "7 0.5 0.5 0.4 0.4\n", "0 1.5 0.5 0.4 0.4\n", "0.5 0.5 0.5 0.4 0.4\n", "a b c d e\n",
     b"\xff\xfe0 1",     "nan 0.5 0.5 0.4 0.4\n", "-1 0.5 0.5 0.4 0.4\n", BOX + "0 .1 .1 .5 .1 .5 .5 .1 .5\n"],
)  # fmt: skip
def test_a_bad_label_costs_what_it_costs_the_host(folder: Folder, label: str | bytes) -> None:
    """Left out with a reason, or taken by the rule of the installed release; never an error of the whole split."""
    file = folder.add("x.jpg", label)
    seen = taken_by_the_host(file, folder) or [None]
    split = folder.read()
    if seen[0] is None:
        assert names(split) == []
        assert len(split.left_out) == 1
        assert "x.jpg" in split.left_out[0]
    else:
        taken = split.images[split.files.index(str(file))]
        np.testing.assert_array_equal(taken.labels, np.asarray(seen[1], np.float32))


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", noise(8, 0), "gif", "truncated"],
    ids=["empty", "text", "under 10 px", "a GIF named jpg", "truncated"],
)
def test_a_bad_image_is_left_out_and_named(folder: Folder, content: object, caplog: pytest.LogCaptureFixture) -> None:
    file = folder.add("x.jpg", BOX)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, np.ndarray):
        cv2.imwrite(str(file), content)
    elif content == "gif":
        from PIL import Image

        Image.fromarray(noise(32, 0)).save(file, format="GIF")
    else:
        file.write_bytes(file.read_bytes()[:40])
    split = folder.read()
    assert len(split.images) == 12
    assert names(split) == []
    assert len(split.left_out) == 1
    assert "x.jpg" in split.left_out[0]
    assert sum("x.jpg" in record.message for record in caplog.records) == 1


def test_more_than_a_tenth_bad_is_an_error(folder: Folder) -> None:
    for i in range(2):
        folder.add(f"x{i}.jpg", "oops\n")
    with pytest.raises(UserError, match="2 of 14 val images"):
        folder.read()


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "jp2", "avif", "mpo"])
def test_formats(folder: Folder, suffix: str) -> None:
    from PIL import Image, features

    file = folder.images / f"x.{suffix}"
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    Image.fromarray(noise(32, 1)).save(file, format={"jp2": "JPEG2000", "tif": "TIFF"}.get(suffix, suffix.upper()))
    (folder.labels / "x.txt").write_text(BOX)
    split = folder.read()
    if names(split):  # as the installed release has it
        assert reader.read_image(str(file)).shape == (32, 32, 3)
    else:
        assert suffix in ("avif", "jp2") or "x." in "".join(split.left_out)


def test_lists_of_images(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """``./`` is the list's own folder; other relative lines are relative to the working folder (yolov5 6351)."""
    monkeypatch.chdir(folder.root)
    (folder.root / "val.txt").write_text("./images/val/good00.jpg\nimages/val/good01.jpg\n\n", encoding="utf-8")
    folder.settings["val"] = "val.txt"
    split = folder.read()
    assert [Path(f).name for f in split.files] == ["good00.jpg", "good01.jpg"]
    assert not split.left_out
    folder.settings["val"] = ["images/val", "val.txt"]
    assert {Path(f).name for f in folder.read().files} == {f"good{i:02}.jpg" for i in range(12)}


def test_a_linked_folder_is_followed(folder: Folder, tmp_path: Path) -> None:
    shutil.move(folder.root / "images", tmp_path / "elsewhere")
    (folder.root / "images").symlink_to(tmp_path / "elsewhere")
    shutil.copytree(folder.root / "labels" / "val", tmp_path / "labels" / "val")
    assert len(folder.read().images) == 12


def test_single_cls_and_classes(folder: Folder) -> None:
    folder.add("x.jpg", "1 0.3 0.3 0.2 0.2\n" + BOX)
    assert sorted(np.concatenate([i.labels for i in folder.read().images])[:, 0]) == [0] * 13 + [1]
    one = folder.read(reader.Rules(single_cls=True))
    assert {float(c) for i in one.images for c in i.labels[:, 0]} == {0.0}
    chosen = folder.read(reader.Rules(classes=(1,)))
    assert sum(len(i.labels) for i in chosen.images) == 1
    assert len(chosen.images) == 13
    assert reader.class_names({"names": {0: "a", 1: "b"}}, reader.Rules(single_cls=True)) == {0: "item"}


def test_rules_of_a_checkpoint() -> None:
    assert reader.Rules.of_training(None) == reader.Rules()
    args = {"task": "segment", "single_cls": True, "classes": [3, 5]}
    assert reader.Rules.of_training(args) == reader.Rules("segment", True, (3, 5))
    assert reader.Rules.of_training({"classes": 0}).classes == (0,)


def test_key_points_for_a_detector(folder: Folder) -> None:
    folder.settings["kpt_shape"] = [2, 3]
    folder.add("x.jpg", BOX.strip() + " .1 .1 2 .2 .2 2\n")
    split = folder.read()
    oracle = _host_labels(folder)
    assert {i.file: len(i.labels) for i in split.images} == oracle


def _host_labels(folder: Folder) -> dict[str, int]:
    from ultralytics.data.dataset import YOLODataset

    content = reader.check(str(folder.root / "data.yaml"))
    data = YOLODataset(img_path=content["val"], data=content, augment=False)
    return {x["im_file"]: len(x["cls"]) for x in data.labels}


def test_grey_images(folder: Folder) -> None:
    folder.settings["channels"] = 1
    split = folder.read()
    assert split.channels == 1
    assert reader.read_image(split.files[0], 1).shape == (32, 32)


def test_an_unlabelled_split_does_not_judge(folder: Folder) -> None:
    folder.settings["test"] = "images/val"
    assert folder.read()
    assert reader.judging_split(reader.check(str(folder.root / "data.yaml"))) == "test"
    shutil.rmtree(folder.root / "labels")
    assert folder.read().labelled is False
    assert reader.judging_split(reader.check(str(folder.root / "data.yaml"))) == "val"


@pytest.mark.parametrize(("key", "value"), [("val", "images/none"), ("val", None), ("names", None)])
def test_a_broken_yaml_is_one_line(folder: Folder, key: str, value: object) -> None:
    folder.settings[key] = value
    with pytest.raises(UserError) as caught:
        folder.read()
    assert len(str(caught.value).splitlines()) == 1
    assert "data=" in str(caught.value)


def test_coco_holds_the_same_boxes(folder: Folder) -> None:
    folder.add("sub/x.jpg", "1 0.25 0.5 0.1 0.2\n" + BOX)
    split = folder.read()
    file = write_coco(folder.root / "val.json", split.images, {0: "a", 1: "b"}, folder.images)
    content = json.loads(file.read_text())
    assert content == json.loads(json.dumps(as_coco(split.images, {0: "a", 1: "b"}, folder.images)))
    by_id = {x["id"]: x for x in content["images"]}
    assert {x["file_name"] for x in content["images"]} == {
        Path(f).relative_to(folder.images).as_posix() for f in split.files
    }
    back: dict[str, list[list[float]]] = {}
    for note in content["annotations"]:
        image = by_id[note["image_id"]]
        x, y, w, h = note["bbox"]
        row = [
            note["category_id"] - 1,
            (x + w / 2) / image["width"],
            (y + h / 2) / image["height"],
            w / image["width"],
            h / image["height"],
        ]
        back.setdefault(image["file_name"], []).append(row)
    for image in split.images:
        name = Path(image.file).relative_to(folder.images).as_posix()
        np.testing.assert_allclose(back[name], image.labels, atol=1e-4)
    assert len({note["id"] for note in content["annotations"]}) == len(content["annotations"]) == 14
