"""Packs what a board needs into one folder: the model with its hashes, ``edge.pyz``, requirements, ``run.sh``, README.

``edge.pyz`` is the package's edge/ folder, zipped by :mod:`zipapp`; it runs alone with Python 3.6 or later and numpy.
"""

from __future__ import annotations

import filecmp
import gzip
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
import zipapp
from importlib.util import find_spec
from pathlib import Path

from yolo_musgd import edge
from yolo_musgd.edge import options
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import check_name
from yolo_musgd.edge.pictures.images import list_images, synthetic_frame, write_image
from yolo_musgd.edge.result import Result
from yolo_musgd.edge.runtimes.artifact import Artifact, open_artifact
from yolo_musgd.export.bundle_model import check_target, copy_model, run_once
from yolo_musgd.export.bundle_texts import MODEL, MODELS, readme, requirements, run_script
from yolo_musgd.export.bundle_val import check_val, copy_val
from yolo_musgd.export.staging import staging
from yolo_musgd.export.targets import NAMES, load_target
from yolo_musgd.places import check_parent, check_replaced, set_aside

EPOCH = 1_700_000_000  # seconds; one time stamp for every file in the archive, so that equal sources give equal bytes


OPTIONS: options.Spec = {
    "model": (
        options.REQUIRED,
        options.text,
        "artifact folder, exported folder or .onnx file; several as [a,b] race there",
    ),
    "target": ("x86", options.one_of(*NAMES), "board: " + ", ".join(NAMES)),
    "samples": ("", options.text, "folder of sample images (at most 16 are taken)"),
    "val": ("", options.text, "COCO file (export's val.json) to judge the model with on the board"),
    "val_images": (64, options.number(1, 1e6, int), "most of its images that are taken along"),
    "project": ("runs/bundle", options.text, "the bundle goes to project/name"),
    "name": ("", options.text, "its name; by default edge-<target>"),
    "save_dir": options.PLACE["save_dir"],
    "exist_ok": (False, options.flag, "replace a bundle that is there already"),
    "archive": (True, options.flag, "make name.tar.gz beside the folder"),
    "probe": (True, options.flag, "run the model once before it is packed"),
    "imgsz": (None, options.optional(options.number(32, 4096, int)), "input side, for a model that does not say"),
}


def build_pyz(path: Path) -> Path:
    """Zip the edge package into ``path``; equal sources give equal bytes.

    Returns:
        The path written.
    """
    source = Path(str(edge.__file__)).parent
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        root = Path(temporary) / "app"
        package = root / "edge"
        package.mkdir(parents=True)
        for module in sorted([*source.rglob("*.py"), *source.rglob("*.html")]):
            copy = package / module.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, copy)
        (root / "__main__.py").write_text(
            "import sys\n\nfrom edge.__main__ import main\n\nsys.exit(main())\n", encoding="utf-8"
        )
        for entry in [*root.rglob("*"), root]:
            os.utime(entry, (EPOCH, EPOCH))
        zipapp.create_archive(root, path, interpreter="/usr/bin/env python3", compressed=True)
    _make_executable(path)
    return path


def _copy_samples(samples: str, folder: Path) -> int:
    """Fill ``folder``/samples from ``samples``, else with Ultralytics' two photographs, else with a drawn picture."""
    target = folder / "samples"
    target.mkdir()
    if samples:
        try:
            paths = [Path(path) for path in list_images(samples)[:16]]
        except UserError as error:
            raise UserError(str(error).replace("source=", "samples=", 1)) from None
    else:
        spec = find_spec("ultralytics")  # found, not imported
        home = Path(spec.origin).parent / "assets" if spec and spec.origin else Path("nowhere")
        paths = sorted(home.glob("*.jpg"))
    for number, path in enumerate(paths):
        taken = (target / path.name).exists()  # lists may name files of several folders
        shutil.copyfile(path, target / (f"{number}_{path.name}" if taken else path.name))
    if not paths:
        write_image(str(target / "drawn.png"), synthetic_frame())
    return max(len(paths), 1)


def make_bundle(
    model: str,
    target: str,
    folder: Path,
    samples: str = "",
    imgsz: int | None = None,
    *,
    archive: bool = False,
    probe: bool = True,
    val: str = "",
    val_images: int = 64,
) -> list[str]:
    """Fill a new ``folder`` with everything that ``target`` needs to run ``model``.

    Folder and archive appear whole or not at all, whatever ends the work; the same call can then be made again.

    Args:
        model: artifact folder, exported folder or model file; several as ``[a,b]``, which race on the board.
        target: the board.
        folder: to make.
        samples: folder of sample images, or empty.
        imgsz: side of the input in pixels, for a model that does not say.
        archive: make ``folder``.tar.gz too.
        probe: run the model once before it is packed.
        val: COCO file to judge the model with on the board, or empty.
        val_images: most of its images.

    Returns:
        Warnings, for people.

    Raises:
        UserError: a damaged model, one that the board or the runner cannot run, or a folder that is there already.
    """
    artifacts = [open_artifact(path, imgsz) for path in (options.items(model) if model[:1] in "[(" else [model])]
    warnings = [warning for artifact in artifacts for warning in check_target(artifact, target)]
    check_val(val)
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already; give another name=, or exist_ok=True to replace it")
    try:
        with staging(folder.parent, "bundle") as temporary:
            made = temporary / folder.name
            made.mkdir()
            packed = [copy_model(artifact, place) for artifact, place in _places(artifacts, made)]
            if probe:
                warnings += [warning for artifact in packed for warning in run_once(artifact)]
            _copy_samples(samples, made)
            if val:
                copy_val(val, artifacts[0].names, made / "val", val_images)
            _write_rest(packed, target, warnings, made)
            if archive:  # before the folder: once that has its name, all is there
                _place(make_archive(made), folder.with_name(f"{folder.name}.tar.gz"))
            made.rename(folder)
    except (OSError, UserError) as error:
        raise UserError(f"the bundle could not be made: {error}") from error
    return warnings


