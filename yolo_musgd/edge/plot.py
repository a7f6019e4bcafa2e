"""The benchmark's picture: latency over time with its percentiles, power, temperature and memory under it."""

import io
from typing import Any, Dict, List, Tuple

from .files import write_whole
from .text import plot_text

# The style of yolo_musgd.tables, which a board does not have.
BLUE, ORANGE, GREEN, PURPLE, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#1f2430"
STYLE: Dict[str, Any] = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
)
STYLE.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def plot_bench(content: Dict[str, Any], path: str) -> bool:
    """Draw latency over time with its percentiles, power and temperature under it; False without matplotlib or runs.

    Raises:
        UserError: The picture cannot be written.
    """
    if not content["runs"]:
        return False
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except Exception:  # absent or broken: the report does without
        return False
    run = min(content["runs"], key=lambda item: (item["latency_ms"]["total"] or item["latency_ms"]["infer"])["p50"])
    with pyplot.rc_context(STYLE):
        encoded = _drawn(pyplot, content, run)
    write_whole(path, encoded.getvalue())
    return True


def _drawn(pyplot: Any, content: Dict[str, Any], run: Dict[str, Any]) -> io.BytesIO:
    """The picture as PNG: each frame over time and how often each latency was, what else was measured under it."""
    panels, absent = _panels(run)
    heights = [3.2] + [1.0] * len(panels)
    figure, grid = pyplot.subplots(
        len(heights), 2, sharex="col", squeeze=False, figsize=(10, 1.6 * sum(heights) + 0.9),
        gridspec_kw={"height_ratios": heights, "width_ratios": [4, 1]},
    )  # fmt: skip
    axes = grid[:, 0]
    for empty in grid[1:, 1]:
        empty.remove()
    _draw_latency(axes[0], run)
    _draw_distribution(grid[0, 1], axes[0], run)
    for axis, (name, points, colour) in zip(axes[1:], panels):
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        mark = "o" if len(points) == 1 else ""  # a line needs two
        axis.plot([t for t, _ in points], [v for _, v in points], mark + "-", color=colour, linewidth=1.2)
        top, bottom = max(v for _, v in points), min(v for _, v in points)
        axis.set_ylim(bottom - 0.25 * (top - bottom) - 0.02 * top, top + 0.25 * (top - bottom) + 0.02 * top)
    note = " ({} on this machine)".format(", ".join(absent)) if absent else ""
    axes[-1].set_xlabel("seconds since the first timed frame" + note)
    figure.suptitle(plot_text(_title(content, run)), fontsize=11, x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    encoded = io.BytesIO()
    figure.savefig(encoded, dpi=110, format="png")
    pyplot.close(figure)
    return encoded


def _panels(run: Dict[str, Any]) -> Tuple[List[Any], List[str]]:
    """Return (name, points, colour) of what was measured beside latency, and the words for what was not."""
    watts, heat = run["power"]["series"], run["watch"]["series"]
    out, absent = [], []
    for name, times, values, colour, words in (
        ("power, W", watts["t_s"], watts["watts"], PURPLE, "no power sensor"),
        ("hottest, °C", heat["t_s"], heat["hottest_c"], ORANGE, "no temperature sensor"),
        ("memory, MiB", heat["t_s"], heat["rss_mb"], GREEN, "memory not known"),
    ):
        points = [(t, v) for t, v in zip(times, values) if v is not None]
        if points:
            out.append((name, points, colour))
        else:
            absent.append(words)
    return out, absent


def _title(content: Dict[str, Any], run: Dict[str, Any]) -> str:
    model = content["model"]
    words = [model["file"], "{}x{}".format(model["imgsz"][1], model["imgsz"][0]), model["precision"] or ""]
    words += [
        run["runtime"]["name"],
        "{} threads".format(run["runtime"]["threads"]) if run["runtime"]["threads"] else "",
    ]
    where = content["label"] or content["board"]["board"] or "this machine"
    marks = (" [PARTIAL]" if content["partial"] else "") + (" [THROTTLED]" if run["throttled"] else "")
    return "{} on {}: {:.1f} FPS{}".format(
        " ".join(word for word in words if word), where, run["fps"]["end_to_end"] or run["fps"]["inference_only"], marks
    )


def _draw_latency(axis: Any, run: Dict[str, Any]) -> None:
    """Plot every frame's latency; a logarithmic axis when the worst frame is far above the rest."""
    step = run["latency_ms"]["total"] or run["latency_ms"]["infer"]
    series = run["series"]
    values = series["total_ms"] or series["infer_ms"]
    size = 2.5 if len(values) > 500 else 6
    axis.plot(series["t_s"], values, ".", markersize=size, alpha=0.45, color=BLUE, label="one frame")
    for key, colour in (("p50", INK), ("p95", ORANGE), ("p99", PURPLE)):
        axis.axhline(step[key], color=colour, linewidth=1.1, label="{} {:.1f} ms".format(key, step[key]))
    axis.plot([], [], " ", label="max {:.1f} ms".format(step["max"]))
    if step["max"] > 4 * step["p50"]:
        axis.set_yscale("log")
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks(lambda value, _: "{:g}".format(value))
    axis.set_ylabel("latency, ms" + (" (pre + infer + post)" if run["latency_ms"]["total"] else " (inference)"))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=5, fontsize=8, borderaxespad=0.2)


def _draw_distribution(axis: Any, beside: Any, run: Dict[str, Any]) -> None:
    """Plot how many of the frames took how long, on the latency axis of the panel beside it."""
    values = run["series"]["total_ms"] or run["series"]["infer_ms"]
    low, high = min(values), max(max(values), min(values) * 1.001)
    count = max(8, min(40, len(values) // 4))
    if beside.get_yscale() == "log":
        edges = [low * (high / low) ** (k / count) for k in range(count + 1)]
        axis.set_yscale("log")
    else:
        edges = [low + (high - low) * k / count for k in range(count + 1)]
    axis.hist(values, bins=edges, orientation="horizontal", color=BLUE, alpha=0.7)
    axis.set_ylim(beside.get_ylim())
    axis.tick_params(labelleft=False, labelbottom=True, which="both")
    axis.set_xlabel("frames")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
