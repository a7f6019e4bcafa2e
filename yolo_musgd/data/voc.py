"""Public data sets in Pascal VOC's format, fetched and converted to YOLO's."""

from __future__ import annotations

import random
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from yolo_musgd.data.archive import Archive
from yolo_musgd.data.folder import complete_folder
from yolo_musgd.edge.errors import UserError

BCCD = Archive(
    "Shenggan/BCCD_Dataset",
    "d272fb14cdff6e473fafeeeba32aba5f560e9e43",
    ("BCCD",),
    "e8dae28ee4ecc4c27fda3c5a4219385c4ef7a5dbf0fbbc412855b6c5a3dee441",
)
BCCD_NAMES = ("Platelets", "RBC", "WBC")
RACCOON = Archive(
    "datitran/raccoon_dataset",
    "93938849301895fb73909842ba04af9b602f677a",
    ("images", "annotations"),
    "19990fbc2a0c2f1546b32ea438123a899c5baf0ec7873718ff7436dddcf380bf",
)
RACCOON_NAMES = ("raccoon",)
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def to_yolo(xml: Path, names: Sequence[str], width: int, height: int) -> list[tuple[int, float, float, float, float]]:
    """Boxes of one VOC annotation as YOLO rows.

    Args:
        xml: annotation file with ``object/name`` and ``object/bndbox`` (xmin, ymin, xmax, ymax in pixels).
        names: class names, in the order of their numbers.
        width: of the picture itself, in pixels; the annotation's own size is not to be trusted.
        height: likewise.

    Returns:
        rows (class, x centre, y centre, width, height) in [0, 1], clipped to the picture; empty boxes left out.

    Raises:
        UserError: the file is no VOC annotation, or holds a class that ``names`` lacks.
    """
    try:
        root = ET.parse(xml).getroot()
        found = [
            (
                obj.findtext("name", "").strip(),
                [float(obj.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")],
            )
            for obj in root.iter("object")
        ]
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{xml.name} is not a Pascal VOC annotation: {error}") from error
    rows = []
    for name, box in found:
        if name not in names:
            raise UserError(f"{xml.name} holds class {name!r}; expected one of {', '.join(names)}")
        x1, x2 = (min(max(v / width, 0.0), 1.0) for v in (box[0], box[2]))
        y1, y2 = (min(max(v / height, 0.0), 1.0) for v in (box[1], box[3]))
        if x2 > x1 and y2 > y1:
            rows.append((list(names).index(name), (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
    return rows


def convert(
    images: Path, annotations: Path, splits: Mapping[str, Sequence[str]], names: Sequence[str], target: str | Path
) -> dict[str, int]:
    """Convert a VOC data set to ``target/images/<split>`` and ``target/labels/<split>``.

    Args:
        images: folder of pictures.
        annotations: folder of XML files with the same stems.
        splits: split -> stems.
        names: class names.
        target: folder to make; missing or empty, and complete or untouched afterwards.

    Returns:
        split -> number of boxes.

    Raises:
        UserError: a picture or an annotation is missing or unreadable.
    """
    pictures = {p.stem: p for p in sorted(images.iterdir()) if p.suffix.lower() in _IMAGE_SUFFIXES}
    boxes = {}
    with complete_folder(target) as part:
        for split, stems in splits.items():
            out_images, out_labels = part / "images" / split, part / "labels" / split
            out_images.mkdir(parents=True)
            out_labels.mkdir(parents=True)
            boxes[split] = 0
            for stem in stems:
                xml = annotations / f"{stem}.xml"
                if stem not in pictures or not xml.exists():
                    raise UserError(f"{stem} of split {split} lacks its picture or annotation in {images.parent}")
                with Image.open(pictures[stem]) as picture:
                    width, height = picture.size
                rows = to_yolo(xml, names, width, height)
                boxes[split] += len(rows)
                shutil.copy(pictures[stem], out_images)
                text = "".join(f"{k} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for k, x, y, w, h in rows)
                (out_labels / f"{stem}.txt").write_text(text, encoding="utf-8")
    return boxes


def held_out(stems: Sequence[str], share: float = 0.2, seed: int = 0) -> dict[str, list[str]]:
    """A fixed train/val split of sorted stems: shuffled by ``random.Random(seed)``, the last ``share`` held out."""
    order = sorted(stems)
    random.Random(seed).shuffle(order)
    count = round(len(order) * share)
    return {"train": sorted(order[: len(order) - count]), "val": sorted(order[len(order) - count :])}


def prepare_bccd(target: str | Path, source: Archive = BCCD, url: str | None = None) -> dict[str, int]:
    """Fetch BCCD (MIT) and convert it, in its own split; see `convert` and `yolo_musgd.data.archive`."""
    with source.unpacked(url) as top:
        root = top / "BCCD"
        lists = root / "ImageSets" / "Main"
        splits = {s: (lists / f"{s}.txt").read_text(encoding="utf-8").split() for s in ("train", "val", "test")}
        return convert(root / "JPEGImages", root / "Annotations", splits, BCCD_NAMES, target)


def prepare_raccoon(target: str | Path, source: Archive = RACCOON, url: str | None = None) -> dict[str, int]:
    """Fetch the raccoons (MIT) and convert them; see `convert` and `yolo_musgd.data.archive`."""
    with source.unpacked(url) as root:
        splits = held_out([p.stem for p in (root / "annotations").glob("*.xml")])
        return convert(root / "images", root / "annotations", splits, RACCOON_NAMES, target)