def _places(artifacts: list[Artifact], folder: Path) -> list[tuple[Artifact, Path]]:
    """Where each artifact goes: ``model``, or below ``models`` by its own name.

    Raises:
        UserError: two of the same name, or of different classes.
    """
    if len(artifacts) == 1:
        return [(artifacts[0], folder / MODEL)]
    names = [Path(artifact.path).stem for artifact in artifacts]
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise UserError(f"two artifacts are called {twice[0]}; rename one")
    if any(artifact.names != artifacts[0].names for artifact in artifacts):
        raise UserError("the artifacts have different classes, so one cannot stand for another; pack them one by one")
    (folder / MODELS).mkdir()
    return [(artifact, folder / MODELS / name) for artifact, name in zip(artifacts, names, strict=True)]


def _write_rest(artifacts: list[Artifact], target: str, warnings: list[str], folder: Path) -> None:
    build_pyz(folder / "edge.pyz")
    board = load_target(target)
    lines = requirements(board, artifacts) or ["# nothing from the index: JetPack brings numpy and TensorRT"]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    judged = (folder / "val").is_dir()
    (folder / "run.sh").write_text(
        run_script(board, MODEL if len(artifacts) == 1 else MODELS, judged), encoding="utf-8"
    )
    _make_executable(folder / "run.sh")
    (folder / "README.md").write_text(readme(artifacts, target, warnings, judged), encoding="utf-8")


def _make_executable(path: Path) -> None:
    """For those who may read it: the user's umask holds."""
    mode = path.stat().st_mode
    path.chmod(mode | (mode & 0o444) >> 2)


def make_archive(folder: Path) -> Path:
    """Pack ``folder`` into ``folder``.tar.gz and return its path; equal content gives equal bytes."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    path = folder.with_name(folder.name + ".tar.gz")
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=EPOCH) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        archive.add(folder, folder.name, filter=plain)
    return path


def _place(archive: Path, path: Path) -> None:
    """Give the finished archive its name, which a run that was killed just before its folder was made may have done.

    Raises:
        UserError: another one is.
    """
    if os.path.lexists(path) and not (path.is_file() and filecmp.cmp(archive, path, shallow=False)):
        raise UserError(f"{path} is there already; give another name=")
    archive.replace(path)


def main(args: list[str]) -> Result:
    """Run ``bundle model= target=``.

    Raises:
        UserError: see `make_bundle`.
    """
    chosen = options.parse_args(args, OPTIONS, "bundle")
    if not chosen.model:
        raise UserError("bundle: model= is required, for example model=best.onnx")
    name = chosen.name or f"edge-{chosen.target}"
    check_name(name)
    folder = Path(chosen.save_dir) if chosen.save_dir else Path(chosen.project) / name
    check_parent(str(folder.parent), word="save_dir" if chosen.save_dir else "project")
    packed = folder.with_name(f"{folder.name}.tar.gz")
    replaced: tuple[Path, ...] = ()  # anything but a bundle or an empty folder of this name is not
    if chosen.exist_ok:
        check_replaced(folder, "edge.pyz")
        replaced = (folder, packed) if (folder / "edge.pyz").is_file() else (folder,) if folder.is_dir() else ()
    asked = {key: getattr(chosen, key) for key in ("archive", "probe", "val", "val_images")}
    with set_aside(*replaced):
        warnings = make_bundle(chosen.model, chosen.target, folder, chosen.samples, chosen.imgsz, **asked)
    for warning in warnings:
        print(f"note: {warning}", file=sys.stderr)
    made = packed if chosen.archive else folder
    megabytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    board = load_target(chosen.target)
    print(f"-> {folder}")
    if chosen.archive:
        print(f"-> {made}")
    return Result(
        "bundle",
        f"all that {board.title} needs, {megabytes:.1f} MB unpacked: model, edge.pyz, run.sh, README.md",
        str(folder),
        {"bundle": str(made)},
        {"target": chosen.target, "size_mb": round(megabytes, 3)},
        copy_over(made),
    )


def copy_over(made: Path) -> str:
    """What to type to get a bundle's folder or archive to the board, and there."""
    name = made.name.removesuffix(".tar.gz")
    unpack = f"tar xzf {shlex.quote(made.name)} && " if made.name != name else ""
    return (
        f"scp -r {shlex.quote(str(made))} <the board>: and there: {unpack}cd {shlex.quote(name)} && sh run.sh "
        "(README.md has the set-up)"
    )
