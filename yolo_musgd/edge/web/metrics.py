"""The status in Prometheus' text format, version 0.0.4."""

from typing import Any, Dict, Iterable, List, Tuple

TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _label(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, kind: str, words: str, samples: Iterable[Tuple[Dict[str, Any], Any]]) -> List[str]:
    lines = []
    for labels, value in samples:
        if value is None:  # not measured: no sample
            continue
        inside = ",".join('{}="{}"'.format(key, _label(text)) for key, text in labels.items())
        lines.append("{}{} {:.12g}".format(name, "{" + inside + "}" if inside else "", float(value)))
    return ["# HELP {} {}".format(name, words), "# TYPE {} {}".format(name, kind)] + lines if lines else []


def text(status: Dict[str, Any]) -> str:
    """Return every figure of the status; what was not measured is left out."""
    counts = {}  # type: Dict[str, int]
    for found in status.get("detections", ()):
        counts[found["name"]] = counts.get(found["name"], 0) + 1
    latency = status.get("latency_ms") or {}
    seconds = [({"quantile": q}, latency[key] / 1e3) for q, key in (("0.5", "p50"), ("0.99", "p99")) if key in latency]
    one = {}  # type: Dict[str, Any]
    throttled = status.get("throttled")
    families = (
        ("edge_info", "gauge", "Model and runtime.", [({k: status.get(k) for k in ("model", "runtime")}, 1)]),
        ("edge_frames_total", "counter", "Frames detected on.", [(one, status.get("frames"))]),
        ("edge_frames_dropped_total", "counter", "Frames that a newer one replaced.", [(one, status.get("dropped"))]),
        ("edge_source_lost_total", "counter", "Times the camera was lost.", [(one, status.get("lost"))]),
        ("edge_source_up", "gauge", "Whether frames come.", [(one, status.get("waiting") is None)]),
        ("edge_fps", "gauge", "Frames a second, end to end.", [(one, status.get("fps"))]),
        ("edge_latency_seconds", "gauge", "Time of a frame, of the last thousand.", seconds),
        ("edge_power_watts", "gauge", "Power by the board's sensor.", [(one, status.get("power_w"))]),
        (
            "edge_power_rail_watts",
            "gauge",
            "Power by rail; rails may contain one another.",
            [({"rail": rail}, value) for rail, value in (status.get("power_rails_w") or {}).items()],
        ),
        (
            "edge_temperature_celsius",
            "gauge",
            "Temperature by zone.",
            [({"zone": zone}, value) for zone, value in (status.get("temperatures_c") or {}).items()],
        ),
        (
            "edge_throttled",
            "gauge",
            "Whether the board throttles.",
            [(one, None if throttled is None else bool(throttled))],
        ),
        ("edge_conf", "gauge", "Lowest score that is kept.", [(one, status.get("conf"))]),
        ("edge_viewers", "gauge", "Clients that look at the stream.", [(one, status.get("viewers"))]),
        ("edge_detections", "gauge", "Objects in the last frame.", [({"class": k}, v) for k, v in counts.items()]),
    )  # type: Any
    return "\n".join(line for family in families for line in _family(*family)) + "\n"
