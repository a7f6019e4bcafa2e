"""The figure that judges an export is `yolo val`'s: situations from public reports, on 24 photographs, within .001."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from ultralytics.utils import metrics

from yolo_musgd.edge.__main__ import main as command
from yolo_musgd.export.accuracy import evaluate
from yolo_musgd.export.loaded import load
from yolo_musgd.export.splits import read_splits

pytestmark = pytest.mark.shared
COUNT = 24
AS_TODAY = hasattr(metrics, "_AP_X")  # Ultralytics 8.4.0 matches boxes and ends the precision curve in another way


def mixed_rows(folder: Path) -> None:
    """Polygon and box rows in one file (ultralytics 25657): two of the files."""
    for file in sorted((folder / "labels" / "val").glob("*.txt"))[:2]:
        kind, x, y, w, h = (float(v) for v in file.read_text().split("\n")[0].split())
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        with file.open("a") as out:
            out.write(f"\n{int(kind)} {left} {top} {right} {top} {right} {bottom} {left} {bottom}\n")


def polygons(folder: Path) -> None:
    """Every row a polygon, as a segmentation set has them."""
    for file in (folder / "labels" / "val").glob("*.txt"):
        rows = []
        for line in file.read_text().splitlines():
            kind, x, y, w, h = (float(v) for v in line.split())
            rows.append(f"{int(kind)} {x - w / 2} {y} {x} {y - h / 2} {x + w / 2} {y} {x} {y + h / 2}")
        file.write_text("\n".join(rows))


def odd_images(folder: Path) -> None:
    """One under 10 px and one GIF named .jpg, each with boxes."""
    files = sorted((folder / "images" / "val").glob("*.jpg"))
    with Image.open(files[0]) as opened:
        opened.resize((8, 8)).save(folder / "images" / "val" / "a_small.jpg")
        opened.save(folder / "images" / "val" / "a_gif.jpg", format="GIF")
    for name in ("a_small", "a_gif"):
        shutil.copyfile(
            (folder / "labels" / "val" / files[0].name).with_suffix(".txt"), folder / "labels" / "val" / f"{name}.txt"
        )


def hidden(folder: Path) -> None:
    """What macOS and file managers leave behind."""
    images = folder / "images" / "val"
    first = sorted(images.glob("*.jpg"))[0]
    (images / f"._{first.name}").write_bytes(b"\x00\x05\x16\x07 not an image")
    (images / ".thumbs").mkdir()
    shutil.copyfile(first, images / ".thumbs" / first.name)


def formats(folder: Path) -> None:
    """JPEG 2000, TIFF, WebP and BMP beside JPEG, one upper-case."""
    for file, suffix in zip(
        sorted((folder / "images" / "val").glob("*.jpg")), (".jp2", ".tif", ".webp", ".BMP", ".mpo"), strict=False
    ):
        with Image.open(file) as opened:
            opened.convert("RGB").save(file.with_suffix(suffix), format="JPEG2000" if suffix == ".jp2" else None)
        file.unlink()


def no_labels(folder: Path) -> None:
    """A third of the images has no label file."""
    for file in sorted((folder / "labels" / "val").glob("*.txt"))[::3]:
        file.unlink()


def as_list(folder: Path) -> None:
    """A list of the first fifteen."""
    files = sorted((folder / "images" / "val").iterdir())[:15]
    (folder / "val.txt").write_text("".join(f"./images/val/{file.name}\n" for file in files))
    settings = yaml.safe_load((folder / "data.yaml").read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump({**settings, "val": "val.txt"}))


def plain(folder: Path) -> None:
    """Nothing odd."""


def images_of(folder: Path) -> list[Path]:
    return sorted((folder / "images" / "val").glob("*.jpg"))


def label_of(image: Path) -> Path:
    return image.parents[2] / "labels" / "val" / f"{image.stem}.txt"


def settings(folder: Path, **changes: object) -> None:
    content = yaml.safe_load((folder / "data.yaml").read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump({**content, **changes}))


def repeated_rows(folder: Path) -> None:
    """Rows that stand there twice (ultralytics 8515, yolov5 10149)."""
    for image in images_of(folder)[:8]:
        text = label_of(image).read_text().strip()
        label_of(image).write_text(f"{text}\n{text}\n")


def beyond_the_border(folder: Path) -> None:
    """Coordinates a little and far outside (ultralytics 19553, yolov5 2785)."""
    for image, row in zip(images_of(folder), ("0 0.5 0.5 1.0088 0.4", "0 1.2688 0.5 0.2 0.2"), strict=False):
        label_of(image).write_text(f"{label_of(image).read_text().strip()}\n{row}\n")


def below_zero(folder: Path) -> None:
    """Negative coordinates (yolov5 5210)."""
    for image, row in zip(images_of(folder), ("0 -0.042141 0.5 0.2 0.4", "0 -0.005 0.5 0.2 0.4"), strict=False):
        label_of(image).write_text(f"{label_of(image).read_text().strip()}\n{row}\n")


def unknown_class(folder: Path) -> None:
    """A class that the data set does not have (FastSAM 213)."""
    first = label_of(images_of(folder)[0])
    first.write_text(f"{first.read_text().strip()}\n93 0.5 0.5 0.2 0.2\n")


def key_point_rows(folder: Path) -> None:
    """Rows of a pose set for a detector (ultralytics 16165)."""
    first = label_of(images_of(folder)[0])
    first.write_text("".join(f"{row} {'0.5 0.5 2 ' * 17}\n" for row in first.read_text().splitlines()))


def commas(folder: Path) -> None:
    """Numbers parted by commas, and commas for points (ultralytics 7907, yolov5 10685, Yoable 7)."""
    first, second = (label_of(image) for image in images_of(folder)[:2])
    first.write_text(first.read_text().replace(" ", ","))
    second.write_text(second.read_text().replace(".", ","))


def words(folder: Path) -> None:
    """Class names for numbers (ultralytics 707)."""
    first = label_of(images_of(folder)[0])
    first.write_text("person 0.5 0.5 0.2 0.2\n")


def decimal_classes(folder: Path) -> None:
    """Classes written as 0.0, exponents, tabs and blanks (supervision 2580)."""
    for image in images_of(folder):
        rows = (row.split() for row in label_of(image).read_text().splitlines())
        label_of(image).write_text("".join(f" {float(k)}\t{float(x):e}  {y} {w} {h} \n" for k, x, y, w, h in rows))


def windows(folder: Path) -> None:
    """Labels of Windows' editors: a byte order mark and CRLF (labelImg 572)."""
    for image in images_of(folder)[:8]:
        label_of(image).write_bytes(b"\xef\xbb\xbf" + label_of(image).read_bytes().replace(b"\n", b"\r\n"))


