"""Vegetables and DeepPCB from the download to the labels, on samples that this machine serves to itself.

Covers archive.py.
"""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolo_musgd import resources
from yolo_musgd.data import public
from yolo_musgd.edge.errors import UserError


def picture(size=(640, 640)):
    return Image.new("L", size, 200)


VEGETABLES = {
    f"{split}/{name}": content
    for split in ("train", "valid", "test")
    for name, content in (("images/a.jpg", picture()), ("labels/a.txt", "3 0.5 0.5 0.1 0.2\n"))
} | {"README.md": "not used"}
DEEPPCB = {
    "PCBData/trainval.txt": "group1/00041/00041000.jpg group1/00041_not/00041000.txt\n",
    "PCBData/test.txt": "group1/00041/00041001.jpg group1/00041_not/00041001.txt\n",
    **{f"PCBData/group1/00041/0004100{i}_{kind}.jpg": picture() for i in (0, 1) for kind in ("test", "temp")},
    "PCBData/group1/00041_not/00041000.txt": "466 441 493 470 3\n454 300 493 396 2\n",
    "PCBData/group1/00041_not/00041001.txt": "0 0 640 320 6\n",
}


def test_vegetables_from_download_to_labels(serve, tmp_path):
    url, source = serve(public.VEGETABLES, VEGETABLES)
    assert public.prepare_vegetables(tmp_path / "v", source, url) == {"train": 1, "val": 1, "test": 1}
    made = {p.relative_to(tmp_path / "v").as_posix() for p in (tmp_path / "v").rglob("*.*")}
    assert made == {
        f"{k}/{s}/a.{e}" for k, e in (("images", "jpg"), ("labels", "txt")) for s in ("train", "val", "test")
    }
    assert (tmp_path / "v/labels/val/a.txt").read_text() == "3 0.5 0.5 0.1 0.2\n"


def test_deeppcb_from_download_to_labels(serve, tmp_path, shared):
    url, source = serve(public.DEEPPCB, DEEPPCB)
    assert public.prepare_deeppcb(tmp_path / "p", source, url) == {"train": 1, "val": 1}
    label = (tmp_path / "p/labels/train/00041000.txt").read_text()
    assert label.splitlines() == ["2 0.749219 0.711719 0.042188 0.045312", "1 0.739844 0.543750 0.060937 0.150000"]
    theirs = (shared / "data/deeppcb/labels/train/00041000.txt").read_text()  # converted by other code
    assert label.splitlines() == theirs.splitlines()[:2]
    assert (tmp_path / "p/labels/val/00041001.txt").read_text() == "5 0.500000 0.250000 1.000000 0.500000\n"
    assert sorted(p.name for p in (tmp_path / "p/images").rglob("*.jpg")) == ["00041000.jpg", "00041001.jpg"]


TAMPERED = [
    {"train/labels/a.txt": "4 0.5 0.5 0.1 0.2\n"},  # another class
    {"train/labels/b.txt": ""},  # one file more
]


@pytest.mark.parametrize("change", TAMPERED)
def test_other_files_than_those_of_the_commit_are_refused(serve, tmp_path, change):
    _, source = serve(public.VEGETABLES, VEGETABLES)
    url, _ = serve(public.VEGETABLES, change)
    with pytest.raises(UserError, match=r"does not hold the files of commit bc38d2a2ba: .*; nothing was made of them"):
        public.prepare_vegetables(tmp_path / "v", source, url)
    assert not (tmp_path / "v").exists()


def test_an_archive_of_something_else(serve, tmp_path):
    url, source = serve(public.DEEPPCB, {"README.md": "hello"})
    with pytest.raises(UserError, match="has no PCBData: it is not the archive of tangsanli5201/DeepPCB"):
        public.prepare_deeppcb(tmp_path / "p", source, url)


def test_a_listed_picture_that_is_no_box_file(serve, tmp_path):
    url, source = serve(public.DEEPPCB, DEEPPCB | {"PCBData/group1/00041_not/00041001.txt": "1 2 3 4\n"})
    with pytest.raises(UserError, match=r"group1/00041_not/00041001.txt: '1 2 3 4' is no box"):
        public.prepare_deeppcb(tmp_path / "p", source, url)
    assert not (tmp_path / "p").exists()


BOXES = st.lists(
    st.tuples(st.integers(0, 638), st.integers(0, 478), st.integers(1, 640), st.integers(1, 480), st.integers(1, 6)),
    max_size=5,
)


@given(BOXES, st.sampled_from([" ", ",", ", "]))
def test_pixel_boxes_there_and_back(boxes, separator):
    boxes = [b for b in boxes if b[0] < b[2] and b[1] < b[3]]
    text = "\n".join(separator.join(map(str, b)) for b in boxes)
    back = [
        (round((x - w / 2) * 640), round((y - h / 2) * 480), round((x + w / 2) * 640), round((y + h / 2) * 480), k + 1)
        for k, x, y, w, h in public.pixel_boxes(text, 640, 480, "x")
    ]
    assert back == boxes


@pytest.mark.parametrize("line", ["9 9 5 12 1", "0 0 641 5 1", "0 0 5 5 7", "0 0 5 5 0", "-1 0 5 5 1", "a b c d e"])
def test_a_line_that_is_no_box(line):
    with pytest.raises(UserError, match="is no box"):
        public.pixel_boxes(line, 640, 480, "x.txt")


@pytest.mark.parametrize(("name", "count"), [("vegetables", 12), ("deeppcb", 6)])
def test_the_data_files_say_source_licence_and_what_the_real_sets_say(name, count, shared):
    text = (resources.folder("datasets") / f"{name}.yaml").read_text()
    ours, theirs = yaml.safe_load(text), yaml.safe_load((shared / "data" / name / "data.yaml").read_text())
    assert ours["names"] == theirs["names"]
    assert len(ours["names"]) == count
    source = getattr(public, name.upper())
    assert source.repository in text
    assert f"prepare_{name}" in ours["download"]
    assert len(source.commit) == 40
    assert len(source.digest) == 64
