"""The recipes of CONTRIBUTING.md work as they are written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import Step, follow, recipes

ROOT = Path(__file__).resolve().parents[2]
RECIPES = recipes((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_steps_are_found_and_followed(tmp_path: Path) -> None:
    page = "### One\n1. a\n\n    <!-- file a.py -->\n    ```python\n    x = 1\n\n    y = 2\n    ```\n"
    page += "<!-- after a.py: x = 1 -->\n```python\nz = 3\n```\n<!-- run -->\n```bash\nls\n```\n### Two\nwords\n"
    file, after, run = recipes(page)["One"]
    assert file == Step("file", "a.py", "", "x = 1\n\ny = 2\n")
    assert run == Step("run", "", "", "ls\n")
    assert set(recipes(page)) == {"One"}
    (tmp_path / "b.py").touch()
    follow(Step("file", "a.py", "", "\n" + file.text), tmp_path)
    follow(after, tmp_path)
    assert (tmp_path / "a.py").read_text() == "\nx = 1\nz = 3\n\ny = 2\n"
    with pytest.raises(ValueError, match="exists already"):
        follow(file, tmp_path)
    with pytest.raises(ValueError, match="0 lines that begin with 'w = 1'"):
        follow(after._replace(line="w = 1"), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_works_as_written(name: str, tmp_path: Path) -> None:
    """In a copy of the repository, whose code comes first on the path: of new interpreters, since it changes."""
    copy = tmp_path / "copy"
    cached = shutil.ignore_patterns("__pycache__")
    for part in ("yolo_musgd", "cfg", "datasets", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=cached)
    shutil.copy(ROOT / "pyproject.toml", copy)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"PYTHONPATH": str(copy), "YOLO_CONFIG_DIR": str(tmp_path / "config")}
    for step in RECIPES[name]:
        if step.what != "run":
            follow(step, copy)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.text], env=environment, cwd=copy, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{step.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for words in (["check", "-q"], ["format", "-q", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=copy, env=environment, check=True, timeout=60)
