"""The same two apps for machines of their own: what a folder of ``yolo-musgd federate-bundle`` names to Flower.

The server reads the run's config, which the folder's pyproject.toml holds; a client reads its node's config, which its
owner gave to ``flower-supernode --node-config``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from yolo_musgd import plugin
from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.client import Home, client_app
from yolo_musgd.federated.settings import FederateSettings


def node_home(context: Context) -> Home:
    """A client's things, as its owner named them: ``data``, ``folder``, and perhaps ``name``, ``model``, ``device``.

    Raises:
        UserError: data or folder is missing.
    """
    plugin.register()
    config: Any = context.node_config
    for key in ("data", "folder"):
        if not str(config.get(key, "")):
            raise UserError(f"this client's --node-config lacks {key}=")
    folder = Path(str(config["folder"])).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    name = str(config.get("name", f"node {context.node_id}"))
    own = {"device": device} if (device := str(config.get("device", ""))) else {}
    return Home(name, Path(str(config["data"])).expanduser(), folder, str(config.get("model", "yolo26n.yaml")), own)


def run_settings(config: Any) -> tuple[FederateSettings, dict[str, Any]]:
    """Settings and training arguments from a run's config: the settings by name, the arguments as JSON in ``train``.

    Raises:
        UserError: one that cannot be.
    """
    names = {key for key in FederateSettings.defaults() if key in config}
    settings = FederateSettings(**{key: config[key] for key in names})
    return settings, dict(json.loads(str(config.get("train", "{}"))))


def serve(grid: Grid, context: Context) -> None:
    """The server's work: the rounds that are missing, then the report.

    Raises:
        UserError: a setting that cannot be, or no client answered in a round.
    """
    from yolo_musgd.federated.command import prepare_server
    from yolo_musgd.federated.federation_report import write_report
    from yolo_musgd.federated.rounds import Federation

    plugin.register()
    settings, arguments = run_settings(context.run_config)
    plan = prepare_server(settings, arguments)
    Federation(grid, plan).run()
    write_report(plan.folder, settings, plan.arguments)


server: ServerApp = ServerApp()
server.main()(serve)
client: ClientApp = client_app(node_home)
