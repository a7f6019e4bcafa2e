"""Called by yolo_musgd.pth at every interpreter start: hooks the plugin into ultralytics when that is imported.

It must cost next to nothing, so it imports only what the interpreter has loaded by then.
"""

import os
import sys

TARGETS = ("ultralytics.utils.checks", "ultralytics.cfg", "ultralytics.engine.model")


class Finder:
    """Meta path finder that lets the plugin act right after a target module has been executed."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Spec of a target module, whose loader then calls the plugin; None for every other module."""
        if name not in TARGETS:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):  # type: ignore[no-untyped-def]
                run(module)
                from yolo_musgd.plugin import on_import

                on_import(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def start() -> None:
    """Put the finder on sys.meta_path unless YOLO_MUSGD=0 says otherwise."""
    if os.environ.get("YOLO_MUSGD") != "0" and not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())
