"""``yolo-musgd doctor``: what is installed, whether the plugin is active and why not, what is incompatible."""

from __future__ import annotations

import os
import platform
import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from yolo_musgd import __version__
from yolo_musgd.resources import FIRST_COMMAND, install
from yolo_musgd.train.settings import plugin_keys

OK, WARN, BAD = "ok", "!!", "XX"
OPTIONAL = {
    "onnx": "export",
    "onnxruntime": "export",
    "ncnn": "export",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "torch_pruning": "prune",
    "pytorch_optimizer": "zoo",
    "ray": "ray",
    "huggingface_hub": "hub",
    "flwr": "federated",
    "tensorboard": "dev",
}
"""Package that some command uses -> the extra that brings it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: mark (ok, !!, XX), what was looked at, what was seen and what to do."""

    mark: str
    topic: str
    text: str


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _host() -> list[Finding]:
    from yolo_musgd import plugin

    if util.find_spec("ultralytics") is None:
        return [Finding(BAD, "ultralytics", "not installed: pip install ultralytics")]
    try:
        version = plugin.host_version()
    except Exception as error:  # a broken OpenCV, say: the doctor reports whatever is wrong
        return [Finding(BAD, "ultralytics", f"cannot be imported: {type(error).__name__}: {error}")]
    low, high = (".".join(map(str, v)) for v in plugin.SUPPORTED)
    if not plugin.supported(version):
        fix = f"pip install 'ultralytics>={low},<{high}'"
        return [Finding(BAD, "ultralytics", f"{version} is outside {low} to {high}: the plugin steps aside; {fix}")]
    return [Finding(OK, "ultralytics", f"{version} (supported: {low} to below {high})")]


def _autoload() -> Finding:
    from yolo_musgd._autoload import Finder

    if os.environ.get("YOLO_MUSGD") == "0":
        return Finding(WARN, "plugin", "switched off by YOLO_MUSGD=0; unset it to use optimizer=MuSGD with `yolo`")
    if any(isinstance(f, Finder) for f in sys.meta_path):
        folders = [*site.getsitepackages(), site.getusersitepackages()]
        hooks = [Path(p) / "yolo_musgd.pth" for p in folders if (Path(p) / "yolo_musgd.pth").exists()]
        return Finding(
            OK, "plugin", f"active in every `yolo` command ({hooks[0] if hooks else 'by a hook of its own'})"
        )
    fix = "pip install yolo-musgd into this Python, or call yolo_musgd.register()"
    return Finding(BAD, "plugin", f"yolo_musgd.pth was not run (a copied package, or python -S); {fix}")


def _patches() -> Finding:
    from yolo_musgd import plugin

    try:
        plugin.register()
        import ultralytics.cfg as cfg

        missing = [key for key in plugin_keys() if key not in cfg.DEFAULT_CFG_DICT]
    except Exception as error:
        return Finding(BAD, "arguments", f"could not be added to Ultralytics: {type(error).__name__}: {error}")
    if missing:
        return Finding(BAD, "arguments", f"missing in Ultralytics: {', '.join(missing)}")
    return Finding(
        OK, "arguments", "optimizer=MuSGD, adapt_factor=, telemetry= and the rest can be added to Ultralytics"
    )


def _torch() -> list[Finding]:
    try:
        import torch
    except Exception as error:
        return [Finding(BAD, "torch", f"cannot be imported: {type(error).__name__}: {error}")]
    found = [Finding(OK, "torch", f"{torch.__version__}, {torch.get_num_threads()} thread(s)")]
    if _version("torchvision") is None:
        found.append(
            Finding(BAD, "torchvision", "not installed: Ultralytics' validator needs it; pip install torchvision")
        )
    else:
        try:
            import torchvision

            torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
            found.append(Finding(OK, "torchvision", f"{torchvision.__version__}, its operators load"))
        except Exception as error:
            fix = "install torch and torchvision together, from one index"
            found.append(Finding(BAD, "torchvision", f"does not match torch ({error}); {fix}"))
    from yolo_musgd.optim.kernels import fused_available

    if fused_available("cpu", torch.float32):
        found.append(Finding(OK, "fused SGD", "kernel available on the CPU"))
    else:
        found.append(
            Finding(WARN, "fused SGD", "no CPU kernel in this torch: MuSGD steps more slowly; torch>=2.4 has it")
        )
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found.append(Finding(OK, "devices", f"cpu ({os.cpu_count()} cores), {', '.join(names)}"))
    else:
        found.append(Finding(OK, "devices", f"cpu ({os.cpu_count()} cores); no CUDA device"))
    return found


def _extras() -> list[Finding]:
    found = []
    for module, extra in OPTIONAL.items():
        version = _version(module.replace("_", "-")) or _version(module)
        if version:
            found.append(Finding(OK, module, version))
        elif (spec := util.find_spec(module)) and spec.origin:  # onnxruntime-gpu's, say; no mere folder of the name
            found.append(Finding(OK, module, "installed, by a package of another name"))
        else:
            found.append(Finding("--", module, f"not installed (optional: {install(extra)})"))
    return found


def examine() -> list[Finding]:
    """Every finding, in the order of the report."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    found = [Finding(OK, "yolo-musgd", f"{__version__}, {system}"), *_host(), _autoload()]
    if not any(f.mark == BAD and f.topic == "ultralytics" for f in found):
        found.append(_patches())
    if util.find_spec("torch") is None:
        return [*found, Finding(BAD, "torch", "not installed: pip install torch torchvision"), *_extras()]
    return [*found, *_torch(), *_extras()]


def main(args: Mapping[str, str]) -> int:
    """Print the report; returns 2 if something is broken, else 0."""
    findings = examine()
    width = max(len(f.topic) for f in findings)
    for f in findings:
        print(f"[{f.mark}] {f.topic.ljust(width)}  {f.text}")
    broken = sum(f.mark == BAD for f in findings)
    if broken:
        print(f"\n{broken} problem(s) to fix")
    elif os.environ.get("YOLO_MUSGD") == "0":
        print("\nready, but switched off: unset YOLO_MUSGD")
    else:
        print(f"\nready: {FIRST_COMMAND}")
    return 2 if broken else 0
