"""Protocols: what YAML may say, and one clear line for what it may not.

Covers protocol.py.
"""

import pytest
import yaml

from yolo_musgd import plugin, resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.parsing import load, parse_protocol
from yolo_musgd.lab.protocol import Start
from yolo_musgd.lab.tuning import Range

plugin.register()
SHIPPED = sorted(p.stem for p in (resources.folder("cfg") / "lab").glob("*.yaml"))


def protocol(text):
    return parse_protocol(yaml.safe_load(text))


def test_the_shortest_protocol():
    p = protocol("data: shapes.yaml")
    assert [d.label for d in p.data] == ["shapes"]
    assert p.starts == (Start("yolo26n scratch", "yolo26n.yaml"),)
    assert [c.optimizer for c in p.optimizers] == ["SGD", "MuSGD"]
    assert (p.seeds, p.epochs, p.baseline) == ((0, 1, 2), 30, "SGD")


FULL = """
data: [{label: cells, data: some/bccd/data.yaml, train: {imgsz: 192}}]
starts: [{label: scratch, model: yolo26n.yaml, epochs: 20}, {label: tuned, model: x.pt, epochs: 10}]
optimizers:
  - sgd
  - {label: fast, optimizer: musgd, adapt_factor: 1e-3, epochs_share: 0.77}
  - {label: slow, optimizer: AdamW, tune: {lr0: [0.001]}, starts: [tuned], epochs: 15}
  - {label: recipe, cfg: muon.yaml, muon_steps: 3}
seeds: [3, 5]
tune: {lr0: [0.02], seed: 9, epochs: 4}
goal: 0.4
"""


def test_a_full_protocol():
    p = protocol(FULL)
    sgd, fast, slow, recipe = p.optimizers
    assert (sgd.label, sgd.optimizer) == ("SGD", "SGD")
    assert fast.settings == {"adapt_factor": 0.001}  # YAML 1.1 reads 1e-3 as text
    assert [p.epochs_of(s, fast) for s in p.starts] == [15, 8]
    assert (p.epochs_of(p.starts[1], slow), slow.starts) == (15, ("tuned",))
    assert (slow.tune.space, slow.tune.seed, slow.tune.epochs) == ({"lr0": (0.001,)}, 9, 4)
    assert recipe.optimizer == "MuonSGD"
    assert recipe.settings["muon_steps"] == 3
    assert "lr0" not in recipe.settings  # the recipe's own gives way to the search
    assert yaml.safe_load(yaml.safe_dump(p.to_dict())) == p.to_dict()


def test_the_args_of_a_run_are_a_recipe_without_the_weights_that_it_started_from(tmp_path):
    """They would give one optimizer a start of its own."""
    file = tmp_path / "args.yaml"
    file.write_text("model: yolo26n.yaml\npretrained: mine.pt\noptimizer: MuSGD\nadapt_factor: 0.1\n")
    (contender,) = protocol(f"{{data: a, optimizers: [{{cfg: {file}}}]}}").optimizers
    assert contender.settings == {"adapt_factor": 0.1}


def test_a_range_and_a_grid():
    p = protocol("{data: a, optimizers: [SGD, {optimizer: MuSGD, grid: {lr0: [0.1, 0.2]}}], "
                 "tune: {lr0: {low: 1e-3, high: 0.1}, trials: 5}}")  # fmt: skip
    assert p.optimizers[0].tune.space == {"lr0": Range(0.001, 0.1)}
    assert p.optimizers[0].tune.budget == 5
    assert p.optimizers[1].tune is None
    assert p.optimizers[1].grid == {"lr0": (0.1, 0.2)}


