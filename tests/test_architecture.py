"""Imports run one way (settings -> optim -> train -> lab, prune), and the edge package stands alone."""

import ast
from pathlib import Path

import pytest

import yolo_musgd

PACKAGE = Path(yolo_musgd.__file__).parent
BASE = {"settings", "resources", "arguments"}
ALLOWED = {
    "settings": set(),
    "resources": set(),
    "_autoload": {"plugin"},
    "arguments": {"settings"},
    "data": BASE,
    "optim": BASE,
    "plugin": BASE | {"_autoload", "train"},
    "train": BASE | {"optim", "plugin"},
    "lab": BASE | {"optim", "train", "plugin", "edge"},
    "prune": BASE | {"optim", "train", "edge", "export", "plugin"},
    "export": BASE | {"edge"},
    "pipeline": BASE | {"edge", "export", "lab", "train", "plugin", "cli"},
    "edge": {"edge"},
}
"""Part -> parts it may import beside itself; a part that is not named is a command and may import everything."""


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """Parts of this package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "yolo_musgd" and len(parts) > 1 and not parts[1].startswith("__"):
                yield parts[1]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    part = part_of(path)
    if part not in ALLOWED:
        pytest.skip("a command, which may import everything")
    assert set(imports(path)) - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_the_plugin_writes_to_ultralytics(path):
    """`setattr(ultralytics...)` or `ultralytics.x = ...` anywhere else would be a touch that nothing undoes."""
    if path.name == "plugin.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            text = ast.unparse(target)
            assert not text.startswith(("ultralytics.", "DEFAULT_CFG")), f"{path.name}: {text}"
