"""Finds the YAML files that ship with the package: in the wheel, or at the top of a source checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
SUFFIXES = (".yaml", ".yml")


def folder(name: str) -> Path:
    """Folder ``cfg`` or ``datasets``.

    Raises:
        FileNotFoundError: neither an installed wheel nor a checkout has it.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        # The checkout's cfg/ holds train/; this keeps another project's cfg/ folder from being taken for ours.
        if (base / name).is_dir() and (base / "datasets" / "shapes.yaml").exists():
            return base / name
    raise FileNotFoundError(f"the package's {name}/ folder is missing: reinstall yolo-musgd")


def recipe_names(kind: str) -> list[str]:
    """The files of ``cfg/<kind>/``."""
    return sorted(path.name for path in (folder("cfg") / kind).glob("*.yaml"))


def find_recipe(kind: str, name: str) -> Path | None:
    """A file of the user's, or else the shipped ``cfg/<kind>/<name>`` (its suffix may be left out); None if neither."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder("cfg") / kind
    found = shipped / (name if path.suffix else f"{name}.yaml")
    return found if path.name == name and found.is_file() else None


def find(file: str) -> Path | None:
    """The shipped YAML of this bare file name (``shapes.yaml``, ``on-device.yaml``), or None.

    A name with a folder in it, or of a file that exists in the working folder, is never ours.
    """
    path = Path(file)
    try:
        if path.suffix.lower() not in SUFFIXES or path.name != file or path.exists():
            return None
        candidates = [folder("datasets") / file, folder("cfg") / "train" / file]
    except (OSError, ValueError):  # no such folder; no name that the system takes
        return None
    return next((c for c in candidates if c.is_file()), None)
