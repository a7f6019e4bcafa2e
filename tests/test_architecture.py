"""The walls of docs/architecture.md: imports run one way and in no circle, edge/ stands alone, plugin.py alone patches.

Each check is a function over a folder, so that the tests can plant a fault in a copy and see it found.
"""

import ast
import shutil
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import yolo_musgd

PACKAGE = Path(yolo_musgd.__file__).parent
BASE = {"settings", "places", "resources", "tables", "edge"}
TRAINING = BASE | {"host", "optim", "train", "data"}
ALLOWED = {
    "__init__": {"api", "edge", "optim", "plugin", "train", "trainers"},
    "_autoload": {"plugin"},
    "edge": set(),
    "host": set(),
    "resources": {"edge"},
    "places": {"edge"},
    "settings": {"edge", "places", "resources"},
    "tables": {"edge"},
    "data": BASE | {"host"},
    "optim": BASE,
    "train": BASE | {"host", "optim"},
    "plugin": BASE | {"train"},
    "trainers": {"plugin", "train"},
    "doctor": {"__init__", "_autoload", "edge", "optim", "plugin", "resources", "train"},
    "export": BASE | {"__init__", "data", "host"},
    "lab": TRAINING | {"plugin", "trainers", "__init__"},
    "federated": TRAINING | {"plugin", "trainers", "__init__"},
    "prune": TRAINING | {"plugin", "trainers", "export", "__init__"},
    "pipeline": TRAINING | {"plugin", "export", "lab", "prune", "__init__"},
    "commands": BASE | {"__init__"},
    "completion": BASE | {"commands"},
    "cli": BASE | {"__init__", "commands", "completion"},
    "__main__": {"cli"},
    "api": BASE | {"commands"},
}
"""Room (top-level module or package) -> rooms it may import beside itself. What commands runs it loads by name."""


def imports(package):
    """File -> files of the package that it imports, anywhere in it; packages stand for their ``__init__.py``."""
    files = {p.relative_to(package): p for p in sorted(package.rglob("*.py"))}
    modules = {p.with_suffix("").parts: p for p in files} | {p.parent.parts: p for p in files if p.stem == "__init__"}

    def target(parts, name):
        return modules.get((*parts, name)) or modules.get(parts)

    graph = {}
    for relative, path in files.items():
        graph[relative] = found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [a.name.split(".") for a in node.names]
                found |= {target(tuple(n[1:-1]), n[-1]) for n in names if n[0] == "yolo_musgd" and len(n) > 1}
            elif isinstance(node, ast.ImportFrom) and node.level:
                home = relative.parent.parts[: len(relative.parent.parts) - node.level + 1]
                home += tuple((node.module or "").split(".")) if node.module else ()
                found |= {target(home, a.name) for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "yolo_musgd":
                found |= {target(tuple(node.module.split(".")[1:]), a.name) for a in node.names}
        found -= {relative, None}
    return graph


def room_of(path):
    return path.parts[0] if len(path.parts) > 1 else path.stem


def circle(package):
    """Files that import each other in a circle, or None."""
    try:
        TopologicalSorter(imports(package)).prepare()
    except CycleError as error:
        return [p.as_posix() for p in error.args[1]]
    return None


def trespasses(package):
    """(file, room) for every import of a room that the file's own room may not use."""
    return [
        (path.as_posix(), room_of(to))
        for path, found in imports(package).items()
        for to in found
        if room_of(to) not in ALLOWED[room_of(path)] | {room_of(path)}
    ]


SHARED_NAMES = {
    "__init__": "Python's own",
    "__main__": "Python's own",
    "settings": "of each package, and the machinery",
    "command": "main() of each package's command",
    "base": "what a package's plug-ins share",
    "doctor": "of the package and of the board",
    "coco": "written on the PC, read on the board",
}
"""Module names that stand in more than one folder, each with the convention that it is."""


def repeated(package):
    """Public classes and module names that stand in more than one place."""
    classes, modules = Counter(), Counter()
    for path in package.rglob("*.py"):
        modules[path.stem] += 1
        names = (n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef))
        classes.update(name for name in names if not name.startswith("_"))
    return {n for n, c in classes.items() if c > 1}, {n for n, c in modules.items() if c > 1 and n not in SHARED_NAMES}


