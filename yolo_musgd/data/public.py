"""Public data sets that are not in Pascal VOC's format: `vegetables` is YOLO's already, `deeppcb` lists pixels."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from yolo_musgd.data.archive import Archive
from yolo_musgd.data.folder import complete_folder
from yolo_musgd.edge.errors import UserError

VEGETABLES = Archive(
    "FatihEmin48/okra-pepper-eggplant-yolo-dataset",
    "bc38d2a2ba26f75574e5cd1de03819e06e51fd87",
    ("train", "valid", "test"),
    "e0b584f6b36687ddf013d0630e09b741a509e7c92a91db57578a613a02e54e01",
)
DEEPPCB = Archive(
    "tangsanli5201/DeepPCB",
    "08e98c4db5922613fb97176eb3d6497d48260cb1",
    ("PCBData",),
    "5d0a28a95b4243a9ae2ab001137bf58a437b91e43d7bb3f26d4473f91cd9db9a",
)
DEEPPCB_CLASSES = 6

Box = tuple[int, float, float, float, float]


def prepare_vegetables(target: str | Path, source: Archive = VEGETABLES, url: str | None = None) -> dict[str, int]:
    """Fetch the vegetables (CC BY 4.0, Fatih Emin) and lay them out as ``images/<split>`` and ``labels/<split>``.

    Args:
        target: folder to make; missing or empty, and complete or untouched afterwards.
        source: repository, commit and digest.
        url: of the archive, if not GitHub's.

    Returns:
        split -> number of pictures.

    Raises:
        UserError: the archive is not what it should be.
    """
    with source.unpacked(url) as root, complete_folder(target) as part:
        counts = {}
        for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
            for kind in ("images", "labels"):
                shutil.copytree(root / folder / kind, part / kind / split)
            counts[split] = sum(1 for _ in (part / "images" / split).iterdir())
        return counts


def prepare_deeppcb(target: str | Path, source: Archive = DEEPPCB, url: str | None = None) -> dict[str, int]:
    """Fetch DeepPCB (MIT) and convert the tested pictures; its ``trainval`` is train, its ``test`` is val.

    The templates without defects that belong to the pictures are left out. Arguments, result and errors are those of
    :func:`prepare_vegetables`.
    """
    with source.unpacked(url) as root, complete_folder(target) as part:
        data, counts = root / "PCBData", {}
        for split, listed in (("train", "trainval.txt"), ("val", "test.txt")):
            pairs = [line.split() for line in (data / listed).read_text(encoding="utf-8").splitlines() if line.strip()]
            images, labels = part / "images" / split, part / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for picture, annotation in pairs:
                tested = (data / picture).with_name(f"{Path(picture).stem}_test.jpg")
                with Image.open(tested) as opened:
                    width, height = opened.size
                rows = pixel_boxes((data / annotation).read_text(encoding="utf-8"), width, height, annotation)
                shutil.copy(tested, images / Path(picture).name)
                (labels / f"{Path(picture).stem}.txt").write_text(_yolo(rows), encoding="utf-8")
            counts[split] = len(pairs)
        return counts


def pixel_boxes(text: str, width: int, height: int, name: str) -> list[Box]:
    """Rows ``x1 y1 x2 y2 class`` in pixels, classes from 1, as YOLO's rows.

    Args:
        text: one box a line, numbers parted by blanks or commas.
        width: of the picture in pixels.
        height: likewise.
        name: of the file, for the message.

    Returns:
        rows (class from 0, x centre, y centre, width, height) in [0, 1].

    Raises:
        UserError: a line that is no box in the picture.
    """
    rows: list[Box] = []
    for line in filter(str.strip, text.splitlines()):
        try:
            x1, y1, x2, y2, number = map(int, line.replace(",", " ").split())
        except ValueError:
            raise UserError(f"{name}: {line!r} is no box 'x1 y1 x2 y2 class' in whole pixels") from None
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and 1 <= number <= DEEPPCB_CLASSES):
            raise UserError(f"{name}: {line!r} is no box of class 1 to {DEEPPCB_CLASSES} in {width}x{height} pixels")
        rows.append((number - 1, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
    return rows


def _yolo(rows: Iterable[Box]) -> str:
    return "".join(f"{k} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for k, x, y, w, h in rows)
