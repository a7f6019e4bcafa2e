"""Looks at an HTML page as a reader would: in a headless Chromium, at a width, in the light or the dark scheme."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Runs beside the page, which is in a frame of the wanted width, because a headless window has a least width of its own.
# Contrast as WCAG 2 defines it: (lighter + .05) / (darker + .05) of relative luminances.
SCRIPT = r"""
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument, view = frame.contentWindow;
  const channels = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = channels(view.getComputedStyle(e).backgroundColor);
      if (c.length >= 3 && (c.length < 4 || c[3] > 0.5)) return c.slice(0, 3);
    }
    const knows = view.getComputedStyle(page.documentElement).colorScheme.includes("dark");
    return knows && view.matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const pale = [], small = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement, words = node.textContent.trim();
    if (!words || e.closest("svg, script, style, [hidden]") || !e.getClientRects().length) continue;
    const style = view.getComputedStyle(e), a = light(channels(style.color)), b = light(ground(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) pale.push([words.slice(0, 40), Math.round(contrast * 10) / 10]);
    if (parseFloat(style.fontSize) < 11) small.push([words.slice(0, 40), style.fontSize]);
  }
  const result = {
    width: view.innerWidth,
    scrolls: page.documentElement.scrollWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    pale, small,
    headings: [...page.querySelectorAll("h1, h2, h3, h4")].map((h) => Number(h.tagName[1])),
    broken: [...page.images].filter((i) => !i.complete || !i.naturalWidth).length,
    fetched: view.performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:")),
    errors: window.heard,
  };
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify(result);
  document.body.append(probe);
});
"""


def program() -> str:
    """The browser's program; the test is skipped where there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium here to look at the page with: install the system's package chromium")


def look(page: Path, width: int, dark: bool = False) -> dict[str, Any]:
    """Open a page and measure it.

    Args:
        page: an HTML file.
        width: of the window, CSS pixels.
        dark: whether the reader prefers the dark scheme.

    Returns:
        width, scrolls (width of the content), dark, pale and small (texts, with contrast and size), headings (levels),
        broken (pictures), fetched (addresses), errors (of scripts).
    """
    chromium = program()
    with tempfile.TemporaryDirectory() as folder:
        framed = Path(folder) / "framed.html"
        text = html.escape(page.read_text(encoding="utf-8"))
        listen = 'window.heard = []; addEventListener("error", (e) => window.heard.push(e.message));'
        framed.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f"<script>{listen}{SCRIPT}</script>"
            f'<iframe srcdoc="{text}" style="width:{width}px;height:900px;border:0"></iframe>',
            encoding="utf-8",
        )
        words = (
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=10000",
            f"--window-size={max(width, 500) + 40},1000", "--dump-dom", framed.as_uri(),
        )  # fmt: skip
        done = subprocess.run([chromium, *words], capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page was not measured: {done.stdout[-300:]}\n{done.stderr[-1000:]}"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result
