"""`lightcrl serve`: an index over HTTP, with a page to search it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from dataclasses import dataclass
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
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer; they share the mapped index, and may not change it.")
    ] = 1,
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

    if writable and api_key_file is None and not _is_local(host):
        raise DataError(f"--writable on {host} without keys lets everyone change the index. Give --api-key-file.")
    if writable and workers > 1:
        raise DataError(
            f"--writable with --workers {workers}: one process changes an index. Serve it with one worker, or without "
            "--writable and with lightcrl index add beside it, which all workers see."
        )
    plan = Plan(_index_of(index), model, encoder, trust_remote_code, encoders, api_key_file, writable, batch, max_queue)
    service = plan.service()
    bound = _bind(host, port)
    name = f"[{host}]" if ":" in host else host
    served = service.index
    serve_console.print_serving(served.folder, len(served), f"http://{name}:{bound.getsockname()[1]}", writable)
    if workers == 1:
        _run(service, bound)
        return
    from lightcrl.serve.workers import run_workers

    service.stop()
    # Linux spreads connections over sockets of one port; one socket of all workers gives most of them to one worker.
    address = bound.getsockname()[:2]
    if sys.platform == "linux":
        bound.close()
    if code := run_workers(_work, (plan, workers, address, None if sys.platform == "linux" else bound), workers):
        raise typer.Exit(code)


@dataclass(frozen=True)
class Plan:
    """The options that make a service, as each worker receives them."""

    index: Path
    model: str | None
    encoder: list[str] | None
    trust_remote_code: bool
    encoders: str | None
    api_key_file: Path | None
    writable: bool
    batch: int
    max_queue: int

    def service(self, worker: int = 1) -> Any:
        """Open the index, and return its service.

        Raises:
            ForeignModelError: the exported graphs are of another width than the index.
        """
        from lightcrl.serve.keys import Keys
        from lightcrl.serve.service import Service, Settings

        exported = _exported(self.encoders)
        keys = Keys.read(self.api_key_file) if self.api_key_file is not None else Keys()
        opened = open_index(self.index, self.model, self.encoder, self.trust_remote_code)
        if exported is not None and exported().dim != opened.dim:
            raise ForeignModelError(
                f"the export in {self.encoders} gives {exported().dim} numbers an item, the index in {opened.folder} "
                f"has {opened.dim}. Export the model of the index."
            )
        settings = Settings(
            self.writable, keys, batch=self.batch, queue=self.max_queue, encoder=exported, worker=worker
        )
        return Service(opened, settings)


def _work(number: int, plan: Plan, workers: int, address: tuple[str, int], bound: socket.socket | None) -> int:
    """Serve in one of several processes, which share the cores; return the exit code."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        _run(plan.service(number), bound or _bind(*address, shared=True))
    except LightCRLError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    return 0


def _run(service: Any, bound: socket.socket) -> None:
    """Answer requests until a signal arrives, then finish the requests in progress."""
    import signal

    import uvicorn

    from lightcrl.serve.app import make_app

    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        # Told to stop before it has started, uvicorn leaves out the end of the application, and prints a traceback.
        latest = time.monotonic() + STOPPING
        while not server.started and time.monotonic() < latest:
            time.sleep(0.01)
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
            made = Index.create(folder / "index", embedder, tell=live.tell)
        except ForeignModelError:  # the index is of an earlier training of the same run
            place = folder / f"index-{embedder.fingerprint[:8]}"
            made = Index.create(place, embedder, tell=live.tell)
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


def _bind(host: str, port: int, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=1024, reuse_port=shared)
        # asyncio sets this on sockets of its own alone; without it an answer waits 40 ms for an acknowledgement.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound
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
