"""Called by yolo_musgd.pth at every interpreter start: hooks the plugin into ultralytics when that is imported.

It must cost next to nothing, so it imports only what the interpreter has loaded by then. Whatever is missing or damaged
of the package behind it, ultralytics is imported as if nothing of ours were installed.
"""

import os
import sys

TARGETS = ("ultralytics.utils.checks", "ultralytics.cfg", "ultralytics.engine.model")
_told = set()  # type: ignore[var-annotated]  # targets that the plugin knows of


class Finder:
    """Meta path finder that lets the plugin act right after a target module has been executed.

    It asks the finders behind it, so that theirs go on working. A target that a finder before it has taken is noticed
    at the next import of anything.
    """

    def __init__(self) -> None:
        self._asking = set()  # type: ignore[var-annotated]  # a finder behind this one may ask it back

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Spec of a target module, whose loader then calls the plugin; None for every other module."""
        if len(_told) < len(TARGETS) and not name.startswith("yolo_musgd"):  # ours would be imported twice
            _catch_up()
        if name not in TARGETS or name in self._asking:
            return None
        finders = list(sys.meta_path)
        behind = finders[finders.index(self) + 1 :] if self in finders else finders
        self._asking.add(name)
        try:
            found = (finder.find_spec(name, path, target) for finder in behind if hasattr(finder, "find_spec"))
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._asking.discard(name)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader)
        return spec


def _call_after(loader: object) -> None:
    run = loader.exec_module  # type: ignore[attr-defined]

    def exec_module(module):  # type: ignore[no-untyped-def]
        run(module)
        _tell(module)

    try:
        loader.exec_module = exec_module  # type: ignore[attr-defined]
    except (AttributeError, TypeError):  # takes no attributes
        return  # the next import catches up


def _catch_up() -> None:
    for name in TARGETS:
        module = sys.modules.get(name)
        if module is not None and name not in _told and not getattr(module.__spec__, "_initializing", False):
            _tell(module)


def _tell(module) -> None:  # type: ignore[no-untyped-def]
    _told.add(module.__name__)
    try:
        from yolo_musgd.plugin import on_import

        on_import(module)
    except Exception as error:  # half removed, or damaged
        step_aside(error)


def step_aside(error: Exception) -> None:
    """Leave ultralytics alone from now on, with one warning that says why."""
    import warnings

    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    text = f"yolo-musgd is damaged, ultralytics runs without it ({reason}); reinstall it, or remove yolo_musgd.pth"
    try:
        warnings.warn(text, stacklevel=2)
    except Warning:  # as errors: not this one
        print(text, file=sys.stderr)


def start() -> None:
    """Put the finder on sys.meta_path unless YOLO_MUSGD=0 says otherwise."""
    if os.environ.get("YOLO_MUSGD") != "0" and not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())
