#!/usr/bin/env python3
"""Writes docs/licences.md: what this package needs, directly and through others, and under which licences.

Run it in an environment that holds the package with its extras: python .ci/licences.py
The versions and licences are those of that environment, as the packages' own metadata states them.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

yolo-musgd itself is AGPL-3.0, since its trainers subclass Ultralytics' (AGPL-3.0). This page is made by
`.ci/licences.py` from what the installed packages say of themselves; it is information, not legal advice. What a bundle
takes to a board is this package's own code, your model, and from the table numpy and one runtime. The `nvidia-*`
packages come with PyTorch's default build for Linux; its CPU build has none of them."""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: Distribution) -> str:
    """The licence by expression, else by classifiers, else by the first line of the free text."""
    meta = package.metadata
    if meta.get("License-Expression"):
        return meta["License-Expression"]
    classified = [c.split(" :: ")[-1] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    classified = [name for name in classified if name != "OSI Approved"]
    free = (meta.get("License") or "").strip().splitlines()
    return ", ".join(classified) or (free[0][:60] if free else "not stated")


def needs(package: Distribution, extras: set[str]) -> list[Requirement]:
    """What a package asks for on this machine."""
    found = [Requirement(line) for line in package.requires or []]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras | {""})]


def closure(roots: list[Requirement]) -> tuple[dict[str, Distribution], set[str]]:
    """Every installed package that ``roots`` lead to, and the names of those that are not installed."""
    found: dict[str, Distribution] = {}
    absent: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = list(roots)
    while queue:
        requirement = queue.pop()
        key = (normal(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            absent.add(key[0])
            continue
        found[key[0]] = package
        queue += needs(package, set(requirement.extras))
    return found, absent


def table(roots: list[Requirement], known: set[str]) -> tuple[list[str], set[str]]:
    """Rows of the packages that ``roots`` add to those ``known``, direct ones in bold."""
    direct = {normal(requirement.name) for requirement in roots}
    found, absent = closure(roots)
    lines = []
    for name in sorted(set(found) - known, key=lambda name: (name not in direct, name)):
        shown = f"**{name}**" if name in direct else name
        lines.append(f"| {shown} | {found[name].version} | {licence_of(found[name])} |")
    lines += [f"| **{name}** | not installed here | |" for name in sorted(absent & direct)]
    return lines, known | set(found)


def page() -> str:
    """The whole page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [("To train and to run the commands", project["dependencies"])]
    parts += [(f"Extra `{name}`", words) for name, words in project["optional-dependencies"].items() if words]
    text, known = [HEAD], {"yolo-musgd"}
    for title, words in parts:
        rows, after = table([Requirement(word) for word in words], known)
        known = after if "Extra" not in title else known  # an extra's table repeats nothing of the base
        body = ["| package | version | licence |", "|---|---|---|", *rows] if rows else ["Nothing beyond the above."]
        text += [f"\n## {title}\n", *body]
    return "\n".join(text) + "\n\nBold: asked for by name in pyproject.toml; the rest comes with it.\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"-> {PAGE}", file=sys.stderr)
