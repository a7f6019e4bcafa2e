"""VOC's labels become YOLO's."""

import random

import pytest
from PIL import Image

from yolo_musgd.data import voc
from yolo_musgd.edge.errors import UserError

BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_xml(path, *objects):
    body = "".join(BOX.format(*o) for o in objects)
    path.write_text(f"<annotation><size><width>0</width><height>0</height></size>{body}</annotation>")


def test_boxes_are_converted_clipped_and_filtered(tmp_path):
    xml = tmp_path / "a.xml"
    write_xml(xml, ("RBC", 10, 20, 50, 60), ("WBC", -5, 0, 220, 100), ("RBC", 30, 30, 30, 40))
    rows = voc.to_yolo(xml, voc.BCCD_NAMES, width=200, height=100)
    assert rows == [(1, 0.15, 0.4, 0.2, pytest.approx(0.4)), (2, 0.5, 0.5, 1.0, 1.0)]


def test_unknown_class_and_broken_file_say_what_is_wrong(tmp_path):
    xml = tmp_path / "a.xml"
    write_xml(xml, ("cat", 1, 1, 2, 2))
    with pytest.raises(UserError, match=r"a.xml holds class 'cat'; expected one of Platelets, RBC, WBC"):
        voc.to_yolo(xml, voc.BCCD_NAMES, 10, 10)
    xml.write_text("<annotation>")
    with pytest.raises(UserError, match=r"a.xml is not a Pascal VOC annotation"):
        voc.to_yolo(xml, voc.BCCD_NAMES, 10, 10)


def picture(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def test_bccd_from_download_to_labels(serve, tmp_path):
    files = {}
    for split, stem in (("train", "BloodImage_1"), ("val", "BloodImage_2"), ("test", "BloodImage_3")):
        files[f"BCCD/JPEGImages/{stem}.jpg"] = picture(tmp_path / f"{stem}.jpg")
        write_xml(tmp_path / f"{stem}.xml", ("RBC", 0, 0, 32, 24))
        files[f"BCCD/Annotations/{stem}.xml"] = tmp_path / f"{stem}.xml"
        (tmp_path / f"{split}.txt").write_text(f"{stem}\n")
        files[f"BCCD/ImageSets/Main/{split}.txt"] = tmp_path / f"{split}.txt"
    url, source = serve(voc.BCCD, files)
    boxes = voc.prepare_bccd(tmp_path / "bccd", source, url)
    assert boxes == {"train": 1, "val": 1, "test": 1}
    assert (tmp_path / "bccd/labels/val/BloodImage_2.txt").read_text() == "1 0.250000 0.250000 0.500000 0.500000\n"
    assert (tmp_path / "bccd/images/test/BloodImage_3.jpg").exists()


def test_raccoons_are_split_for_good(serve, tmp_path):
    files = {}
    for i in range(10):
        files[f"images/raccoon-{i}.jpg"] = picture(tmp_path / f"raccoon-{i}.jpg")
        write_xml(tmp_path / f"raccoon-{i}.xml", ("raccoon", 1, 1, 20, 20))
        files[f"annotations/raccoon-{i}.xml"] = tmp_path / f"raccoon-{i}.xml"
    url, source = serve(voc.RACCOON, files)
    boxes = voc.prepare_raccoon(tmp_path / "raccoon", source, url)
    assert boxes == {"train": 8, "val": 2}


def test_labels_that_somebody_changed_are_refused(serve, tmp_path):
    write_xml(tmp_path / "a.xml", ("raccoon", 1, 1, 20, 20))
    files = {"images/a.jpg": picture(tmp_path / "a.jpg"), "annotations/a.xml": tmp_path / "a.xml"}
    _, source = serve(voc.RACCOON, files)
    write_xml(tmp_path / "a.xml", ("raccoon", 1, 1, 21, 20))
    url, _ = serve(voc.RACCOON, files)
    with pytest.raises(UserError, match="does not hold the files of commit 9393884930"):
        voc.prepare_raccoon(tmp_path / "raccoon", source, url)
    assert not (tmp_path / "raccoon").exists()


def test_a_missing_picture_leaves_no_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    write_xml(tmp_path / "annotations" / "x.xml")
    with pytest.raises(UserError, match="x of split train lacks its picture"):
        voc.convert(tmp_path / "images", tmp_path / "annotations", {"train": ["x"]}, ("a",), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_split_and_conversion_agree_with_the_real_sets(shared, tmp_path):
    """The sets beside the checkout were converted by other code: same split, and their labels survive a round trip."""
    real = shared / "data" / "raccoon"
    stems = {s: {p.stem for p in (real / "images" / s).iterdir()} for s in ("train", "val")}
    ours = voc.held_out(sorted(stems["train"] | stems["val"]))
    assert {s: len(v) for s, v in ours.items()} == {"train": 160, "val": 40}
    assert {s: set(v) for s, v in ours.items()} == stems
    labels = sorted((shared / "data" / "bccd" / "labels" / "train").glob("*.txt"))
    for label in random.Random(0).sample(labels, 20):
        rows = [[float(v) for v in line.split()] for line in label.read_text().splitlines()]
        objects = []
        for k, x, y, w, h in rows:
            corners = ((x - w / 2) * 640, (y - h / 2) * 480, (x + w / 2) * 640, (y + h / 2) * 480)
            objects.append((voc.BCCD_NAMES[int(k)], *map(round, corners)))
        write_xml(tmp_path / "back.xml", *objects)
        back = voc.to_yolo(tmp_path / "back.xml", voc.BCCD_NAMES, 640, 480)
        assert len(back) == len(rows)
        for got, want in zip(back, rows, strict=True):
            assert list(got) == pytest.approx(want, abs=0.002)
