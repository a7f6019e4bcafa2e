"""yolo_musgd.edge.labels against Ultralytics, file by file: what is an image, what a label says, what is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.labels import list_images, read_labels, read_pair

BOX = "0 0.5 0.5 0.4 0.4"
POLYGON = "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
ODD = (
    "", "\n\n", BOX, f"{BOX}\n{BOX}", f"\ufeff{BOX}", BOX.replace(" ", "\t"), f"{BOX}\r\n{POLYGON.replace(' ', '  ')}",
    POLYGON, f"{POLYGON}\n{POLYGON}", f"{POLYGON}\n1 0.5 0.5 0.1 0.5 0.1 0.1 0.5 0.1", f"{POLYGON}\n1 0.2 0.2",
    f"{POLYGON}\n1 0.1 0.2 0.3 0.4 0.5", "1 0.5 0.5 0.4 0.4 0.9", "1 0.5", "a", "0 a b c d", "nan 0.5 0.5 0.4 0.4",
    "0 nan 0.5 0.4 0.4", "inf 0.5 0.5 0.4 0.4", "0 inf 0.5 0.4 0.4", "1e39 0.5 0.5 0.4 0.4", "1.0 0.5 0.5 0.4 0.4",
    "0.5 0.5 0.5 0.4 0.4", "-1 0.5 0.5 0.4 0.4", "-0.0 0.5 0.5 0.4 0.4", "3 0.5 0.5 0.4 0.4", "2 0.5 0.5 0.4 0.4",
    "0 1.01 0.5 0.4 0.4", "0 1.02 0.5 0.4 0.4", "0 -0.01 0.5 0.4 0.4", "0 -0.011 0.5 0.4 0.4", "0 0.5 0.5 -0.01 0.4",
    "0 0.5 0.5 0 0", "0 1e-1 5E-1 .4 +.4", "0 0.5 0.5 0.4 0.4 # note", "0, 0.5, 0.5, 0.4, 0.4", "0 1_0 0.5 0.4 0.4",
    f"{BOX}\n0 0.5 0.5 0.4", "1 -0.005 0.1 0.5 0.1 0.5 0.5", "1 1.005 0.1 0.5 0.1 0.5 0.5", "0 0.5 0.5 0.4 0.4\x0c",
)  # fmt: skip
CLASSES = 3


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("one")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / "images" / "x.png")
    return folder / "images" / "x.png"


def ours(image: Path, content: bytes) -> np.ndarray | None:
    (image.parent.parent / "labels" / "x.txt").write_bytes(content)
    try:
        return read_pair(str(image), CLASSES)[1]
    except UserError:
        return None


def theirs(image: Path) -> np.ndarray | None:
    from ultralytics.data.utils import verify_image_label

    label = image.parent.parent / "labels" / "x.txt"
    found = verify_image_label((str(image), str(label), "", False, CLASSES, 0, 0, False))
    return None if found[0] is None else np.asarray(found[1], np.float32)


def check_same(image: Path, content: bytes) -> None:
    mine, host = ours(image, content), theirs(image)
    assert (mine is None) == (host is None), (content, mine, host)
    if mine is not None and host is not None:
        np.testing.assert_allclose(sorted(mine.tolist()), sorted(host.tolist()), atol=1e-6, err_msg=repr(content))


@pytest.fixture(scope="module")
def newest(oracle: list[str]) -> None:
    from ultralytics import __version__

    if tuple(int(part) for part in __version__.split(".")[:3]) < (8, 4, 190):
        pytest.skip(f"labels are read by the newest release's rules, here is {__version__}")


@pytest.mark.parametrize("text", ODD)
def test_an_odd_label_costs_what_it_costs_the_host(text: str, image: Path, newest: None) -> None:
    check_same(image, text.encode())


@pytest.mark.parametrize("content", [b"\xff\xfe0\x00", b"0 0.5 0.5 0.4 0.4\xe9", b"\x00" * 20, BOX.encode("utf-16")])
def test_bytes_that_are_no_text(content: bytes, image: Path, newest: None) -> None:
    check_same(image, content)


NUMBERS = st.one_of(
    st.floats(-0.02, 1.02).map(lambda v: f"{v:.4f}"),
    st.integers(-1, 4).map(str),
    st.sampled_from(["nan", "1e9", "x", "-0"]),
)
ROWS = st.lists(st.lists(NUMBERS, min_size=1, max_size=9).map(" ".join), max_size=4).map("\n".join)
GOOD = st.lists(
    st.tuples(st.integers(0, 3), *[st.integers(0, 1000)] * 4)
    .map(lambda r: f"{r[0]} " + " ".join(f"{v / 1000}" for v in r[1:])),
    min_size=1, max_size=5,
).map("\n".join)  # fmt: skip


@given(text=st.one_of(ROWS, GOOD))
@settings(max_examples=300, deadline=None)
def test_any_label_costs_what_it_costs_the_host(text: str, image: Path, newest: None) -> None:
    check_same(image, text.encode())


def make(folder: Path, names: list[str]) -> None:
    from PIL import Image

    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".JPG": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".gif": "GIF"}
        Image.new("RGB", (16, 16)).save(file, format=kind.get(file.suffix, "PNG"))


def test_the_same_files_are_images(tmp_path: Path, newest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.data.dataset import YOLODataset

    folder = tmp_path / "images"
    make(folder, ["a.jpg", "B.JPG", "c.jpeg", "d.tif", "._a.jpg", ".thumbs/a.jpg", "sub/deep/e.png", "sub/.x/f.png",
                  "g.gif", "noextension", "h.txt.jpg", "Thumbs.db", "i.ppm", "ü ber.png"])  # fmt: skip
    (tmp_path / "linked").symlink_to(folder / "sub")
    make(tmp_path / "else", ["z.jpg"])
    (folder / "link").symlink_to(tmp_path / "else")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("./images/a.jpg\nimages/c.jpeg\n\n./images/g.gif\n")
    for source in (folder, tmp_path / "list.txt"):
        data = {"names": {0: "a"}, "path": str(tmp_path)}
        host = [str(Path(f).resolve()) for f in YOLODataset(img_path=str(source), data=data, augment=False).im_files]
        assert [str(Path(f).resolve()) for f in list_images(str(source))] == host


@pytest.mark.parametrize("kind", ["gif", "small", "ppm", "empty", "text"])
def test_an_image_that_the_host_leaves_out(kind: str, image: Path, tmp_path: Path, newest: None) -> None:
    from PIL import Image

    folder = Path(shutil.copytree(image.parent.parent, tmp_path / "set"))
    bad = folder / "images" / "x.png"
    (folder / "labels" / "x.txt").write_text(BOX)
    with Image.open(image) as opened:
        picture = opened.copy()
    if kind in ("gif", "ppm"):
        picture.save(bad, format=kind.upper())
    elif kind == "small":
        picture.resize((9, 40)).save(bad)
    else:
        bad.write_bytes(b"" if kind == "empty" else b"no image")
    assert theirs(bad) is None
    with pytest.raises(UserError, match=r"x\.png"):
        read_pair(str(bad), CLASSES)


@pytest.mark.parametrize("suffix", [".pfm", ".hdr", ".sr", ".pbm", ".pgm", ".gif"])
def test_what_opencv_reads_and_the_host_leaves_out(
    suffix: str, image: Path, tmp_path: Path, newest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    folder = Path(shutil.copytree(image.parent.parent, tmp_path / "set"))
    bad = folder / "images" / "x.png"
    (folder / "labels" / "x.txt").write_text(BOX)
    picture = cv2.imread(str(image))
    picture = picture.astype(np.float32) / 255 if suffix in (".pfm", ".hdr") else picture
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if suffix in (".pbm", ".pgm") else picture
    try:
        bad.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {suffix}")
    assert theirs(bad) is None
    with pytest.raises(UserError, match=r"x\.png is an? \w+( raster)?, which Ultralytics does not take"):
        read_pair(str(bad), CLASSES)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG", "PNG", "TIFF", "MPO"])
def test_pixels_turned_by_exif_are_the_hosts(
    orientation: int, kind: str, image: Path, tmp_path: Path, newest: None
) -> None:
    from PIL import Image
    from ultralytics.utils.patches import imread

    folder = Path(shutil.copytree(image.parent.parent, tmp_path / "set"))
    turned = folder / "images" / f"x.{kind.lower()}"
    (folder / "labels" / "x.txt").write_text(BOX)
    exif = Image.Exif()
    exif[0x112] = orientation
    with Image.open(image) as opened:
        try:
            opened.resize((48, 32)).save(turned, kind, exif=exif)
        except (KeyError, OSError):
            pytest.skip(f"this Pillow writes no {kind}")
    assert np.array_equal(read_pair(str(turned), CLASSES)[0], imread(str(turned)))


def test_a_label_of_infinities_says_nothing_but_its_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = tmp_path / "a.txt"
    file.write_text("0 inf 0 -inf 0 inf 0\n")
    with pytest.raises(UserError, match=r"a\.txt:1: expected"):
        read_labels(str(file))
    assert not [w for w in recwarn if w.category is not ResourceWarning]  # that one is of earlier tests


def test_the_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"{BOX}\n\n0 0.5 0.5 x 1\n")
    with pytest.raises(UserError, match=r"a\.txt:3: not numbers"):
        read_labels(str(file))