def other_encodings(folder: Path) -> None:
    """Labels in UTF-16 and with a byte of Latin-1 (X-AnyLabeling 534)."""
    first, second = (label_of(image) for image in images_of(folder)[:2])
    first.write_text(first.read_text(), encoding="utf-16")
    second.write_bytes(second.read_bytes() + b"\xb0\n")


def upper_case(folder: Path) -> None:
    """Suffixes in capitals (YOLOv6 376)."""
    for image in images_of(folder)[::2]:
        image.rename(image.with_suffix(".JPG"))


def images_in_images(folder: Path) -> None:
    """A folder named images inside of images (ultralytics 21224 and 3581, yolov5 3719)."""
    (folder / "images" / "val" / "images").mkdir()
    for image in images_of(folder)[:6]:
        image.rename(folder / "images" / "val" / "images" / image.name)


def same_names(folder: Path) -> None:
    """Files of the same name in two folders, one of them without labels (ultralytics 20440)."""
    for kind in ("a", "b"):
        (folder / "images" / "val" / kind).mkdir()
    for number, image in enumerate(images_of(folder)[:8]):
        (folder / "labels" / "val" / "a").mkdir(exist_ok=True)
        label_of(image).rename(folder / "labels" / "val" / "a" / f"{number // 2}.txt") if number % 2 else None
        image.rename(folder / "images" / "val" / "ba"[number % 2] / f"{number // 2}.jpg")


def two_suffixes(folder: Path) -> None:
    """x.jpg and x.png, which share x.txt (label-studio-converter 138, classifai 15)."""
    for image in images_of(folder)[:4]:
        with Image.open(image) as opened:
            opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image.with_suffix(".png"))


def dots(folder: Path) -> None:
    """Dots in a name (pylabel 49): the label is named as all but the last."""
    for image in images_of(folder)[:6]:
        label_of(image).rename(label_of(image).with_name(f"{image.stem}.webp.v2.txt"))
        image.rename(image.with_name(f"{image.stem}.webp.v2.jpg"))


