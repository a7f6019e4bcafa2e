"""Reads images and boxes from a COCO file, such as ``export`` and ``bundle`` write, or anybody else's."""

import os
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np

from .errors import UserError
from .files import read_json

Labelled = Tuple[str, np.ndarray]
MOST_PIXELS = 1e6  # a side
FARTHEST = 1e6  # sides of its image; a box farther out, or larger, is no box


class Coco(NamedTuple):
    """A COCO file of boxes.

    Attributes:
        ids: Of the images, in the file's order.
        labelled: Path and boxes of each, see read_coco.
        sizes: Width and height of each, in pixels.
        classes: Category's id -> class.
        names: Class -> name.
    """

    ids: List[Any]
    labelled: List[Labelled]
    sizes: List[Tuple[float, float]]
    classes: Dict[Any, int]
    names: Dict[int, str]


def read_coco(path: str, names: Dict[int, str], images: str = "") -> List[Labelled]:
    """Read what a COCO file says of each image; see open_coco.

    Returns:
        The image's path and float32 (n, 5) of class, centre x, centre y, width and height in fractions of the image, in
        the file's order.
    """
    return open_coco(path, names, images).labelled


def open_coco(path: str, names: Dict[int, str], images: str = "") -> Coco:
    """Read a COCO file.

    A category is the model's class of the same name. Where not one name is the same, the categories are the classes in
    the order of their ids, as many as the model has. Crowds (``iscrowd``) are left out, as Ultralytics leaves them out.

    Args:
        path: The JSON file.
        names: The model's class names by index; empty when it does not say.
        images: Folder that ``file_name`` is relative to; by default the file's own.

    Raises:
        UserError: Not a COCO file, or of classes that the model does not have.
    """
    content = _load(path)
    try:
        classes = _classes(path, content["categories"], names)
        sizes = {entry["id"]: _size(entry) for entry in content["images"]}
        if len(sizes) != len(content["images"]):
            raise ValueError("an image's id stands twice")
        rows = {key: [] for key in sizes}  # type: Dict[Any, List[List[float]]]
        for note in content["annotations"]:
            width, height = sizes[note["image_id"]][:2]
            x, y, w, h = (float(value) for value in note["bbox"])
            if not note.get("iscrowd") and w > 0 and h > 0:
                row = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
                rows[note["image_id"]].append([float(classes[note["category_id"]])] + row)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError, OverflowError) as error:
        raise UserError("{} is no COCO file of boxes ({}: {})".format(path, type(error).__name__, error))
    strange = [sizes[key][2] for key in sizes if not (np.abs(rows[key]) < FARTHEST).all()]  # nor is nan
    if strange:
        raise UserError("{}: a box of {!r} is no number, or far outside of it".format(path, strange[0]))
    root = images or os.path.dirname(path)
    named = {classes[entry["id"]]: str(entry["name"]) for entry in content["categories"]}
    return Coco(
        list(sizes),
        [(os.path.join(root, sizes[key][2]), np.array(rows[key], np.float32).reshape(-1, 5)) for key in sizes],
        [sizes[key][:2] for key in sizes],
        classes,
        named,
    )


def _size(entry: Dict[str, Any]) -> Tuple[float, float, str]:
    """Width, height and file name of an image."""
    width, height, name = float(entry["width"]), float(entry["height"]), entry["file_name"]
    if not (0 < width < MOST_PIXELS and 0 < height < MOST_PIXELS and isinstance(name, str)):
        raise ValueError("an image {!r} of {:g} x {:g} pixels".format(name, width, height))
    return width, height, name


def _load(path: str) -> Dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError("{} is no COCO file: it lacks everything".format(path))
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise UserError("{} is no COCO file: it lacks {}".format(path, ", ".join(missing)))
    return content


def _classes(path: str, categories: List[Dict[str, Any]], names: Dict[int, str]) -> Dict[Any, int]:
    """Category id -> the model's class."""
    known = {name.strip().lower(): index for index, name in names.items()}
    ordered = sorted(categories, key=lambda entry: int(entry["id"]))
    found = {entry["id"]: known.get(str(entry["name"]).strip().lower()) for entry in ordered}
    if len(found) != len(ordered):
        raise ValueError("a category's id stands twice")
    if [str(entry["name"]) for entry in ordered] == [names[index] for index in sorted(names)]:
        return {entry["id"]: index for entry, index in zip(ordered, sorted(names))}  # a name may stand there twice
    if all(index is None for index in found.values()):
        if names and len(ordered) != len(names):
            raise UserError(
                "{} has {} classes, the model {}; give the labels of its own data set".format(
                    path, len(ordered), len(names)
                )
            )
        return {entry["id"]: index for index, entry in enumerate(ordered)}
    strange = [str(entry["name"]) for entry in ordered if found[entry["id"]] is None]
    if strange:
        raise UserError("{}: the model has no class {!r}; give the labels of its own data set".format(path, strange[0]))
    return {key: index for key, index in found.items() if index is not None}
