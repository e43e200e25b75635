"""`lightcrl serve`: an index over HTTP, with a page to search it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import Encoders, Trust
from lightcrl.commands.index import Folder, Model, open_index
from lightcrl.errors import DataError, ForeignModelError, LightCRLError, MissingExtraError

STOPPING = 30
"""Seconds that requests in progress have after a signal to stop."""


def serve(
    index: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    writable: Annotated[bool, typer.Option("--writable", help="Let requests add and remove items.")] = False,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="SHA-256 of the keys that may ask, one a line.")
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Items that may wait; beyond, clients are sent away.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Items of several clients encoded together; 1 for none.")] = 32,
    encoders: Annotated[
        str | None,
        typer.Option(metavar="torch|onnx=FOLDER", help="What encodes: the model, or what lightcrl export wrote."),
    ] = None,
    model: Model = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Serve an index, or what a run was trained on: lightcrl serve runs/demo, then open http://127.0.0.1:8000."""
    _require()
    from lightcrl.report import serve_console
    from lightcrl.serve.keys import Keys
    from lightcrl.serve.service import Service, Settings

    exported = _exported(encoders)
    keys = Keys.read(api_key_file) if api_key_file is not None else Keys()
    if writable and not keys and not _is_local(host):
        raise DataError(f"--writable on {host} without keys lets everyone change the index. Give --api-key-file.")
    opened = open_index(_index_of(index), model, encoder, trust_remote_code)
    if exported is not None and exported().dim != opened.dim:
        raise ForeignModelError(
            f"the export in {encoders} gives {exported().dim} numbers an item, the index in {opened.folder} has "
            f"{opened.dim}. Export the model of the index."
        )
    settings = Settings(writable, keys, batch=batch, queue=max_queue, encoder=exported)
    bound = _bind(host, port)
    name = f"[{host}]" if ":" in host else host
    serve_console.print_serving(opened.folder, len(opened), f"http://{name}:{bound.getsockname()[1]}", writable)
    _run(Service(opened, settings), bound)


def _run(service: Any, bound: socket.socket) -> None:
    """Answer requests until a signal arrives, then finish the requests in progress."""
    import signal

    import uvicorn

    from lightcrl.serve.app import make_app

    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        make_app(service, failed), log_level="warning", timeout_graceful_shutdown=STOPPING, server_header=False
    )
    server = uvicorn.Server(config)
    # uvicorn stops on these signals, then raises them again for the earlier handlers, which must do nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[bound])
    if failures:
        raise failures[0]


def _index_of(folder: Path) -> Path:
    """Return the folder of an index; the index of a run is built first, from its feature stores."""
    if not (folder / "recipe.json").is_file():
        return folder
    from lightcrl.embedder import load
    from lightcrl.index import Index
    from lightcrl.report import index_console, progress

    embedder = load(folder)
    with progress.Live() as live:
        try:
            made = Index.create(folder / "index", embedder, place=str(folder), tell=live.tell)
        except ForeignModelError:  # the index is of an earlier training of the same run
            place = folder / f"index-{embedder.fingerprint[:8]}"
            made = Index.create(place, embedder, place=str(folder), tell=live.tell)
        done = made.add(folder, tell=live.tell) if not len(made) else None
    if done is not None:
        index_console.print_added(made, done)
    return made.folder


def _exported(given: str | None) -> Any:
    """Return a function that returns the embedder of exported graphs; None for the model itself."""
    kind, _, folder = (given or "torch").partition("=")
    if kind == "torch" and not folder:
        return None
    if kind != "onnx" or not folder:
        raise typer.BadParameter(f"{given!r}: expected torch or onnx=FOLDER", param_hint="--encoders")
    from lightcrl.export import ExportedEmbedder

    embedder = ExportedEmbedder(folder)
    return lambda: embedder


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise LightCRLError(f"cannot listen on {host}, port {port}: {error.strerror}. Choose another --port.") from None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401 - starlette needs it to parse forms with files
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the server", "serve") from error