def special_characters(folder: Path) -> None:
    """Blanks, brackets and letters beyond ASCII (ultralytics 13063, 24257 and 4516, yolov5 1515 and 4210)."""
    for image, name in zip(
        images_of(folder), ("缺陷 1", "[a] b", "100%", "veículo", "지단", "a'b", "#1"), strict=False
    ):
        label_of(image).rename(label_of(image).with_name(f"{name}.txt"))
        image.rename(image.with_name(f"{name}.jpg"))


def linked_images(folder: Path) -> None:
    """The images' folder is a link to elsewhere (ultralytics 5036, 14672; libreyolo 187)."""
    (folder / "images" / "val").rename(folder / "pictures")
    (folder / "images" / "val").symlink_to(folder / "pictures")


def linked_files(folder: Path) -> None:
    """Every image is a link (yolov5 11115)."""
    (folder / "pictures").mkdir()
    for number, image in enumerate(images_of(folder)):
        image.rename(folder / "pictures" / f"{number}.jpg")
        image.symlink_to(folder / "pictures" / f"{number}.jpg")


def two_folders(folder: Path) -> None:
    """A list of folders (ultralytics 14319)."""
    for kind in ("images", "labels"):
        (folder / "more" / kind).mkdir(parents=True)
    for image in images_of(folder)[:9]:
        label_of(image).rename(folder / "more" / "labels" / f"{image.stem}.txt")
        image.rename(folder / "more" / "images" / image.name)
    settings(folder, val=["images/val", "more/images"])


def a_list_that_repeats(folder: Path) -> None:
    """A list with a name twice, absolute names and empty lines."""
    files = images_of(folder)
    lines = [*(f"./images/val/{file.name}" for file in files[:6]), "", *map(str, files[4:12]), str(files[3])]
    (folder / "val.txt").write_text("\n".join(lines))
    settings(folder, val="val.txt")


def turned_by_exif(folder: Path) -> None:
    """Photographs of telephones, turned by a note in their header (ultralytics 19222 and 23630, yolov5 405)."""
    for image, turn in zip(images_of(folder), (6, 8, 3, 2, 5), strict=False):
        with Image.open(image) as opened:
            exif = opened.getexif()
            exif[0x0112] = turn
            opened.save(image, exif=exif, quality=95)


def depths(folder: Path) -> None:
    """16 bits, palettes, transparency, grey and four inks (ultralytics 21645, 17601, 16498, 20781, 17729)."""
    for image, mode in zip(images_of(folder), ("I;16", "P", "RGBA", "L", "LA", "1", "CMYK"), strict=False):
        with Image.open(image) as opened:
            if mode == "I;16":
                grey = np.asarray(opened.convert("L")).astype(np.uint16) * 257
                Image.fromarray(grey).save(image.with_suffix(".png"))
            else:
                opened.convert(mode).save(image.with_suffix(".jpg" if mode in ("L", "CMYK") else ".png"))
        if image.with_suffix(".png").exists():
            image.unlink()


def cut_jpegs(folder: Path) -> None:
    """JPEG files that end too early (yolov5 916, 2451, 3731, 11796)."""
    for image in images_of(folder)[:2]:
        image.write_bytes(image.read_bytes()[:-200])


def bytes_before_the_end(folder: Path) -> None:
    """JPEG files with more bytes behind their end, as cameras leave them (yolov7 1249)."""
    for image in images_of(folder)[:4]:
        image.write_bytes(image.read_bytes() + b"\0" * 300)


def long_and_narrow(folder: Path) -> None:
    """Panoramas and towers (ultralytics 26269, 7322)."""
    for image, size in zip(images_of(folder), ((900, 60), (60, 900), (11, 400)), strict=False):
        with Image.open(image) as opened:
            opened.resize(size).save(image, quality=95)


def empty_labels(folder: Path) -> None:
    """Backgrounds by empty files and by none (ultralytics 16305, 9560; yolov5 6775)."""
    for number, image in enumerate(images_of(folder)[:9]):
        label_of(image).write_text("\n \n" if number % 3 else "") if number % 3 < 2 else label_of(image).unlink()


def boxes_without_area(folder: Path) -> None:
    """Boxes without width or height."""
    for image in images_of(folder)[:2]:
        label_of(image).write_text(label_of(image).read_text().strip() + "\n0 0.5 0.5 0.0 0.3\n0 0.25 0.5 0.2 0\n")


def crowds(folder: Path) -> None:
    """More objects than the 300 that a validation takes (yolov5 3459 and 1875, ultralytics 25993)."""
    rows = "".join(f"0 {0.02 + k % 20 * 0.05:.3f} {0.02 + k // 20 * 0.05:.3f} 0.03 0.03\n" for k in range(400))
    first = label_of(images_of(folder)[0])
    first.write_text(first.read_text().strip() + "\n" + rows)


