"""What a release promises: imports that ask nobody, a licence list and a changelog that keep up."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import yolo_musgd

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML; the other tests of a release run on 3.11")
ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = textwrap.dedent(
    """
    import importlib, pkgutil, sys, traceback

    asked = []

    def watch(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            files = [frame.filename for frame in traceback.extract_stack()]
            if {strict} or not any("/ultralytics/" in file for file in files):
                asked.append((event, arguments[1:] or arguments, files[-8:]))
            raise OSError("no network in this test")

    sys.addaudithook(watch)
    import yolo_musgd
    count = 0
    for module in pkgutil.walk_packages(yolo_musgd.__path__, "yolo_musgd."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            if (error.name or "").startswith("yolo_musgd"):
                raise
            print("not installed here:", module.name, error.name)
        count += 1
    assert count > 40, count
    print("asked:", asked)
    """
)


@pytest.mark.parametrize("offline", [True, False])
def test_no_module_opens_a_connection_when_it_is_imported(run, offline):
    """Ultralytics looks whether it is online when it is imported, unless YOLO_OFFLINE is set: that one is its own."""
    env = {"YOLO_OFFLINE": "true" if offline else "false", "YOLO_MUSGD": "1"}
    done = run("python", "-c", IMPORT_ALL.replace("{strict}", str(offline)), env=env, fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "asked: []"


def test_every_dependency_is_in_the_licence_list():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", word)[0]).lower() for word in words} - {"yolo-musgd"}
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert not {name for name in names if not re.search(rf"^\| (\*\*)?{name}(\*\*)? \|", page, re.M)}, (
        "run .ci/licences.py"
    )


def test_the_changelog_knows_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == yolo_musgd.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == yolo_musgd.__version__


def test_doctor_names_the_extra_that_has_the_package():
    from yolo_musgd.doctor import OPTIONAL

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for module, extra in OPTIONAL.items():
        names = [re.split(r"[<>=;\[ ]", line)[0].replace("-", "_") for line in extras[extra]]
        assert module in names, f"doctor sends people who lack {module} to the extra {extra}"
