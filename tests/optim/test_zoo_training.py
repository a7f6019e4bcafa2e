"""Every optimizer of ours trains an epoch in Ultralytics' trainer, stops, and resumes from its checkpoint."""

from __future__ import annotations

import csv
import math
import textwrap

import pytest

from yolo_musgd.optim.registry import REGISTRY

pytestmark = pytest.mark.slow
NAMES = [name for name, entry in REGISTRY.items() if entry.build is not None]

SCRIPT = """
import sys, traceback
import yolo_musgd
yolo_musgd.register()
from ultralytics import YOLO
from yolo_musgd.optim.registry import find

class Stop(Exception):
    pass

def stop_after_the_first_epoch(trainer):
    if trainer.epoch == 0:
        raise Stop

data, project, *names = sys.argv[1:]
for name in names:
    try:
        model = YOLO("yolo26n.yaml")
        model.add_callback("on_model_save", stop_after_the_first_epoch)
        try:
            model.train(optimizer=name, lr0=find(name).lr0, data=data, project=project, name=name, epochs=2, imgsz=64,
                        batch=8, nbs=8, workers=0, device="cpu", amp=False, warmup_epochs=0.5, warmup_bias_lr=0.0,
                        plots=False, val=False)
        except Stop:
            pass
        resumed = YOLO(f"{project}/{name}/weights/last.pt")
        resumed.train(resume=True)
        print("built", name, type(resumed.trainer.optimizer).__name__)
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def trained(run, tiny_data, tmp_path_factory):
    """Folder of the runs, and what was printed; one process for all, since most of the time is its start."""
    pytest.importorskip("pytorch_optimizer")
    project = tmp_path_factory.mktemp("zoo")
    done = run("python", "-c", textwrap.dedent(SCRIPT), tiny_data, project, *NAMES)
    return project, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_resumes(trained, name):
    project, output = trained
    assert f"built {name} {name}" in output, output[-3000:]
    with (project / name / "results.csv").open() as file:
        rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert all(math.isfinite(float(row[f"train/{part}_loss"])) for row in rows for part in ("box", "cls"))
    assert float(rows[-1]["train/cls_loss"]) < 20
