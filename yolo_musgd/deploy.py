"""Export and bundle in one go; the scripts in ``export/`` are this with a board's name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from yolo_musgd.arguments import parse
from yolo_musgd.bundle import make_archive, make_bundle
from yolo_musgd.cli import exit_code, help_of, parse_pairs
from yolo_musgd.edge.errors import EdgeError
from yolo_musgd.export.command import export_model
from yolo_musgd.export.options import ExportSettings
from yolo_musgd.settings import UserError


def deploy(target: str, words: Sequence[str]) -> list[Path]:
    """Export for ``target`` (which ``target=`` in ``words`` replaces) and pack each artifact.

    Args:
        target: board.
        words: arguments of ``yolo-musgd export``, and ``samples=``, a folder of images to take along.

    Returns:
        The archives.

    Raises:
        UserError: as the two commands.
    """
    samples = next((word.partition("=")[2] for word in words if word.startswith("samples=")), "")
    pairs = parse_pairs("export", [word for word in words if not word.startswith("samples=")])
    settings = parse(ExportSettings, {"target": target, **pairs})
    result = export_model(settings)
    print((result.folder / "report.md").read_text(encoding="utf-8"))
    archives = []
    for built in result.artifacts:
        folder = result.folder / f"edge-{settings.target}-{built.runtime}"
        try:
            for warning in make_bundle(str(built.folder), settings.target, folder, samples):
                print(f"note: {warning}", file=sys.stderr)
        except EdgeError as error:
            raise UserError(str(error)) from error
        archives.append(make_archive(folder))
    return archives


def main(target: str, words: Sequence[str]) -> int:
    """Run :func:`deploy` as a script; 0 done, 2 bad input, 130 interrupted."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"export and bundle for target={target}; samples=FOLDER takes images along\n{help_of('export')}")
        return 0

    def work() -> int:
        for archive in deploy(target, words):
            print(f"-> {archive}")
        return 0

    return exit_code(work, "error")
