"""The final table: accuracy, size, latency and agreement of the exported models, measured side by side here.

``python -m yolo_musgd.pipeline.final_table base=... pruned=... final=... data=... split=test out=measure.json``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import check, read_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import pairs
from yolo_musgd.export.accuracy import Accuracy, agreement, as_dict, evaluate
from yolo_musgd.export.backends import load_finished, trained_with
from yolo_musgd.export.timing import race
from yolo_musgd.pipeline.settings import MeasureSettings
from yolo_musgd.settings import parse

ROLES = ("base", "pruned", "final")


def measure(chosen: MeasureSettings) -> dict[str, Any]:
    """Open every model, judge it on the split, time all of them in turns, compare their detections with the base's.

    Raises:
        UserError: a model that cannot be run here, or no labels.
    """
    split = read_split(check(chosen.data), chosen.split, trained_with(Path(chosen.base)))
    if not split.labelled:
        raise UserError(
            f"data={chosen.data}: no image of its {chosen.split} split has a label file; "
            "images/ needs labels/ beside it"
        )
    opened = {role: load_finished(Path(path), chosen.threads) for role in ROLES if (path := getattr(chosen, role))}
    found: dict[str, Accuracy] = {}
    for role, (artifact, runtime) in opened.items():
        found[role] = evaluate(artifact, runtime, split.images, f"{role} on {chosen.split}")
    latency = race(
        {role: runtime for role, (_, runtime) in opened.items()}, seconds=6.0, least=40, desc="timing in turns"
    )
    rows = []
    for role, (artifact, runtime) in opened.items():
        same = as_dict(agreement(found["base"].detections, found[role].detections))
        rows.append(
            {
                "role": role,
                "precision": artifact.precision,
                "runtime": f"{runtime.name} {runtime.version}",
                "map50_95": round(found[role].map50_95, 5),
                "map50": round(found[role].map50, 5),
                "size_bytes": artifact.size_bytes,
                "latency_ms_p50": round(latency[role], 3),
                "agreement": same,
                "sha256": artifact.sha256,
            }
        )
        runtime.close()
    return {
        "schema": "yolo-musgd/pipeline-measure/1",
        "split": chosen.split,
        "images": found["base"].images,
        "left_out": [*split.left_out, *found["base"].left_out],
        "threads": chosen.threads,
        "rows": rows,
    }


def main(words: Sequence[str]) -> int:
    """Measure and write the table as JSON."""
    chosen = parse(MeasureSettings, pairs(words, MeasureSettings.names(), "final_table"))
    write_whole(chosen.out, json.dumps(measure(chosen), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
