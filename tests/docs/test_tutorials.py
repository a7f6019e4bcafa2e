"""The tutorials run as they are written, and the site is built without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tutorials import Block, blocks, shorten

from yolo_musgd.data.shapes import generate

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs" / "tutorials").glob("*.md")), ROOT / "docs" / "federated.md"]
NEEDS = {"federated": ("flwr", "ray")}  # packages of an extra that the gate does not install


def test_blocks_are_found_and_shortened() -> None:
    page = "a\n<!-- run n=2 -->\n```bash\nbench n=100 min=3\n```\n"
    page += "```bash\nnot run\n```\n<!-- run -->\n```python\nx = 1\n```\n"
    assert blocks(page) == [Block("bash", "bench n=2 min=3\n", 4), Block("python", "x = 1\n", 11)]
    assert shorten("train(epochs=3, imgsz=128)", ["epochs=1"]) == "train(epochs=1, imgsz=128)"
    assert shorten("a b x=1\nls\na b\na b y=2\n", ["x=3", "+z=4"]) == "a b x=3 z=4\nls\na b\na b y=2 z=4\n"
    with pytest.raises(ValueError, match="epochs= is not in the block"):
        shorten("train()", ["epochs=1"])


FULL = os.environ.get("YOLO_MUSGD_DOCS") == "full"


@pytest.mark.slow
@pytest.mark.timeout(36000 if FULL else 1500)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial_runs_as_written(page: Path, tmp_path: Path, programs: Path) -> None:
    """The blocks of a page, one after another in one folder, by this environment's commands."""
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package, reason=f"pip install '.[{page.stem}]' to run {page.name}")
    found = blocks(page.read_text(encoding="utf-8"))
    assert found
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
    environment["YOLO_CONFIG_DIR"] = str(tmp_path / "config")
    subprocess.run(
        [programs / "yolo", "settings", f"datasets_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}"],
        env=environment, cwd=tmp_path, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    if not FULL:  # fewer pictures where shapes.yaml would draw 480
        generate(tmp_path / "data" / "yolo-musgd-shapes", {"train": 32, "val": 16, "test": 4}, size=64)
    for block in found:
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [str(programs / "python"), "-c"]
        done = subprocess.run(
            [*program, block.code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=3600 if FULL else 500,
        )  # fmt: skip
        where = f"{page.name}:{block.line}"
        assert done.returncode == 0, f"{where}\n{block.code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml without its Python tags."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = str(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if page not in nav]


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the documentation's packages: pip install '.[docs]'")
    pytest.importorskip("material", reason="the documentation's packages: pip install '.[docs]'")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "compare-bench" in text
