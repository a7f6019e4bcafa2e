"""The whole pipeline on a tiny data set, by its command line: killed, continued, repeated, reported.

Covers final_table.py, pipeline_report.py, samples.py and svg.py.
"""

import json
import re
import tarfile
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from browser import look
from filelock import FileLock

from yolo_musgd import cli
from yolo_musgd.pipeline import dag, pipeline_report, svg
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.tables import INK

pytestmark = pytest.mark.slow

STEPS = (
    "train", "export-base", "prune", "finetune", "export-pruned", "export-final", "measure", "samples",
    "detect-before", "detect-after", "bench", "bundle",
)  # fmt: skip


def test_a_killed_pipeline_goes_on_and_ends_where_an_uninterrupted_one_does(pipeline, run, tmp_path):
    assert pipeline.output.count("done before") == 2  # train and export-base, before the second kill
    record = json.loads((pipeline.folder / "steps" / "train" / "step.json").read_text())
    words = [w for w in record["command"][1:] if not w.startswith(("project=", "name="))]
    done = run(record["command"][0], *words, f"project={tmp_path}", "name=whole")
    assert done.returncode == 0, done.stderr[-2000:]
    weights = [
        torch.load(file, weights_only=False)["model"].state_dict()
        for file in (
            pipeline.folder / "steps" / "train" / "run" / "weights" / "best.pt",
            tmp_path / "whole/weights/best.pt",
        )
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_every_step_left_its_folder_and_nothing_else(pipeline):
    assert sorted(p.name for p in (pipeline.folder / "steps").iterdir()) == sorted(STEPS)
    for step in STEPS:
        record = json.loads((pipeline.folder / "steps" / step / "step.json").read_text())
        assert record["outputs"]
        assert not any("{" in word for word in record["command"])


def test_the_table_is_the_measurement(pipeline):
    rows = json.loads((pipeline.folder / "steps" / "measure" / "measure.json").read_text())["rows"]
    assert [r["role"] for r in rows] == ["base", "pruned", "final"]
    assert [r["precision"] for r in rows] == ["fp32", "fp32", "int8"]
    assert rows[1]["size_bytes"] < rows[0]["size_bytes"]
    assert rows[2]["size_bytes"] < 0.5 * rows[1]["size_bytes"]
    for row in rows:
        assert f"| {row['map50_95']:.3f} | {row['map50']:.3f} | {row['size_bytes'] / 1e6:.2f} |" in pipeline.output


def test_edge_val_agrees_with_the_table(pipeline, run, tiny_data, tmp_path):
    """The same figure by the board's own command, in another process."""
    rows = json.loads((pipeline.folder / "steps" / "measure" / "measure.json").read_text())["rows"]
    model = next((pipeline.folder / "steps" / "export-final" / "export").glob("*_model"))
    words = (
        f"model={model}",
        f"source={tiny_data.parent / 'images/test'}",
        "runtime=onnxruntime",
        f"project={tmp_path}",
    )
    done = run("yolo-musgd", "val", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "val" / "val.json").read_text())["result"]["map50_95"]
    assert found == pytest.approx(rows[2]["map50_95"], abs=1e-4)


