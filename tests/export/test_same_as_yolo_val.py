"""The figure that judges an export is `yolo val`'s: situations from public reports, on 24 photographs, within .001."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from yolo_musgd.export.accuracy import evaluate
from yolo_musgd.export.loaded import load
from yolo_musgd.export.splits import read_splits

pytestmark = pytest.mark.shared
COUNT = 24


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


SITUATIONS: tuple[Callable[[Path], None], ...] = (
    plain, mixed_rows, polygons, odd_images, hidden, formats, no_labels, as_list,
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


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_the_same_figure(
    situation: Callable[[Path], None], photographs: Path, real_graph: Path, tmp_path: Path
) -> None:
    from ultralytics import YOLO

    folder = Path(shutil.copytree(photographs, tmp_path / "set"))
    situation(folder)
    data = str(folder / "data.yaml")
    theirs = YOLO(str(real_graph), task="detect").val(
        data=data, imgsz=160, batch=1, workers=0, plots=False, verbose=False, project=str(tmp_path), rect=False
    )
    splits = read_splits(data)
    ours = evaluate(*load(real_graph, "onnxruntime", 1), splits.val)
    assert float(theirs.box.map) > 0.05
    assert ours.map50_95 == pytest.approx(float(theirs.box.map), abs=1e-3)
    assert ours.map50 == pytest.approx(float(theirs.box.map50), abs=1e-3)
