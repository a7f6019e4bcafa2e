"""Summaries of timings and powers: percentiles without clipping, trapezoid energy, steadiness. Pure functions."""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

PERCENTILES = (50, 90, 95, 99)


def summarize(values: Any) -> Optional[Dict[str, Any]]:
    """Summarize ``values`` (a sequence or array, any unit); nothing is dropped or clipped.

    Percentiles interpolate linearly between order statistics (numpy's default method).

    Returns:
        ``n, mean, std, min, p50, p90, p95, p99, max`` in the unit of ``values``; None for no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return None
    out = {"n": int(data.size), "mean": float(data.mean()), "std": float(data.std()), "min": float(data.min())}
    for p, value in zip(PERCENTILES, np.percentile(data, PERCENTILES)):
        out["p{}".format(p)] = float(value)
    out["max"] = float(data.max())
    return out


def energy_joules(times: Sequence[float], watts: Sequence[float], start: float, end: float) -> Optional[float]:
    """Integrate sampled power over [start, end] by trapezoids.

    Args:
        times: Sample times in seconds, not decreasing, shape (n,).
        watts: Power at these times, shape (n,).
        start: Beginning of the window, seconds.
        end: End of the window, seconds.

    Returns:
        Joules. At the two ends power is interpolated linearly between samples, or held at the outermost sample when the
        window reaches past it. None without a sample, or for an empty window.
    """
    if len(times) == 0 or end <= start:
        return None
    t = np.asarray(times, dtype=np.float64)
    w = np.asarray(watts, dtype=np.float64)
    inside = (t > start) & (t < end)
    t_all = np.concatenate(([start], t[inside], [end]))
    w_all = np.concatenate(([np.interp(start, t, w)], w[inside], [np.interp(end, t, w)]))
    return float(np.sum((w_all[1:] + w_all[:-1]) * 0.5 * np.diff(t_all)))


def counter_joules(times: Sequence[float], joules: Sequence[float], start: float, end: float) -> Optional[float]:
    """Energy over [start, end] from a running energy counter (RAPL, NVML), in joules.

    The counter is interpolated linearly at the two ends; None unless its samples reach over the whole window.
    """
    if len(times) < 2 or end <= start or times[0] > start or times[-1] < end:
        return None
    first, last = np.interp([start, end], times, joules)
    return float(last - first)


def is_steady(times: Sequence[float], window: int = 10, tolerance: float = 0.05) -> bool:
    """Whether the medians of the last two windows of durations agree within ``tolerance`` (a fraction)."""
    if len(times) < 2 * window:
        return False
    before = float(np.median(times[-2 * window : -window]))
    after = float(np.median(times[-window:]))
    return abs(after - before) <= tolerance * after


def drift(ends: Sequence[float], values: Sequence[float], window: float = 60.0) -> Optional[Dict[str, float]]:
    """Compare the first ``window`` seconds with the last: medians and their ratio; None under two windows of data.

    Args:
        ends: Time at which each frame ended, seconds, increasing, shape (n,).
        values: A duration per frame, shape (n,).
        window: Seconds.
    """
    if len(ends) == 0 or ends[-1] - ends[0] < 2 * window:
        return None
    t = np.asarray(ends, dtype=np.float64)
    v = np.asarray(values, dtype=np.float64)
    first = float(np.median(v[t <= t[0] + window]))
    last = float(np.median(v[t >= t[-1] - window]))
    return {"window_s": window, "first_p50": first, "last_p50": last, "ratio": last / first}


def slope_per_minute(times: Sequence[float], values: Sequence[float]) -> Optional[float]:
    """Least-squares slope of ``values`` over ``times`` (seconds), per minute; None under three samples."""
    if len(times) < 3 or times[-1] <= times[0]:
        return None
    t = np.asarray(times, dtype=np.float64)
    return float(np.polyfit(t - t[0], np.asarray(values, dtype=np.float64), 1)[0] * 60.0)


def rounded(value: Any, digits: int = 4) -> Any:
    """Round every float in a nest of dicts and lists, so that reports stay readable.

    To so many places after the point; below 0.1 to so many significant ones, since a joule a frame may be thousandths.
    """
    if isinstance(value, float):
        return round(value, digits) if abs(value) >= 0.1 else float("{:.{}g}".format(value, digits))
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: List[Any] = [rounded(item, digits) for item in value]
        return items
    return value
