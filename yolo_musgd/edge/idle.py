"""The ``idle`` command: what the board draws and how warm it is when nothing runs."""

import json
import time
from typing import List

from . import options
from .bench import root
from .errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from .files import Folder
from .power import sampler, system
from .result import Result
from .stats import rounded

IDLE_OPTIONS = {
    "power": ("auto", options.text, "auto, csv:FILE, " + ", ".join(sampler.NAMES)),
    "csv_offset": (0.0, options.number(-1e6, 1e6), "seconds by which the meter's clock is ahead"),
    "seconds": (10.0, options.number(0.5, 1e6), "how long"),
    "project": ("", options.text, "write idle.json to project/name; without it nothing is written"),
    "name": ("", options.folder_name, "folder name, counted up when taken"),
}  # type: options.Spec


def main(args: List[str]) -> Result:
    """Run ``idle seconds=10 power=auto``: prints watts and temperatures; an error without a sensor."""
    chosen = options.parse_args(args, IDLE_OPTIONS, "idle", None)
    choice = sampler.choose(chosen.power, root())
    if choice.sensor is None and choice.csv is None:
        reasons = "; ".join("{}: {}".format(*item) for item in choice.tried.items())
        raise UserError("no power sensor, so there is nothing to measure. Tried: {}".format(reasons))
    watts, partial = sampler.Sampler(choice.sensor).start(), False
    begin = time.perf_counter()
    try:
        time.sleep(chosen.seconds)
    except KeyboardInterrupt:
        partial = True
    end = time.perf_counter()
    watts.stop()
    if choice.sensor is not None:
        choice.sensor.close()
    if choice.csv is not None:
        watts.take_csv(choice.csv, chosen.csv_offset)
    result = sampler.window(watts, begin, end)
    content = {
        "schema": "yolo-musgd/idle/1",
        "partial": partial,
        "board": system.identity(root()),
        "power": sampler.describe(choice),
        "seconds": end - begin,
        "idle": result,
        "wall_estimate_w": sampler.wall_estimate(choice, result["mean_w"]),
        "state": system.state(root()),
    }
    if watts.lost:
        content["lost"] = watts.lost
    text = json.dumps(rounded(content, 5), indent=1)
    print(text)
    files = {}
    if chosen.project:
        with Folder("idle", chosen.project, chosen.name) as folder:
            files["idle"] = folder.write_text("idle.json", text)
    mean = result["mean_w"]
    said = "{} doing nothing, over {:.0f} s".format("not measured" if mean is None else "%.2f W" % mean, end - begin)
    code = EXIT_INTERRUPTED if partial else EXIT_DONE
    return Result("idle", said, files=files, figures={"mean_w": mean, "seconds": end - begin}, code=code)
