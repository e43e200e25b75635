"""The notebooks of `examples/`, executed as they stand.

`python tests/notebooks.py` executes all of them, or those named, and writes their outputs into them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "examples").glob("*.ipynb"))
SECONDS = 240
FORGET = """
import gc
gc.set_threshold(100_000, 50, 100)
from matplotlib_inline.backend_inline import set_matplotlib_formats
set_matplotlib_formats("png")
%reset -f
"""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(path: Path) -> NotebookNode:
    """The notebook of a file."""
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    """What a cell of code wrote as text."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def mark(notebook: NotebookNode) -> str:
    """16 hex digits of all code, in order: outputs that carry another one are of other code."""
    sources = json.dumps([cell.source for cell in code(notebook)])
    return hashlib.blake2b(sources.encode(), digest_size=8).hexdigest()


@contextmanager
def started_kernel(folder: Path) -> Iterator[KernelManager]:
    """A kernel that works in `folder`, where it keeps whatever it writes for itself."""
    # What the kernel inherits: this library; nothing written into the user's home; no word on a missing progress bar.
    paths = [str(PROJECT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "IPYTHONDIR": str(folder / "ipython"),
        "LIGHTCRL_CACHE": str(folder / "cache"),
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    # Sockets are files, whose paths have to be short: no port is opened.
    with tempfile.TemporaryDirectory(prefix="nb") as sockets:
        settings = {"transport": "ipc", "connection_file": str(Path(sockets) / "kernel")}
        manager = KernelManager(config=Config(ConnectionFileMixin=settings))
        manager.start_kernel(env=environment, cwd=str(folder))
        try:
            yield manager
        finally:
            manager.shutdown_kernel(now=True)


def execute(
    notebook: NotebookNode, kernel: KernelManager, asked: Mapping[str, str] | None = None
) -> tuple[NotebookNode, dict[str, Any]]:
    """Run every cell.

    Args:
        notebook: is left as it is.
        kernel: where it runs: names and formats of pictures of an earlier notebook are forgotten first.
        asked: expressions, by name, that are evaluated after the last cell and give JSON values.

    Returns:
        The notebook with its outputs, and what the expressions gave.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    question = ", ".join(f"{name!r}: {expression}" for name, expression in (asked or {}).items())
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{question}}}))"))
    # Otherwise two lines are one output or two, as time has it.
    client = NotebookClient(notebook, km=kernel, timeout=SECONDS, record_timing=False, coalesce_streams=True)
    with client.setup_kernel():
        try:
            client.kc.execute(FORGET, silent=True)
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
        finally:
            client.kc.stop_channels()
    return notebook, json.loads(printed(notebook.cells.pop()))


def write(path: Path) -> None:
    """Execute the notebook of a file and write it with its outputs and their mark."""
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder, started_kernel(Path(folder)) as kernel:
        notebook, _ = execute(notebook, kernel)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    notebook.metadata = nbformat.from_dict(METADATA | {"executed": mark(notebook)})
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or NOTEBOOKS):
        write(path)
