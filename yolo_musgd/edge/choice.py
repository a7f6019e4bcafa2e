"""Which of several artifacts this board is to run: ``choice.json`` in their folder, as ``race`` wrote it."""

import json
import os
import sys
from typing import Any, Dict, List

from .errors import UserError
from .files import read_json, write_whole
from .result import typed
from .runtimes.artifact import MANIFEST, model_files

CHOICE = "choice.json"
SCHEMA = "yolo-musgd/choice/1"


def list_artifacts(folder: str) -> List[str]:
    """Return the artifacts in a folder, files and folders, sorted; the folder itself where it is one, or holds none."""
    names = sorted(os.listdir(folder))
    files = model_files(names)
    folders = [name for name in names if _holds_model(os.path.join(folder, name))]
    if MANIFEST in names or len(files) + len(folders) == 0 or (len(files) == 1 and not folders):
        return [folder]
    return [os.path.join(folder, name) for name in files + folders]


def _holds_model(folder: str) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:  # a file, or a folder that may not be read
        return False
    return MANIFEST in names or bool(model_files(names))


def write_choice(folder: str, choice: Dict[str, Any]) -> str:
    """Write the choice beside the artifacts; returns its path."""
    return write_whole(os.path.join(folder, CHOICE), json.dumps(dict(choice, schema=SCHEMA), indent=1))


def apply_choice(chosen: Any, board: Any) -> None:
    """Where ``model=`` is a folder of several artifacts, put in the chosen one, its runtime and its threads.

    Words that the user gave stay.

    Args:
        chosen: Options of a command: ``model``, ``runtime``, ``threads``, ``precision``.
        board: Name of this board.

    Raises:
        UserError: The folder's artifacts have not run a race yet, or the choice is damaged.
    """
    folder = chosen.model
    path = os.path.join(folder, CHOICE)
    if not os.path.isfile(path):
        if os.path.isdir(folder) and len(list_artifacts(folder)) > 1:
            raise UserError("{} holds several artifacts; let them race first: {}".format(folder, typed("race", folder)))
        return
    choice = read_json(path)
    try:
        name, runtime, threads = str(choice["model"]), str(choice["runtime"]), choice["threads"]
        inside = os.path.normpath(name) not in (".", "") and not os.path.isabs(name) and ".." not in name.split("/")
        if choice["schema"] != SCHEMA or not inside or not (threads is None or isinstance(threads, int)):
            raise ValueError("schema or model")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("{} is damaged ({}); remove it, and let them race again".format(path, error))
    if choice.get("board") != board:
        print(
            "{} was made on {}; race again for the fastest on this {}: {}".format(
                path, choice.get("board"), board, typed("race", folder)
            ),
            file=sys.stderr,
        )
    chosen.model = os.path.join(folder, name)
    chosen.runtime = chosen.runtime or runtime
    chosen.precision = chosen.precision or choice.get("precision")
    if chosen.threads is None:
        chosen.threads = threads
