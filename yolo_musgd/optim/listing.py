"""``yolo-musgd optimizers``: the registry as a table."""

from __future__ import annotations

from collections.abc import Mapping

from yolo_musgd.optim.registry import REGISTRY


def table() -> str:
    """The registry as aligned text, one optimizer a line."""
    head = ("optimizer=", "state", "lr0", "what it is", "source")
    rows = [(e.name, e.state, f"{e.lr0:g}" if e.lr0 else "-", e.description, e.source) for e in REGISTRY.values()]
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows])


def main(args: Mapping[str, str]) -> int:
    """Print the table."""
    print(table())
    print("\nstate: optimizer memory as a multiple of the parameters'. Names in any case: yolo train optimizer=musgd")
    return 0