HOST = ("ultralytics", "DEFAULT_CFG")


def touches(path):
    """Lines on which a file assigns to, deletes from or calls ``setattr`` on something of Ultralytics."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ultralytics"):
            names |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.startswith("ultralytics")}
        elif (
            isinstance(node, ast.Assign) and "ultralytics" in ast.unparse(node.value) and "import" in ast.unparse(node)
        ):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}  # import_module("ultralytics...")

    def of_host(node):
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        return isinstance(node, ast.Name) and (node.id in names or node.id in HOST)

    for node in ast.walk(tree):
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        written = isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)) and any(
            isinstance(t, (ast.Attribute, ast.Subscript)) and of_host(t) for t in targets
        )
        called = (
            isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr") and of_host(node.args[0])
        )
        if written or called:
            yield node.lineno


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_walls():
    assert {room_of(p.relative_to(PACKAGE)) for p in FILES} == set(ALLOWED)


def test_no_file_imports_itself_by_way_of_others():
    assert circle(PACKAGE) is None


def test_a_name_means_one_thing():
    assert repeated(PACKAGE) == (set(), set())


def test_imports_run_one_way():
    assert trespasses(PACKAGE) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_the_plugin_writes_to_ultralytics(path):
    """A touch anywhere else would be one that nothing undoes."""
    if path.name != "plugin.py":
        assert list(touches(path)) == []


def test_the_plugin_and_its_start_watch_the_same_modules():
    from yolo_musgd import _autoload, plugin

    assert _autoload.TARGETS == plugin.TARGETS


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(PACKAGE, tmp_path / "yolo_musgd", ignore=shutil.ignore_patterns("cfg", "datasets")))


def plant(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("optim/kernels.py", "from yolo_musgd.optim.muon import MuonSGD\n"),
        ("edge/stats.py", "def late():\n    from .measure import measure\n"),
        ("edge/runtimes/base.py", "from .open import open_runtime\n"),
        ("settings.py", "import yolo_musgd.train.settings\n"),
    ],
)
def test_a_planted_circle_is_found(copy, file, line):
    plant(copy / file, line)
    assert file in circle(copy)


def test_a_planted_namesake_is_found(copy):
    plant(copy / "lab" / "arms.py", "class RunSpec:\n    pass\n")
    (copy / "lab" / "targets.py").write_text("")
    assert repeated(copy) == ({"RunSpec"}, {"targets"})


@pytest.mark.parametrize(
    ("file", "line", "room"),
    [
        ("edge/stats.py", "from yolo_musgd.settings import Settings\n", "settings"),
        ("edge/power/base.py", "from ...settings import Settings\n", "settings"),
        ("export/guard.py", "import yolo_musgd.cli\n", "cli"),
        ("optim/muon.py", "def late():\n    from yolo_musgd.train import trainer\n", "train"),
    ],
)
def test_a_planted_trespass_is_found(copy, file, line, room):
    plant(copy / file, line)
    assert (file, room) in trespasses(copy)


@pytest.mark.parametrize(
    "lines",
    [
        "import ultralytics\nultralytics.x = 1\n",
        "from ultralytics.utils import DEFAULT_CFG\nsetattr(DEFAULT_CFG, 'x', 1)\n",
        "from ultralytics.cfg import DEFAULT_CFG_DICT as known\nknown['x'] = 1\n",
        "from ultralytics.engine.model import Model\nModel.train = None\n",
        "from importlib import import_module\nm = import_module('ultralytics.nn.tasks')\nm.BaseModel.load = None\n",
        "import ultralytics.utils as u\ndel u.LOGGER\n",
    ],
)
def test_a_planted_patch_is_found(tmp_path, lines):
    file = tmp_path / "somewhere.py"
    file.write_text(lines)
    assert list(touches(file))
