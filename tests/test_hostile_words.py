"""Names that lead elsewhere and values that are none: one line, exit code 2, at once, and nothing is written."""

import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from yolo_musgd import cli
from yolo_musgd.edge.files import numbered_folder
from yolo_musgd.places import check_parent
from yolo_musgd.settings import SettingsError
from yolo_musgd.train.settings import TelemetrySettings

LONG = "a" * 5000
MANY = list(range(200))
COMPARE = ["compare", "data={data}", "train={imgsz: 64, device: cpu}"]
PIPELINE = ["pipeline", "data={data}", "model=yolo26n.yaml", "dry_run=True"]


def words_of(words, data):
    return [w.replace("{data}", str(data)) for w in words]


def refused(capsys, words, tmp_path):
    """The one line with which a command refuses its words."""
    before = sorted(tmp_path.rglob("*"))
    began = time.perf_counter()
    assert cli.main(words) == 2
    seconds = time.perf_counter() - began
    lines = [x for x in capsys.readouterr().err.strip().splitlines() if x.startswith("yolo-musgd:")]
    assert len(lines) == 1
    assert sorted(tmp_path.rglob("*")) == before
    return lines[0], seconds


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "", "a\\b", "a\nb"])
@pytest.mark.parametrize(
    "words", [COMPARE, PIPELINE, ["demo"], ["steptime"], ["prune", "model=x.pt"]], ids=lambda w: w[0]
)
def test_a_name_is_of_one_folder(here, capsys, tiny_data, words, name):
    line, seconds = refused(capsys, [*words_of(words, tiny_data), f"name={name}"], here)
    assert "name=" in line
    assert "must be the name of one folder" in line
    assert seconds < 10, "before the work"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*COMPARE, "seeds=100000000"], "seeds must be in [1, 1000]"),
        ([*COMPARE, "seeds=1e8"], "seeds must be a whole number"),
        ([*COMPARE, "seeds=[&a [*a]]"], "contains itself"),
        ([*COMPARE, "seeds=&a [*a]"], "contains itself"),
        ([*COMPARE, "optimizers=" + "[" * 3000], "nested too deep"),
        ([*COMPARE, "epochs=" + "9" * 5000], "epochs must be a whole number"),
        ([*COMPARE, "epochs=" + "9" * 400], "epochs must be in [1, 1e+06]"),
        ([*COMPARE, "train={on: 1}"], "the key True is not a word"),
        ([*COMPARE, "train={.inf: a}"], "is not a word"),
        ([*COMPARE, "tune={lr0: {low: 1, high: 1e999}}"], "must be a number"),
        ([*COMPARE, "tune={lr0: [1,2], trials: 100000000}"], "trials must be in [1, 10000]"),
        ([*COMPARE, f"optimizers=[{{optimizer: SGD, grid: {{lr0: {MANY}, momentum: {MANY}}}}}]"], "40000 points"),
        ([*COMPARE, "threads=100000000"], "threads must be in"),
        ([*COMPARE, f"protocol={LONG}"], "File name too long"),
        ([*COMPARE, f"project={LONG}"], "cannot hold results"),
        (["compare", f"data={LONG}.yaml"], "too long"),
        (["steptime", "device=foo"], "device=foo"),
        (["steptime", "device=cuda:99"], "device=cuda:99"),
        (["steptime", "threads=100000000"], "threads must be in"),
        (["pipeline", "data="], "data= is required"),
        (["steptime", "models=,"], "models= names none"),
        (["steptime", f"models={LONG}"], "models=aaaa"),  # in whose words depends on what the process has loaded
        (["demo", f"project={LONG}"], "cannot hold results"),
        (["prune", f"recipe={LONG}", "model=x.pt"], "File name too long"),
        (["prune", f"model={LONG}.pt"], "too long"),
        (["pipeline", "data={data}", f"recipe={LONG}"], "File name too long"),
        (["pipeline", "data={data}", f"model={LONG}.pt"], "too long"),
    ],
    ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60],
)  # fmt: skip
def test_values_that_are_none(here, capsys, tiny_data, words, message):
    line, _ = refused(capsys, words_of(words, tiny_data), here)
    if sys.version_info >= (3, 14) and message.endswith("too long"):
        message = "=aaaa"  # its pathlib only says that it is not there
    assert message in line


def test_class_names_by_infinity_are_one_line(here, capsys, tiny_data):
    data = here / "d.yaml"
    data.write_text(tiny_data.read_text().split("names:")[0] + "names: {1e999: a, .nan: b}\n")
    line, _ = refused(capsys, ["compare", f"data={data}"], here)
    assert "d.yaml" in line


def test_a_number_beyond_floats_is_out_of_range():
    with pytest.raises(SettingsError, match="telemetry_layers must be"):
        TelemetrySettings(telemetry_layers=10**400)


def test_a_parent_that_the_system_cannot_name(tmp_path):
    with pytest.raises(ValueError, match="cannot hold results"):
        check_parent("a\0b")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_place_that_root_may_write_by_name_only(tmp_path):
    with pytest.raises(ValueError, match="/proc may not be written"):
        check_parent("/proc/results/new")
    check_parent(str(tmp_path / "not" / "yet"))
    assert not list(tmp_path.iterdir())


def test_eight_processes_make_folders_at_once(tmp_path):
    """320 folders, each made once, and none is lost to a race."""
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        made = pool.starmap(numbered_folder, [(str(tmp_path), "exp")] * 320, chunksize=40)
    assert len(set(made)) == 320
    assert {Path(path).name for path in made} == {"exp", *(f"exp{i}" for i in range(2, 321))}
