"""Programs in processes of their own that start at once: forked from a process that has loaded the library.

A fresh interpreter takes two to four seconds to load torch and the library. A test that kills, signals or locks out a
process needs a real one, but not those seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TextIO

# Not `lightcrl.report`, whose console looks at its environment when it is loaded, nor lancedb, which starts a thread.
LOADED = ["lightcrl.index", "lightcrl.pipeline", "lightcrl.serve.app", "shelves"]


COMMAND = "from lightcrl.cli import main\nmain()\n"
"""The command line; its words are the program's."""


def ranks(processes: int) -> list[dict[str, str]]:
    """The environment of each process of one training, as a launcher sets it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    job = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    local = {"LOCAL_WORLD_SIZE": str(processes)}
    return [{**job, **local, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class Program:
    """A running program, in the words of `subprocess.Popen`."""

    def __init__(self, script: str, *words: object, cwd: Path | None = None, **environment: str) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(LOADED)
        readers, writers = zip(*(server.Pipe(duplex=False) for _ in range(2)), strict=True)
        given = (script, ["-c", *map(str, words)], cwd or Path.cwd(), {**os.environ, **environment}, *writers)
        self._process = server.Process(target=_run, args=given)
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = map(_open, readers)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.wait()
        self._close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 100) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 100) -> tuple[str, str]:
        """What it still prints on both outputs until it ends."""
        said = {}
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        readers = [threading.Thread(target=lambda n=name: said.update({n: streams[n].read()})) for name in streams]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self._close()
        return said["stdout"], said["stderr"]

    def _close(self) -> None:
        self.stdout.close()
        self.stderr.close()


def _open(reader: Connection) -> TextIO:
    stream = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
    reader.close()
    return stream


def _run(
    script: str, words: list[str], folder: Path, environment: Mapping[str, str], output: Connection, error: Connection
) -> None:
    import torch

    # A shell lets what it starts in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, writer in ((1, output), (2, error)):
        os.dup2(writer.fileno(), number)
        writer.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = words
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(script, "<string>", "exec"), main.__dict__)
