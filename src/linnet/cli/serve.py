"""`linnet serve`: models over HTTP."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.cli.options import Group, model_group, with_options
from linnet.server.options import ServerOptions
from linnet.server.settings import MODEL_OPTIONS, read_settings


@with_options(server=Group("Server", fields(ServerOptions)), load=model_group(MODEL_OPTIONS))
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="models, as for linnet run; NAME=MODEL says what clients call one", metavar="MODEL..."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of these options and of models by name; LINNET_ variables overrule it, flags both", metavar="FILE"),
    ] = None,
    *,
    server: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Serve models over HTTP, as OpenAI's API.

    Listens on this machine alone unless told otherwise. The routes are listed at /docs.
    """
    settings = read_settings(models or [], {**server, **load}, config)
    from linnet.server.listen import serve as listen

    listen(settings)