def test_auto_takes_part_without_a_search():
    p = protocol("{data: a, optimizers: [auto, MuSGD], tune: {lr0: [0.1, 0.2]}}")
    assert [(c.optimizer, c.tune is None) for c in p.optimizers] == [("auto", True), ("MuSGD", False)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_protocols_are_sound(name):
    stem, content = load(name)
    assert stem == name
    assert parse_protocol(content).baseline == ("auto" if name == "finetune" else "SGD")


BAD = [
    ("{}", "needs data="),
    ("{data: a, seed: 3}", r"the protocol has no key 'seed'; did you mean seeds\?"),
    ("{data: a, seeds: 0}", "seeds must be a whole number >= 1, got 0"),
    ("{data: a, seeds: [1, 1]}", "different whole numbers"),
    ("{data: a, seeds: [-1]}", "seed must be a whole number >= 0 and below 2.32, got -1"),
    ("{data: a, seeds: [4294967296]}", "below 2.32, got 4294967296"),
    ("{data: a, epochs: 2.5}", "epochs must be a whole number >= 1, got 2.5"),
    ("{data: a, goal: 40}", r"goal must be a mAP in \(0, 1\), got 40"),
    ("{data: a, target: 0.4}", "target is now goal"),
    ("{data: a, metric: mAP50}", r"metric must be a column of results.csv such as metrics/mAP50\(B\), got 'mAP50'"),
    ("{data: a, optimizers: [MuSDG]}", "MuSDG.*MuSGD"),
    ("{data: a, optimizers: [{optimizer: auto, lr0: 0.1}]}", "auto picks lr0 by itself"),
    ("{data: a, optimizers: [{optimizer: auto, tune: {momentum: [0.8]}}]}", "auto picks momentum by itself"),
    ("{data: a, optimizers: [{optimizer: auto, grid: {lr0: [0.8]}}]}", "auto picks lr0 by itself"),
    ("{data: a, optimizers: []}", "at least one entry"),
    ("{data: a, optimizers: [SGD, SGD]}", "'SGD from yolo26n scratch' stands there twice"),
    ("{data: a, optimizers: [{label: x}]}", "needs optimizer: or cfg:"),
    ("{data: a, optimizers: [{cfg: nowhere.yaml}]}", "cfg=nowhere.yaml is no recipe; .*muon.yaml"),
    ("{data: a, optimizers: [{optimizer: MuSGD, adapt_faktor: 1}]}", "did you mean adapt_factor"),
    ("{data: a, optimizers: [{optimizer: MuSGD, seed: 1}]}", "seed= is not set here"),
    ("{data: a, optimizers: [{optimizer: SGD, starts: [x]}]}", "starts has 'x', the protocol has yolo26n scratch"),
    ("{data: a, optimizers: [{optimizer: SGD, epochs: 3, epochs_share: 0.5}]}", "exclude each other"),
    ("{data: a, optimizers: [{optimizer: SGD, epochs_share: -1}]}", r"epochs_share must be in \(0, 10\], got -1"),
    ("{data: a, baseline: Lion}", "baseline=Lion is none of the optimizers SGD, MuSGD"),
    ("{data: [a, a]}", "'a' stands there twice"),
    ("{data: a, tune: {lr0: [0.1], seed: 1}}", "seed=1 is one of the evaluation seeds 0, 1, 2"),
    ("{data: a, tune: {lr: [0.1]}}", "tune has no key 'lr'; did you mean lrf"),
    ("{data: a, tune: [0.1]}", "tune must be a mapping"),
    ("{data: a, tune: {lr0: {low: 1, high: 0.1}}}", "must run from low < high"),
    ("{data: a, tune: {trials: 3}}", "at least one setting"),
    ("{data: a, optimizers: [SGD, {optimizer: Lion, tune: {lr0: [1, 2]}}], tune: {lr0: [1]}}", "SGD: 1, Lion: 2"),
    ("{data: a, optimizers: [{optimizer: SGD, lr0: 0.1}], tune: {lr0: [1]}}", "lr0 is set to 0.1 and searched too"),
    ("{data: a, grid: {lr0: [1], momentum: [1], box: [1]}}", "grid takes one or two settings"),
    ("{data: a, train: {cfg: a.yaml}}", "train: cfg= is not set here"),
    ("{data: a, train: [1]}", "train must be a mapping"),
    ("{data: a, starts: [{label: x}]}", "needs model:"),
    ("{data: a, starts: [{label: x, model: m.pt, data: [b]}]}", "start x: data has 'b', the protocol has a"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[t for t, _ in BAD])
def test_bad_protocols(text, message):
    with pytest.raises(UserError, match=message) as error:
        protocol(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b", "must hold key: value lines"), ("a: [", "is not YAML"), (None, "is no protocol; .*quick")],
)
def test_files_that_are_no_protocol(tmp_path, content, message):
    file = tmp_path / "p.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load(str(file))