def test_the_bundle_is_for_the_board(pipeline):
    with tarfile.open(next((pipeline.folder / "steps" / "bundle").glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    assert "edge-raspberry-pi-5/edge.pyz" in names
    assert any(n.endswith("model/model.onnx") for n in names)


def test_again_and_the_plan(pipeline, run):
    before = {s: (pipeline.folder / "steps" / s / "step.json").stat().st_mtime_ns for s in STEPS}
    again = run(*("yolo-musgd", *pipeline.command[1:]), cwd=pipeline.cwd)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == len(STEPS)
    assert {s: (pipeline.folder / "steps" / s / "step.json").stat().st_mtime_ns for s in STEPS} == before
    plan = run("yolo-musgd", *pipeline.command[1:], "dry_run=True", "finetune_epochs=2", cwd=pipeline.cwd).stdout
    done = {s for s in STEPS if re.search(rf"^{s} +done", plan, re.M)}
    assert done == {"train", "export-base", "prune", "samples", "detect-before"}
    assert "epochs=1 -> epochs=2" in plan


def test_a_drop_that_is_too_large_prunes_less(pipeline, run):
    """Runs after the others: with max_drop=0 half the cut is tried, and then none."""
    done = run("yolo-musgd", *pipeline.command[1:], "max_drop=0", "flops=-0.2", "dry_run=True", cwd=pipeline.cwd)
    assert "again with half the pruning, then without" in done.stdout


class Page(HTMLParser):
    """What a page refers to, and its pictures without words."""

    def __init__(self):
        super().__init__()
        self.references, self.silent, self.pictures, self.ids, self.anchors = [], [], 0, set(), set()
        self.open = []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.references += [found[k] for k in ("src", "href", "xlink:href") if k in found]
        if tag == "svg" and found.get("aria-hidden") != "true":
            self.pictures += 1
            if not found.get("aria-label") or found.get("role") != "img":
                self.silent.append(found)
        if "id" in found:
            self.ids.add(found["id"])


def test_the_report_needs_no_network_and_speaks(pipeline):
    text = (pipeline.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.pictures >= 8  # trade-off, curves, optimizer, layers, two for each sample
    assert not page.silent
    for reference in page.references:
        assert reference.startswith(("#", "data:image/jpeg;base64,"))
        assert not reference.startswith("#") or reference[1:] in page.ids
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len(text) < 3e6


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_in_a_browser(pipeline, width, dark):
    """On a phone and on a desk, in both colour schemes: nothing cut off, pale, tiny, missing or fetched."""
    seen = look(pipeline.folder / "report.html", width, dark)
    assert seen["width"] == width
    assert seen["dark"] == dark
    assert seen["scrolls"] <= width, "the page scrolls sideways"
    assert not seen["pale"], "contrast below 4.5 to 1"
    assert not seen["small"]
    assert seen["headings"][0] == 1
    assert all(b <= a + 1 for a, b in pairwise(seen["headings"])), "a level is left out"
    assert not seen["broken"]
    assert not seen["fetched"]
    assert not seen["errors"]


def test_every_figure_says_where_it_comes_from(pipeline):
    text = " ".join((pipeline.folder / "report.html").read_text().split())
    for file in ("measure/measure.json", "train/run/results.csv", "finetune/run/results.csv", "prune/cut/prune.json",
                 "bench/bench/bench.json", "detect-before/out/detections.json"):  # fmt: skip
        assert f"steps/{file}" in text
        assert (pipeline.folder / "steps" / file).is_file()
    assert "yolo train cfg=musgd.yaml" in text
    assert "not on raspberry-pi-5" in text  # speed of another machine is not sold as the board's


def test_the_page_of_other_pipelines(pipeline):
    """Without pruning and training, with a goal, a sensor and a search: the same page, other parts of it."""
    figures = json.loads((pipeline.folder / "report.json").read_text())
    figures["rows"] = [figures["rows"][0], figures["rows"][2]]
    figures["pruning"], figures["labels"]["final"], figures["settings"]["target_fps"] = None, "base INT8", 30.0
    anchor = {"model": "yolo26n.yaml", "imgsz": 640, "ms": 67, "how": "published"}
    figures["choice"] = {"model": "m.yaml", "imgsz": 448, "gflops": 2.5, "estimated_fps": 31.2, "anchor": anchor}
    scores = {"shift": -0.041, "recall": [0.8, 0.712]}
    figures["quantization"] |= {"scores": scores, "conf": 0.314, "guard_note": "loses .02, but that may be chance"}
    figures["bench"] |= {"joules": 0.123, "watts": 4.5, "sensor": "pmic"}
    drawn = {
        "tradeoff": svg.tradeoff(figures["rows"], figures["labels"], "test"),
        "curves": None,
        "optimizer": None,
    }
    steps = [{"float_layers": ["a"] * k, "drop": 0.1 / (k + 1), "latency_ms": 5.0 + k} for k in range(3)]
    text = pipeline_report.to_html(figures, {**drawn, "search": svg.search(steps)}, [])
    assert "0.123 J a frame, 4.50 W (pmic)" in text
    assert "<b>estimated</b> 31 frames" in text
    assert "-0.041 in the mean against its own FP32; at FP32's best threshold recall goes from 0.800 to 0.712" in text
    assert "<code>conf=0.31</code>" in text
    assert "loses .02, but that may be chance" in text
    assert "Nothing of it was measured here" in text
    assert "<h2>Pruning</h2>" not in text
    assert "<h2>Training</h2>" not in text
    assert "search for the layers" in text


@pytest.mark.parametrize(
    ("pruned", "said"),
    [
        ("pruned FP32", "Pruning and fine-tuning: "),
        ("ReLU FP32", "ReLU and fine-tuning: "),
        ("pruned ReLU FP32", "Pruning, ReLU and fine-tuning: "),
    ],
)
def test_each_change_is_called_by_its_name(pruned, said):
    rows = [{"role": r, "precision": "fp32", "map50_95": 0.5, "size_bytes": 9, "latency_ms_p50": 3.0} for r in
            ("base", "pruned")]  # fmt: skip
    told = {"rows": rows, "labels": {"pruned": pruned}}
    assert pipeline_report.headline({**told, "finetuned": True})[0].startswith(said)
    assert pipeline_report.headline({**told, "finetuned": False})[0].startswith(said.replace(" and fine-tuning", ""))


@pytest.mark.parametrize(("epochs", "seen"), [(2, [0.1, 0.2]), (0, [])])
def test_the_fine_tuning_of_an_earlier_plan_is_not_this_ones(tmp_path, epochs, seen):
    settings = PipelineSettings(data="d.yaml", finetune_epochs=epochs)
    plan = dag.PipelinePlan(settings, 64, "int8", 1, epochs, -0.4, 16, "test")
    runner = Runner(tmp_path, {})
    run = runner.place("finetune") / "run"
    run.mkdir(parents=True)
    (run / "results.csv").write_text("epoch,metrics/mAP50-95(B)\n1,0.1\n2,0.2\n")
    finished = pipeline_report.FinishedPipeline(settings, None, plan, None, None, runner)
    assert finished.finetuned == bool(epochs)
    assert pipeline_report._finetuning_curve(finished) == seen


@pytest.mark.parametrize(
    ("pruned", "curve", "advised"),
    [(0.46, [0.3, 0.4, 0.46], True), (0.46, [0.3, 0.46, 0.45], False), (0.545, [0.3, 0.4, 0.5], False),
     (0.46, [0.46], False), (0.46, [], False), (None, [0.3, 0.4], False)],
    ids=["rising", "past its best", "hardly lost", "one epoch", "none", "not pruned"],
)  # fmt: skip
def test_more_epochs_are_advised_where_the_last_one_was_the_best(pruned, curve, advised):
    rows = [{"role": "base", "map50_95": 0.55}, {"role": "final", "map50_95": 0.4}]
    if pruned is not None:
        rows.insert(1, {"role": "pruned", "map50_95": pruned})
    notes = pipeline_report._still_rising(rows, curve)
    assert bool(notes) == advised
    assert not notes or ("0.090" in notes[0] and "finetune_epochs=" in notes[0])


def test_the_teachers_part_is_no_part_of_the_drawn_losses(monkeypatch):
    """With it the training's line lay far above that of val, which has none, and looked like overfitting."""
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, y, *_, **__: drawn.append(list(y)))
    columns = {"metrics/mAP50-95(B)": [0.1, 0.2], "train/box_loss": [2.0, 1.0], "train/dis_loss": [9.0, 8.0],
               "val/box_loss": [3.0, 2.0], "val/dis_loss": [0.0, 0.0]}  # fmt: skip
    svg.curves([("fine-tuning", columns)])
    assert drawn == [[0.1, 0.2], [2.0, 1.0], [3.0, 2.0]]


def test_pictures_follow_the_pages_ink():
    table = [{"before": 32, "after": 16}, {"before": 64, "after": 64}]
    text = svg.layers(table)
    assert "currentColor" in text
    assert INK not in text
    assert "1 of 2 convolutions are narrower" in text
    assert not re.search(r' id="(figure|axes|patch|text)_', text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data=nosuch.yaml",), "data=nosuch.yaml"),
        (("model=nosuch/best.pt",), "model=nosuch/best.pt"),
        (("model=yolo26n-seg.yaml",), "model=yolo26n-seg.yaml is a model for task=segment"),
        (("model=yolo26n-cls.pt", "dry_run=True"), "model=yolo26n-cls.pt is a model for task=classify"),
        (("project=/dev/null/runs",), "choose another project="),
        (("epochs=0",), "epochs=0 takes a trained model as it is"),
        (("target=jetson-nano", "precision=int8"), "no INT8 instructions"),
        (("target=x86", "target_fps=30"), "target=x86"),
        (("target=raspberry-pi-4", "target_fps=5000"), "is out of reach"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tiny_data, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    given = {"data": f"data={tiny_data}", "model": "model=yolo26n.yaml"} | {w.split("=")[0]: w for w in words}
    assert cli.main(["pipeline", *given.values()]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_two_at_once_and_a_strangers_folder(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "pipeline" / "x"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("mine")
    words = ["pipeline", f"data={tiny_data}", "model=yolo26n.yaml", "name=x"]
    assert cli.main(words) == 2
    assert "holds something else than a pipeline" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["precious.txt"]
    (folder / "precious.txt").rename(folder / "args.yaml")
    (folder / "args.yaml").write_text("task: detect\nepochs: 3\n")  # of a training
    assert cli.main(words) == 2
    assert "holds something else than a pipeline" in capsys.readouterr().err
    assert (folder / "args.yaml").read_text() == "task: detect\nepochs: 3\n"
    (folder / "args.yaml").write_text("epochs: 3\nfinetune_epochs: 3\n")
    with FileLock(folder / ".lock"):
        assert cli.main(words) == 2
    assert "another pipeline is at work" in capsys.readouterr().err
