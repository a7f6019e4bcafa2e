"""Copies the pictures that the report shows: ``python -m yolo_musgd.pipeline.samples data=... out=...``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import pairs
from yolo_musgd.edge.pictures.images import list_images, read_image
from yolo_musgd.export.splits import spread
from yolo_musgd.pipeline.dataset import read_data
from yolo_musgd.pipeline.settings import SampleSettings
from yolo_musgd.settings import parse

MOST = 6


def photos(source: str) -> list[str]:
    """At most :data:`MOST` of somebody's photos, evenly spaced.

    Raises:
        UserError: there is none, or one of them cannot be read.
    """
    try:
        files = spread(list_images(source), MOST)
        for file in files:
            read_image(file)
    except UserError as error:
        raise UserError(f"images={source}: {str(error).removeprefix(f'source={source}: ')}") from error
    return files


def main(words: Sequence[str]) -> int:
    """Copy the pictures.

    Raises:
        UserError: no images.
    """
    chosen = parse(SampleSettings, pairs(words, SampleSettings.names(), "samples"))
    files = photos(chosen.source) if chosen.source else spread(read_data(chosen.data).images[chosen.split], MOST)
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        source = Path(file)  # of whose name file systems take 255 bytes
        shutil.copyfile(file, folder / f"{number}_{source.stem[:50].replace(' ', '_')}{source.suffix}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
