"""The report of a pruning run: Markdown, a picture of the layers, and one of the mAP curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from yolo_musgd.edge.files import write_whole
from yolo_musgd.tables import (
    BLUE,
    GREY,
    LIGHT,
    ORANGE,
    escape_markdown,
    markdown_table,
    plot_style,
    plot_text,
    whole_numbers,
    write_png,
)


def arm_names(record: dict[str, Any]) -> dict[str, str]:
    """What each arm is called: by what was done to the model."""
    cost, activation = record["cost"], record.get("activation")
    done = ["cut"] if cost["after"] != cost["before"] or not activation else []
    what = ", ".join([*done, activation] if activation else done)
    return {
        "base": "base, as given",
        "cut": what,
        "recalibrated": f"{what}, BatchNorm recalibrated",
        "finetune": f"{what}, fine-tuned",
        "control": "control: base, fine-tuned as long",
        "scratch": "control: narrower model from scratch",
    }


def layer_table(before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """Output channels of every convolution before and after, in the order of the model."""

    def channels(model: nn.Module) -> dict[str, int]:
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, kinds)}

    old, new = channels(before), channels(after)
    return [{"layer": name, "before": old[name], "after": new[name]} for name in old]


LAYERS = "## Layers"


def markdown(record: dict[str, Any]) -> str:
    """The report as text."""
    before, after = record["cost"]["before"], record["cost"]["after"]
    lines = [
        f"# {escape_markdown(Path(record['model']).name)}, {arm_names(record)['cut'].replace('cut', 'pruned')}",
        "",
    ]
    costs = [
        _row("GFLOPs", before["flops"] / 1e9, after["flops"] / 1e9, "{:.3f}"),
        _row("parameters (millions)", before["params"] / 1e6, after["params"] / 1e6, "{:.3f}"),
        _row("checkpoint (MB)", record["size_mb"]["before"], record["size_mb"]["after"], "{:.2f}"),
    ]
    for runtime, times in record["latency_ms"].items():
        costs.append(_row(f"{runtime}, one thread (ms of CPU, p50)", times["base"], times["pruned"], "{:.1f}"))
    header = [f"at {record['imgsz']} px, batch 1, the model that runs", "before", "after", "change"]
    lines.append(markdown_table(header, costs, "lr"))
    if record["latency_ms"]:
        lines += ["", "CPU time of models taking turns in one process: trust the change, not the milliseconds."]
    metric = "top-1" if record["task"] == "classify" else "mAP50-95"
    second = "top-5" if record["task"] == "classify" else "mAP50"
    accuracy = record["accuracy"]
    rows = [
        [name, f"{accuracy[key]['map50_95']:.4f}", f"{accuracy[key]['map50']:.4f}"]
        for key, name in arm_names(record).items()
        if key in accuracy
    ]
    lines += ["", markdown_table([f"accuracy on the {record['split']} split", metric, second], rows, "lr")]
    if record["split"] == "val" and "finetune" in record["accuracy"]:
        lines += ["", "The data set has no test split: the epoch was picked on the split that is reported here."]
    if record.get("sparsity"):
        kind, total = record["sparsity"]["kind"], record["sparsity"]["total"]
        lines += [
            "",
            f"Sparsity ({kind}): {total:.1%} of the weights are zero. No runtime here skips zeros: no speed-up.",
        ]
    lines += ["", "## Decisions", "", *(f"- {escape_markdown(line)}" for line in record["log"])]
    layers = [[x["layer"], x["before"], x["after"], f"{x['after'] / x['before']:.0%}"] for x in record["layers"]]
    lines += ["", LAYERS, "", markdown_table(["convolution", "channels before", "after", "kept"], layers, "lr")]
    return "\n".join(lines) + "\n"


def _row(name: str, before: float, after: float, form: str) -> list[str]:
    return [name, form.format(before), form.format(after), f"{after / before - 1:+.1%}"]


def write(folder: Path, record: dict[str, Any]) -> None:
    """Write ``report.md``, ``layers.png`` and, where something was trained, ``curve.png``."""
    write_whole(str(folder / "report.md"), markdown(record))
    with plot_style():
        draw_layers(folder / "layers.png", record)
        if any(record.get("curves", {}).values()):
            draw_curves(folder / "curve.png", record)


HEAD = {"cv2": "head: boxes", "cv3": "head: classes", "cv4": "head: task"}


def draw_layers(file: Path, record: dict[str, Any]) -> None:
    """A bar for every convolution of the model that runs: its channels before (grey) and after (blue)."""
    from matplotlib.figure import Figure

    names = {x["layer"] for x in record["layers"]}
    idle = {n.replace("one2one_", "") for n in names if "one2one_" in n}
    layers = [x for x in record["layers"] if x["layer"] not in idle]
    figure = Figure(figsize=(min(14.0, max(8.0, 0.15 * len(layers))), 4.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(layers))
    axes.bar(places, [x["before"] for x in layers], width=0.9, color=LIGHT, label="before")
    axes.bar(places, [x["after"] for x in layers], width=0.9, color=BLUE, label="after")
    axes.set_ylabel("output channels")
    axes.set_xlabel("convolutions in the order of the model; the numbers are Ultralytics' layers")
    blocks = [_block(x["layer"]) for x in layers]
    starts = [i for i in places if i == 0 or blocks[i] != blocks[i - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, linewidth=0.4)
    axes.set_xticks(starts, [blocks[i] for i in starts], rotation=90, fontsize=8)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    before, after = record["cost"]["before"], record["cost"]["after"]
    flops, params = after["flops"] / before["flops"] - 1, after["params"] / before["params"] - 1
    axes.set_title(plot_text(f"{Path(record['model']).name}: {flops:+.0%} FLOPs, {params:+.0%} parameters"))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    write_png(figure, file, dpi=110)


def _block(layer: str) -> str:
    """``model.22.m.0.cv1.conv`` -> ``22``; ``model.23.one2one_cv2.0.1`` in the head -> ``head: boxes``."""
    parts = layer.replace("one2one_", "").split(".")
    branch = len(parts) > 3 and parts[2].startswith("cv") and parts[3].isdigit()
    return HEAD.get(parts[2][:3], parts[2]) if branch else parts[1]


def draw_curves(file: Path, record: dict[str, Any]) -> None:
    """Draw mAP on val over the epochs of every arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    names = arm_names(record)
    colours = {"finetune": BLUE, "control": GREY, "scratch": ORANGE}
    for arm, values in record["curves"].items():
        if values:
            axes.plot(range(1, len(values) + 1), values, color=colours[arm], label=names[arm], marker="o", markersize=3)
    axes.set_xlabel("epoch")
    whole_numbers(axes.xaxis)
    axes.set_ylabel("top-1 on val" if record["task"] == "classify" else "mAP50-95 on val")
    axes.set_ylim(0, max(max(values, default=0) for values in record["curves"].values()) * 1.1 or 1)
    ends = "; ".join(f"{names[arm]}: {values[-1]:.3f}" for arm, values in record["curves"].items() if values)
    axes.set_title(plot_text(f"At the end, {ends}"))
    axes.legend(loc="lower right")
    axes.grid(axis="y", alpha=0.25)
    write_png(figure, file, dpi=110)
