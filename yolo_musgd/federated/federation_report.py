"""The report of a federation: its rounds, its traffic, and what it was compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_musgd import __version__
from yolo_musgd.edge.files import write_whole
from yolo_musgd.federated.history import Progress
from yolo_musgd.federated.judge import MAIN, score
from yolo_musgd.federated.settings import FederateSettings
from yolo_musgd.tables import markdown_table, one_line, plot_style

_M50 = "metrics/mAP50(B)"


def write_report(
    folder: Path, settings: FederateSettings, arguments: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write report.md, report.json and rounds.png.

    Returns:
        What -> path, and what report.json holds.
    """
    progress = Progress(folder)
    progress.write_table()  # an interruption may have come between a round and its row
    picture = folder / "rounds.png"
    draw(progress, picture)
    facts = {
        "settings": settings.to_dict(), "train": dict(arguments), "rounds": [_known(row) for row in progress.rows],
        "left_out": progress.left_out, "baselines": progress.baselines, "version": __version__,
    }  # fmt: skip
    write_whole(str(folder / "report.json"), json.dumps(facts, indent=1, default=str) + "\n")
    write_whole(str(folder / "report.md"), text(progress, settings, arguments))
    names = {"report": "report.md", "figures": "report.json", "picture": picture.name, "table": "results.csv"}
    files = {what: str(folder / name) for what, name in names.items()}
    return {**files, "weights": str(folder / "weights" / "best.pt")}, facts


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """A round with None for what is not a number, for which JSON has no word."""
    return {key: None if value != value else value for key, value in row.items()}


def text(progress: Progress, settings: FederateSettings, arguments: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    last, best = progress.rows[-1], max(progress.rows, key=score)
    down, up = (sum(row[key] for row in progress.rows) for key in ("bytes_down", "bytes_up"))
    judge = "the server's val split" if settings.share == "all" else "the clients' val splits, each with its own parts"
    lines = [
        f"# Federation {one_line(settings.name)}",
        "",
        f"- {settings.clients} clients ({settings.split}), {len(progress.rows)} rounds of {settings.local_epochs} "
        f"epochs, {settings.optimizer}, {settings.strategy}, share={settings.share}, compress={settings.compress}",
        f"- mAP50-95 {last[MAIN]:.4f} after the last round, {best[MAIN]:.4f} at best (round {best['round']}), "
        f"on {judge}",
        f"- {down / 1e6:.2f} MB to the clients, {up / 1e6:.2f} MB back: the arrays alone, without Flower's envelopes",
        f"- averaged: {'the moving average (EMA)' if settings.average == 'ema' else 'the last weights'} "
        f"of each client and BatchNorm's statistics, by number of images; the optimizer's state "
        f"{'stays with the client' if settings.optimizer_state == 'keep' else 'begins anew in each round'}",
    ]
    if progress.left_out:
        rows = [(entry["round"], entry["client"], entry["why"]) for entry in progress.left_out]
        lines += ["", "## Left out of a round", "", markdown_table(("round", "client", "why"), rows)]
    lines += ["", "## Beside other trainings", "", markdown_table(*_beside(progress))]
    head = ("round", "clients", "loss", "mAP50", "mAP50-95", "MB down", "MB up", "seconds")
    lines += ["", "## Rounds", "", markdown_table(head, [_row(row) for row in progress.rows])]
    lines += ["", "![mAP50-95 by round](rounds.png)", ""]
    given = ", ".join(f"{k}={v}" for k, v in arguments.items())
    return "\n".join(
        [*lines, f"Arguments of training: {one_line(given) or 'defaults'}. Written by yolo-musgd {__version__}.", ""]
    )


def _row(row: Mapping[str, Any]) -> Sequence[Any]:
    traffic = (f"{row[key] / 1e6:.2f}" for key in ("bytes_down", "bytes_up"))
    figures = (f"{row['train/loss']:.3f}", f"{row[_M50]:.4f}", f"{row[MAIN]:.4f}")
    return (row["round"], row["clients"], *figures, *traffic, f"{row['seconds']:.0f}")


def _beside(progress: Progress) -> tuple[Sequence[str], list[Sequence[Any]]]:
    last = progress.rows[-1]
    rows: list[Sequence[Any]] = [("the federation", f"{last[_M50]:.4f}", f"{last[MAIN]:.4f}", "")]
    for name, found in progress.baselines.items():
        rows.append((name, f"{found[_M50]:.4f}", f"{found[MAIN]:.4f}", f"{last[MAIN] - found[MAIN]:+.4f}"))
    return ("model", "mAP50", "mAP50-95", "federation minus it"), rows


def draw(progress: Progress, file: Path) -> None:
    """mAP50-95 by round, with the trainings beside it as lines."""
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [row["round"] for row in progress.rows],
            [row[MAIN] for row in progress.rows],
            marker="o",
            label="federation",
        )
        for number, (name, found) in enumerate(progress.baselines.items(), 1):
            axes.axhline(found[MAIN], color=f"C{number % 8}", linestyle="--", linewidth=1, label=name)
        axes.set(xlabel="round", ylabel="mAP50-95", title="The global model on the val split")
        axes.legend()
        figure.savefig(file, dpi=120)
