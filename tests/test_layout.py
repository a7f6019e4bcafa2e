"""The tests mirror the package: a module's test file, or the one whose docstring names it, is found at once."""

import ast
import re
from itertools import product
from pathlib import Path

import yolo_musgd

PACKAGE = Path(yolo_musgd.__file__).parent
TESTS = Path(__file__).parent


def named(text):
    """Modules that a docstring names: ``open.py``, ``runtimes/{open,base}.py``."""
    for word in re.findall(r"[\w/{},]+\.py", text):
        parts = [part.split(",") for part in re.split(r"[{}]", word)]
        yield from ("".join(choice) for choice in product(*parts))


def held(tests):
    """(folder, path) of every module that a test file below ``tests`` holds; a path may lack its first folders."""
    for file in tests.rglob("test_*.py"):
        place = file.relative_to(tests)
        yield place.parts[0], place.with_name(place.name.removeprefix("test_")).as_posix()
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        yield from ((place.parts[0], name) for name in named(text))


def forgotten(package, tests):
    """Modules without a test file of their name whose folder's tests do not name them either."""
    known = set(held(tests))
    modules = [p.relative_to(package) for p in package.rglob("*.py") if p.name not in ("__init__.py", "__main__.py")]
    return {
        module.as_posix()
        for module in modules
        if not any(
            f"/{package.name}/{module.as_posix()}".endswith(f"/{name}")
            and (folder == module.parts[0] or folder.endswith(".py") or name.startswith(f"{package.name}/"))
            for folder, name in known
        )
    }


def test_every_module_has_its_test_file_or_is_named_in_one():
    assert forgotten(PACKAGE, TESTS) == set()


def test_a_module_without_tests_is_found(tmp_path):
    for file, text in (
        ("package/optim/adam.py", ""),
        ("package/optim/{lion,lamb,base}.py", ""),
        ("package/edge/base.py", ""),
        ("tests/optim/test_adam.py", '"""Adam; covers {lion,lamb}.py and optim/base.py."""'),
    ):
        for name in named(file):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    assert forgotten(tmp_path / "package", tmp_path / "tests") == {"edge/base.py"}