def names_as_list(folder: Path) -> None:
    """``nc`` beside the names, which are a list (ultralytics 1593, yolov5 9194)."""
    content = yaml.safe_load((folder / "data.yaml").read_text())
    settings(folder, names=list(content["names"].values()), nc=len(content["names"]))


SITUATIONS: tuple[Callable[[Path], None], ...] = (
    plain, mixed_rows, polygons, odd_images, hidden, formats, no_labels, as_list, repeated_rows, beyond_the_border,
    below_zero, unknown_class, key_point_rows, commas, words, decimal_classes, windows, other_encodings, upper_case,
    images_in_images, same_names, two_suffixes, dots, special_characters, linked_files, two_folders,
    a_list_that_repeats, turned_by_exif, depths, cut_jpegs, bytes_before_the_end, long_and_narrow, empty_labels,
    boxes_without_area, crowds, names_as_list,
)  # fmt: skip


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labelled photographs of COCO."""
    folder = tmp_path_factory.mktemp("coco24")
    source = shared / "data" / "coco128"
    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir(parents=True)
    chosen = [f for f in sorted((source / "images" / "val").glob("*.jpg"))
              if (source / "labels" / "val" / f"{f.stem}.txt").is_file()][:COUNT]  # fmt: skip
    for file in chosen:
        shutil.copyfile(file, folder / "images" / "val" / file.name)
        shutil.copyfile(source / "labels" / "val" / f"{file.stem}.txt", folder / "labels" / "val" / f"{file.stem}.txt")
    names = yaml.safe_load((source / "data.yaml").read_text())["names"]
    (folder / "data.yaml").write_text(json.dumps({"train": "images/val", "val": "images/val", "names": names}))
    return folder


@pytest.mark.skipif(not AS_TODAY, reason="this release counts hits otherwise than today's `yolo val`, which we follow")
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_the_same_figure(
    situation: Callable[[Path], None], photographs: Path, real_graph: Path, tmp_path: Path
) -> None:
    from ultralytics import YOLO

    folder = Path(shutil.copytree(photographs, tmp_path / "set"))
    situation(folder)
    data = str(folder / "data.yaml")
    board = on_the_board(real_graph, folder, tmp_path)  # first: Ultralytics mends cut JPEG files on the disk
    theirs = YOLO(str(real_graph), task="detect").val(
        data=data, imgsz=160, batch=1, workers=0, plots=False, verbose=False, project=str(tmp_path), rect=False
    )
    splits = read_splits(data)
    ours = evaluate(*load(real_graph, "onnxruntime", 1), splits.val)
    assert float(theirs.box.map) > 0.05
    assert ours.map50_95 == pytest.approx(float(theirs.box.map), abs=1e-3)
    assert ours.map50 == pytest.approx(float(theirs.box.map50), abs=1e-3)
    assert board["map50_95"] == pytest.approx(float(theirs.box.map), abs=1e-3)


def on_the_board(model: Path, folder: Path, place: Path) -> dict[str, float]:
    """What ``val`` says on a board, which has the folder or list alone."""
    listed = yaml.safe_load((folder / "data.yaml").read_text())["val"]
    if isinstance(listed, list):
        files = [str(p) for entry in listed for p in sorted((folder / entry).glob("*.jpg"))]
        (place / "board.txt").write_text("\n".join(files))
        source = place / "board.txt"
    else:
        source = folder / listed
    command(["val", str(model), f"source={source}", f"project={place}/board", "runtime=onnxruntime", "threads=1"])
    return json.loads((place / "board" / "val" / "val.json").read_text())["result"]


def test_a_linked_folder_has_no_labels_for_ultralytics(photographs: Path, real_graph: Path, tmp_path: Path) -> None:
    """It looks for them beside the folder that the link leads to (its issues 5036 and 14672); so does a PC here, which
    then has nothing to judge by. A board looks beside the link."""
    from ultralytics import YOLO

    folder = Path(shutil.copytree(photographs, tmp_path / "set"))
    linked_images(folder)
    theirs = YOLO(str(real_graph), task="detect").val(
        data=str(folder / "data.yaml"), imgsz=160, batch=1, workers=0, plots=False, project=str(tmp_path), rect=False
    )
    assert float(theirs.box.map) == 0
    assert not read_splits(str(folder / "data.yaml")).val
    assert on_the_board(real_graph, folder, tmp_path)["map50_95"] > 0.05
