"""What is no file where a file is expected (pipes, devices, folders, sockets), and what no file should hold."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from damage import huge_png
from small_models import write_detector

from yolo_musgd.edge import labels
from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import read_bytes, read_text
from yolo_musgd.edge.pictures import boxes, images, library
from yolo_musgd.edge.sources import kinds

KINDS = ["pipe", "folder", "socket", "device", "dangling", "loop", "empty"]


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """One of each kind, under names like x.jpg."""
    folder = tmp_path / "odd"
    folder.mkdir()
    made = {kind: folder / f"{kind}.jpg" for kind in KINDS}
    os.mkfifo(made["pipe"])
    made["folder"].mkdir()
    made["device"].symlink_to("/dev/zero")
    made["dangling"].symlink_to(folder / "absent")
    made["loop"].symlink_to(made["loop"])
    made["empty"].touch()
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    listening.bind("socket.jpg")
    os.chdir(here)
    yield made
    listening.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("model") / "m.onnx", False)


@pytest.fixture
def photos(tmp_path: Path, odd: dict[str, Path]) -> Path:
    """A set in which one of many images is good: images/ and labels/."""
    folder = tmp_path / "set" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    for kind, path in odd.items():
        path.rename(folder / f"{kind}.jpg")
    images.write_image(str(folder / "good.png"), images.synthetic_frame(60, 80))
    (folder / "._good.png").write_bytes(b"\0\5\x16\7")  # macOS
    (folder.parent / "labels" / "good.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(kind: str, odd: dict[str, Path]) -> None:
    if kind != "empty":
        with pytest.raises(UserError, match="cannot read"):
            read_bytes(str(odd[kind]))
    with pytest.raises(UserError):
        images.read_image(str(odd[kind]))


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", ""])
def test_a_path_that_cannot_be(path: str) -> None:
    for read in (read_bytes, images.read_image, images.list_images, kinds.open_source):
        with pytest.raises(UserError) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("command", ["detect", "val", "bench"])
def test_one_image_costs_one_image(
    command: str, photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(model), f"source={photos}", "runtime=onnxruntime", f"project={tmp_path}/out"]
    for number in range(1, 9 * len(KINDS)):  # one in ten is bad, which is the most that is tolerated
        (photos / f"good{number}.png").symlink_to(photos / "good.png")
    words += ["n=2", "seconds=0", "warmup=0", "power=none"] if command == "bench" else []
    assert main(words) == 0
    said = capsys.readouterr().err
    report = json.loads(next((tmp_path / "out").glob("*/*.json")).read_text())
    if command == "bench":  # which takes the first 64
        assert (report["source"]["images"], report["source"]["left_out"]) == (60, 4)
    else:
        assert len(report["left_out"]) == len(KINDS)
    named = {"val": 5, "bench": 4, "detect": len(KINDS)}[command]
    assert said.count("left out: ") == named


@pytest.mark.parametrize("command", ["detect", "val", "bench"])
def test_more_than_a_tenth_is_an_error(
    command: str, photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was computed of the others is kept; bench, which has computed nothing yet, does not begin."""
    for number in range(1, 9 * len(KINDS) - 1):
        (photos / f"good{number}.png").symlink_to(photos / "good.png")
    if command == "bench":
        for number in range(8, 0, -1):
            (photos / f"a{number}.png").touch()
    words = [command, str(model), f"source={photos}", "runtime=onnxruntime", f"project={tmp_path}/out"]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert ("12 of 64" if command == "bench" else "7 of 69") + " images cannot be used: " in last
    assert last.endswith("; more than a tenth: mend the data set first")
    assert len(list((tmp_path / "out").glob("*/*.json"))) == (command != "bench")


@pytest.mark.parametrize("command", ["detect", "val", "bench"])
def test_no_good_image_leaves_no_folder(
    command: str, photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "good.png").write_bytes(b"no image")
    words = [command, str(model), f"source={photos}", "runtime=onnxruntime", f"project={tmp_path}/out"]
    assert main(words) == 2
    assert "none of 8 images can be" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_labels_lists_and_models_that_are_no_files(
    kind: str, odd: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="not a regular file"):
        labels.read_labels(str(odd[kind]))
    for name in ("list.txt", "coco.json", "m.onnx", "m.engine"):
        odd[kind].rename(tmp_path / name)
        odd[kind] = tmp_path / name
        opened = str(odd[kind]) if name.startswith("m.") else str(model)
        words = ["val", opened, f"source={tmp_path / name}", f"project={tmp_path}/out"]
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e39", "-1", "0.5", "1e999", "16777217", "0x1"])
def test_classes_that_are_none(number: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"0 .5 .5 .1 .1\n{number} 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"a\.txt:2"):
        labels.read_labels(str(path))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e39"])
def test_coordinates_that_are_none(number: str, tmp_path: Path) -> None:
    for row in (f"0 {number} 0.5 0.2 0.2", f"0 0.5 0.5 0.2 {number}", f"0 .1 .1 {number} .1 .3 .5"):
        (tmp_path / "a.txt").write_text(row)
        with pytest.raises(UserError, match=r"a\.txt:1"):
            labels.read_labels(str(tmp_path / "a.txt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cv2", "pillow"])
def test_a_header_above_the_pixel_limit_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"cv2": "cv2", "pillow": "PIL"}[name])
    monkeypatch.setattr(library, {"cv2": "pillow", "pillow": "cv2"}[name], None)
    for width, height in ((1 << 18, 1 << 18), ((1 << 31) - 1, 3), (0, 0)):
        (tmp_path / "x.png").write_bytes(huge_png(width, height))
        with pytest.raises(UserError, match="cannot be decoded") as caught:
            images.read_image(str(tmp_path / "x.png"))
        assert len(str(caught.value).splitlines()) == 1


def test_text_that_is_not_utf_8_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n\xff.jpg\n")
    with pytest.raises(UserError, match=r"list\.txt:2: byte 0xff is not UTF-8"):
        read_text(str(tmp_path / "list.txt"))


def test_file_names_that_are_not_utf_8(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frame = images.synthetic_frame(40, 40)
    Path(images.write_image(str(tmp_path / "x.png"), frame)).rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    assert main(["detect", str(model), f"source={tmp_path}", f"project={tmp_path}/out", "runtime=onnxruntime"]) == 0
    assert json.loads((tmp_path / "out" / "detect" / "detections.json").read_text())["images"][0]["image"].endswith(
        ".png"
    )


@pytest.mark.parametrize("command", ["bench", "detect", "val", "idle"])
@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", ".."])
def test_a_name_outside_of_project_is_refused_first(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"name={name}", f"project={tmp_path}"]) == 2  # before the model is asked for
    assert "must be the name of one folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_overflowed_gives_no_box() -> None:
    rows = np.array(
        [[1, 2, 3, 4, 0.9, 0], [np.nan, 2, 3, 4, 0.8, 0], [1, 2, np.inf, 4, 0.7, 0], [1, 2, 3, 4, np.inf, 0]]
    )
    assert boxes.decode(rows.astype(np.float32), "nms_free", 80).tolist() == [pytest.approx([1, 2, 3, 4, 0.9, 0])]
    raw = np.full((84, 3), np.nan, np.float32)
    assert len(boxes.decode(raw, "raw", 80)) == 0


def test_an_error_is_one_line_whatever_was_named_in_it() -> None:
    assert str(UserError("a\r\nb\0\u2028c  d")) == "a b c  d"
