"""``yolo-musgd federate-bundle``: a folder for a server and its boards, with every command on one page."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd import __version__
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import numbered_folder
from yolo_musgd.edge.result import Result
from yolo_musgd.federated.command import check_words
from yolo_musgd.federated.settings import BundleSettings, FederateSettings, by_recipe, others, training_arguments
from yolo_musgd.places import check_parent
from yolo_musgd.tables import render

_HERE = Path(__file__).parent / "folder"
_PLAIN = ("data", "split", "clients", "baselines", "jobs", "threads", "project", "name")


def main(args: Mapping[str, str]) -> Result:
    """Write the folder.

    Raises:
        UserError: bad arguments.
    """
    settings = BundleSettings.read(args)
    rest = others(args, BundleSettings)
    if unfit := [k for k in rest if k in ("data", "split", "baselines", "jobs", "threads", "clients", "name")]:
        raise UserError(f"{unfit[0]}= is for a simulation; a board brings its own data, the server has val=")
    train = training_arguments(others(rest, FederateSettings))
    chosen = by_recipe(FederateSettings.read(rest), rest, train)
    if chosen.val is None:
        raise UserError("val= is missing: a data YAML on the server, whose classes count and whose val split judges")
    check_host(settings.host)
    check_words(chosen)
    check_parent(settings.project, settings.folder)
    folder = Path(numbered_folder(settings.project, settings.folder))
    write(folder, settings, chosen, train)
    said = f"a federation of {settings.boards} boards around {settings.host}:{settings.port}"
    return Result(
        "federate-bundle", said, str(folder), {"page": str(folder / "README.md")}, next=f"read {folder}/README.md"
    )


def check_host(host: str) -> None:
    """Refuse what is no address of a machine: it goes into commands and a certificate.

    Raises:
        UserError: neither an IP address nor a name.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
            raise UserError(f"host={host[:80]}: must be the server's IP address or name") from None


def write(folder: Path, settings: BundleSettings, chosen: FederateSettings, train: Mapping[str, Any]) -> None:
    """Fill the folder from the templates beside this file.

    Args:
        folder: new and empty.
        settings: of the bundle.
        chosen: of the federation.
        train: arguments of ``yolo train``.
    """
    defaults = FederateSettings.defaults()
    config = {k: v for k, v in chosen.to_dict().items() if v != defaults[k] and k not in _PLAIN}
    config |= {"clients": settings.boards, "split": "folders", "train": json.dumps(dict(train))}
    config["project"], config["name"] = "~/federation", "server"
    names = [f"board-{number}" for number in range(1, settings.boards + 1)]
    try:
        ipaddress.ip_address(settings.host)
        subject = f"IP:{settings.host}"
    except ValueError:
        subject = f"DNS:{settings.host}"
    values = {
        "host": settings.host, "port": settings.port, "names": names, "version": __version__, "subject": subject,
        "config": {k: json.dumps(v, ensure_ascii=False) for k, v in config.items()}, "model": chosen.model,
        "timeout": chosen.timeout,
    }  # fmt: skip
    for template in sorted(_HERE.rglob("*.j2")):
        target = folder / template.relative_to(_HERE).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(template, values), encoding="utf-8")
        if target.suffix == ".sh":
            target.chmod(target.stat().st_mode | stat.S_IXUSR)
    for app in ("server_app", "client_app"):
        (folder / "federation").mkdir(exist_ok=True)
        shutil.copy(_HERE / "federation" / f"{app}.txt", folder / "federation" / f"{app}.py")
    (folder / "federation" / "__init__.py").touch()
