"""``yolo-musgd demo``: the two demonstrations of the article "Depth and breadth of optimization", measured and drawn.

1. Newton-Schulz against the exact SVD on a 256x1024 Gaussian matrix, step by step.
2. A 2-16-1 network on correlated inputs: SGD against Muon on the hidden weight with SGD on the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.result import Result
from yolo_musgd.lab.settings import DemoSettings
from yolo_musgd.optim.muon import MuonSGD
from yolo_musgd.optim.orthogonalize import Kernel, orthogonalize
from yolo_musgd.optim.settings import MuonSettings
from yolo_musgd.places import check_place, make_place
from yolo_musgd.resources import FIRST_COMMAND
from yolo_musgd.settings import parse
from yolo_musgd.tables import markdown_table, plot_style, write_png


@dataclasses.dataclass(frozen=True)
class Closeness:
    """How close an orthogonalisation comes to the exact U V^T.

    ``frobenius`` is the norm of the difference, ``cosine`` the similarity of both as vectors; ``lowest``, ``highest``
    and ``mean`` describe the singular values, which are 1 for the exact one.
    """

    method: str
    steps: int
    precision: str
    frobenius: float
    cosine: float
    lowest: float
    highest: float
    mean: float


def newton_schulz_table(seed: int = 42, rows: int = 256, columns: int = 1024) -> list[Closeness]:
    """Closeness of the iterations to the SVD on a Gaussian matrix; the article has the row of three quintic steps."""
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    exact = orthogonalize(matrix, "svd")
    cases = [("quintic", steps) for steps in range(1, 6)] + [("polar-express", 5), ("cubic", 5), ("cubic", 10)]
    table = []
    for method, steps in cases:
        for dtype in (torch.float32, torch.bfloat16):
            found = orthogonalize(matrix, method, steps, Kernel(dtype))
            table.append(_closeness(method, steps, str(dtype).removeprefix("torch."), found, exact))
    return table


def _closeness(method: str, steps: int, precision: str, found: Tensor, exact: Tensor) -> Closeness:
    values = torch.linalg.svdvals(found)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    figures = ((found - exact).norm(), cosine, values.min(), values.max(), values.mean())
    return Closeness(method, steps, precision, *map(float, figures))


def correlated_data(seed: int, samples: int = 512) -> tuple[Tensor, Tensor]:
    """Inputs (samples, 2) with x2 = 0.8 x1 + noise, and a smooth target (samples, 1).

    The article gives the inputs' correlation and not the target; this one is sin(x1) + x1 x2 / 2.
    """
    random = torch.Generator().manual_seed(seed)
    x1 = torch.randn(samples, generator=random)
    x2 = 0.8 * x1 + 0.2 * torch.randn(samples, generator=random)
    return torch.stack([x1, x2], 1), (torch.sin(x1) + 0.5 * x1 * x2)[:, None]


def loss_curves(seed: int = 42, steps: int = 200) -> dict[str, list[float]]:
    """Full-batch mean squared error before each step, for both optimizers from the same weights.

    SGD has lr 0.01 and momentum 0.9; the hybrid uses Muon with lr 0.05 on the hidden weight and that SGD on the rest.
    """
    x, y = correlated_data(seed)

    def sgd(model: nn.Sequential) -> list[Optimizer]:
        return [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)]

    def hybrid(model: nn.Sequential) -> list[Optimizer]:
        settings = MuonSettings(muon_scale="keller", muon_lr=5.0, muon_momentum=0.9)
        out = list(model[2].parameters())
        return [MuonSGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=False, muon=settings, exclude=out)]

    builders: dict[str, Callable[[nn.Sequential], list[Optimizer]]] = {"SGD": sgd, "Muon + SGD": hybrid}
    curves = {}
    for name, build in builders.items():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizers = build(model)
        curves[name] = [_train_step(model, optimizers, x, y) for _ in range(steps)]
    return curves


def _train_step(model: nn.Module, optimizers: Sequence[Optimizer], x: Tensor, y: Tensor) -> float:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def to_markdown(table: Sequence[Closeness], curves: Mapping[str, Sequence[float]]) -> str:
    """Both demonstrations as text."""
    header = ["method", "steps", "precision", "Frobenius difference", "cosine", "singular values", "mean"]
    rows = [
        [r.method, r.steps, r.precision, f"{r.frobenius:.3f}", f"{r.cosine:.4f}", f"{r.lowest:.3f} .. {r.highest:.3f}",
         f"{r.mean:.3f}"]
        for r in table
    ]  # fmt: skip
    losses = [[name, f"{c[0]:.5f}", f"{c[len(c) // 2]:.5f}", f"{c[-1]:.6f}"] for name, c in curves.items()]
    return (
        "Newton-Schulz against the SVD (256x1024 Gaussian matrix):\n\n"
        f"{markdown_table(header, rows, 'lrlrrlr')}\n\n"
        "A 2-16-1 network on correlated inputs, mean squared error:\n\n"
        f"{markdown_table(['optimizer', 'first step', 'half way', 'last step'], losses, 'lr')}\n"
    )


def draw(table: Sequence[Closeness], curves: Mapping[str, Sequence[float]], folder: Path) -> list[Path]:
    """Pictures of both demonstrations; returns their paths."""
    from matplotlib.figure import Figure

    def axes(title: str, x: str, y: str) -> tuple[Any, Any]:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axis = figure.add_subplot(title=title, xlabel=x, ylabel=y)
        return figure, axis

    rows = [r for r in table if r.method == "quintic" and r.precision == "float32"]
    last = rows[-1]
    figure, axis = axes(
        f"{last.steps} quintic steps bring every singular value into {last.lowest:.2f} to {last.highest:.2f}",
        "Newton-Schulz steps on a 256x1024 Gaussian matrix", "singular values",
    )  # fmt: skip
    axis.fill_between([r.steps for r in rows], [r.lowest for r in rows], [r.highest for r in rows], alpha=0.3)
    axis.plot([r.steps for r in rows], [r.mean for r in rows], marker="o", label="mean")
    axis.axhline(1.0, color="grey", linestyle=":", label="exact")
    axis.set_xticks([r.steps for r in rows])
    axis.legend()
    write_png(figure, folder / "newton_schulz.png", dpi=150)

    figure, axis = axes(
        ", ".join(f"{name} ends at {curve[-1]:.2g}" for name, curve in curves.items()),
        "step (2-16-1 network on correlated inputs)", "mean squared error",
    )  # fmt: skip
    for name, curve in curves.items():
        axis.plot(curve, label=name)
    axis.set_yscale("log")
    axis.legend()
    write_png(figure, folder / "loss.png", dpi=150)
    return [folder / "newton_schulz.png", folder / "loss.png"]


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Returns:
        what was found. The tables are printed and written to ``demo.json`` and ``demo.md``, the pictures beside them.

    Raises:
        SettingsError: unknown argument, or a value out of range.
    """
    settings = parse(DemoSettings, args)
    check_place(settings)
    table = newton_schulz_table(settings.seed)
    curves = loss_curves(settings.seed, settings.steps)
    text = to_markdown(table, curves)
    print(text)
    folder = make_place(settings)
    record = {"settings": settings.to_dict(), "table": [dataclasses.asdict(r) for r in table], "loss": curves}
    write_whole(str(folder / "demo.json"), json.dumps(record, indent=2) + "\n")
    write_whole(str(folder / "demo.md"), text)
    if settings.pictures:
        with plot_style():
            draw(table, curves, folder)
    five = next(r for r in table if (r.method, r.steps, r.precision) == ("quintic", 5, "float32"))
    last = {name: curve[-1] for name, curve in curves.items()}
    lower = min(last, key=lambda name: last[name])
    said = (
        f"five quintic steps bring every singular value into {five.lowest:.2f} to {five.highest:.2f} (exact: 1); "
        f"{lower} ends at the lower loss, {last[lower]:.2g}"
    )
    files = {file.name: str(file) for file in sorted(folder.iterdir())}
    return Result("demo", said, str(folder), files, {"loss": last, "cosine": five.cosine}, FIRST_COMMAND)
