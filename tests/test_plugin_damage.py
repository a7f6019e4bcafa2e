"""A half-removed package, other finders, other plugins: plain ``yolo`` always works, with one warning at most."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import yolo_musgd
from yolo_musgd import resources

pytestmark = pytest.mark.slow
PACKAGE = Path(yolo_musgd.__file__).parent
START = """
import site, sys
sys.path[:] = [{site!r}, *[p for p in sys.path if p], {packages!r}]
site.addpackage({site!r}, "yolo_musgd.pth", None)
"""


@pytest.fixture
def installed(tmp_path):
    """A folder as an installation leaves it: the package and its .pth."""
    shutil.copytree(PACKAGE, tmp_path / "yolo_musgd", ignore=shutil.ignore_patterns("__pycache__", "cfg", "datasets"))
    for name in ("cfg", "datasets"):  # a checkout has them at its top
        shutil.copytree(resources.folder(name), tmp_path / "yolo_musgd" / name)
    shutil.copy(PACKAGE.parent / "yolo_musgd.pth", tmp_path)
    (tmp_path / "libraries").mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():  # all but the package that is tested as a wheel
        if not path.name.startswith("yolo_musgd"):
            (tmp_path / "libraries" / path.name).symlink_to(path)
    return tmp_path


def python(folder, code=""):
    """Run a bare interpreter that reads the .pth of ``folder`` as it does at its start, then ``code``."""
    start = START.format(site=str(folder), packages=str(folder / "libraries"))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-S", "-B", "-c", start + code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


USE = """
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
from ultralytics.engine.model import Model
get_cfg(overrides={"epochs": 3})
print("lr0" in DEFAULT_CFG_DICT, "adapt_factor" in DEFAULT_CFG_DICT)
"""


def remove(path):
    path.unlink() if path.is_file() else shutil.rmtree(path)


def spoil(path):
    path.write_text("def (:\n")


def zero(path):
    path.write_bytes(bytes(300))


DAMAGE = [
    (remove, "plugin.py", 1),
    (spoil, "plugin.py", 1),
    (zero, "plugin.py", 1),
    (remove, "edge", 1),
    (spoil, "train/settings.py", 1),
    (spoil, "settings.py", 1),
    (remove, "_autoload.py", 0),
    (spoil, "_autoload.py", 0),
    (zero, "__init__.py", 0),
    (remove, "", 0),
]


@pytest.mark.parametrize(("harm", "file", "warnings"), DAMAGE)
def test_a_damaged_package_costs_one_warning_at_most(installed, harm, file, warnings):
    harm(installed / "yolo_musgd" / file)
    start = python(installed)
    assert (start.returncode, start.stdout, start.stderr) == (0, "", "")
    done = python(installed, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["True", "False"]
    assert done.stderr.count("yolo-musgd") == warnings, done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_trainer_the_hosts_own_trains(installed):
    remove(installed / "yolo_musgd" / "train" / "trainer.py")
    code = """
from ultralytics import YOLO
model = YOLO("yolo26n.yaml")
print("\\n", "trainers", model._smart_load("trainer").__module__, model._smart_load("trainer").__module__)
try:
    model.train(data="nowhere.yaml", epochs=1)
except Exception as error:
    print(type(error).__name__)
"""
    done = python(installed, code)
    assert done.returncode == 0, done.stderr
    assert "trainers" + " ultralytics.models.yolo.detect.train" * 2 in done.stdout
    assert done.stdout.split()[-1] != "ModuleNotFoundError"
    assert done.stderr.count("yolo-musgd steps aside") == 1


FINDER = """
import sys
from importlib.machinery import PathFinder
class Other:
    @staticmethod
    def find_spec(name, path=None, target=None):
        {body}
sys.meta_path.insert({place}, Other)
"""


@pytest.mark.parametrize(
    ("place", "body"),
    [
        (0, "return PathFinder.find_spec(name, path) if name == 'ultralytics.cfg' else None"),
        (0, "return PathFinder.find_spec(name, path) if name.startswith('ultralytics') and 'plotting' not in name "
            "else None"),
        (0, "rest = [f for f in sys.meta_path if f is not Other]\n"
            "        return next((s for f in rest if (s := f.find_spec(name, path, target))), None)"),
        (1, "print('asked', name) if name == 'ultralytics.cfg' else None"),
    ],
    ids=["takes one module", "takes nearly all", "asks the others", "stands behind ours"],
)  # fmt: skip
def test_with_another_finder_the_plugin_is_active_all_the_same(installed, place, body):
    check = "\nfrom ultralytics import YOLO\nimport yolo_musgd.plugin as p\nimport wave\nprint(p.active())"
    done = python(installed, FINDER.format(place=place, body=body) + USE + check)
    assert done.returncode == 0, done.stderr
    assert "True True" in done.stdout
    assert done.stdout.split()[-1] == "True"
    if place == 1:
        assert "asked ultralytics.cfg" in done.stdout, "a finder behind ours is asked too"


LATER = """
from ultralytics import YOLO, cfg
from ultralytics.engine.model import Model
from ultralytics.utils import checks
import yolo_musgd.plugin as plugin

plugin.unregister()
plain = Model.__dict__["train"]
plugin.register()
seen = set()

def theirs(ours):
    def patched(*args, **kwargs):
        seen.add(ours.__name__)
        return ours(*args, **kwargs)
    return patched

patched = theirs(Model._smart_load), theirs(cfg.entrypoint), theirs(checks.check_file)
Model._smart_load, cfg.entrypoint, checks.check_file = patched
cfg.CFG_FLOAT_KEYS = cfg.CFG_FLOAT_KEYS | {"their_key"}
plugin.unregister()
assert not plugin.active()
assert (Model._smart_load, cfg.entrypoint, checks.check_file) == patched
assert Model.__dict__["train"] is plain
assert "their_key" in cfg.CFG_FLOAT_KEYS
assert "adapt_factor" not in cfg.CFG_FLOAT_KEYS
assert "adapt_factor" not in cfg.DEFAULT_CFG_DICT
assert YOLO("yolo26n.yaml")._smart_load("trainer").__module__.startswith("ultralytics")
assert checks.check_file("shapes.yaml", hard=False) == [], "ours does nothing inside theirs"
assert seen == {"_smart_load", "check_file"}
plugin.register()
assert plugin.active()
assert YOLO("yolo26n.yaml")._smart_load("trainer").__module__.startswith("yolo_musgd")
"""


def test_a_later_patch_of_another_plugin_stays_and_ours_goes(installed):
    done = python(installed, LATER)
    assert done.returncode == 0, done.stderr
