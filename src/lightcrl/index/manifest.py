"""The manifest of an index: its model and its engine. It is written last when the index is made, and never changed.

A model that was extended from that of the index, and adds items, takes its place in `model.json` (`index.model`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightcrl.embedder import Embedder
from lightcrl.errors import StoreError
from lightcrl.events import Tell
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import holder, in_turn
from lightcrl.index.base import ENGINES, Engine
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.index.model import MODEL, model_entry

FORMAT = 2
MANIFEST = "manifest.json"
DTYPES = ("float16", "float32")


def make_manifest(
    folder: Path, embedder: Embedder, engine: str, dtype: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of a new index, with the engine's options and their defaults.

    Raises:
        StoreError: the dtype is unknown.
        UnknownNameError: the engine or one of its options is unknown.
    """
    if dtype not in DTYPES:
        raise StoreError(f"dtype is {dtype!r}; expected {' or '.join(DTYPES)}.")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "engine": {"name": engine, "options": dict(options)},
        "dim": embedder.dim,
        "dtype": dtype,
        "model": model_entry(embedder),
    }
    manifest["engine"]["options"] = dict(load_engine(folder, manifest).options)
    return manifest


def write_index(folder: Path, manifest: Mapping[str, Any], tell: Tell) -> None:
    """Make an empty index, unless one is there; it counts only once it is complete.

    Raises:
        StoreError: something else is in the folder, or the index there has another engine.
    """
    with in_turn(folder, tell):
        if not (folder / MANIFEST).exists():
            _refuse_others(folder)
            Catalog.create(folder / NAME, load_engine(folder, manifest).create()).close()
            write_json(folder / MANIFEST, manifest)
    present = read_manifest(folder)["engine"]
    if present != manifest["engine"]:
        raise StoreError(
            f"the index in {folder} has the engine {present}, expected {manifest['engine']}. Leave the engine out, or "
            "choose another folder."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index.

    Raises:
        StoreError: the folder has no manifest, or one of another format.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (FileNotFoundError, NotADirectoryError):
        if (writer := holder(folder)) is not None and writer.lives is not False:
            raise StoreError(f"{folder} is being written by {writer}. Open it when that has ended.") from None
        raise StoreError(f"no index in {folder}: expected {MANIFEST}. Make one with lightcrl index build.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is torn or no manifest ({error}). Build the index again.") from None
    if version == 1:
        raise StoreError(
            f"{folder} has format 1, vectors and ids alone. Open it with lightcrl.index.VectorIndex, or build an index "
            "of the items with lightcrl index build."
        )
    if version != FORMAT:
        raise StoreError(f"{folder} has format {version}, this version reads {FORMAT}. Install a newer lightcrl.")
    heir = folder / MODEL
    return {**manifest, "model": json.loads(heir.read_text(encoding="utf-8"))} if heir.is_file() else manifest


def load_engine(folder: Path, manifest: Mapping[str, Any]) -> Engine:
    """Return the engine that a manifest names."""
    engine = manifest["engine"]
    return ENGINES.load(engine["name"])(folder, manifest["dim"], manifest["dtype"], engine["options"])


def _refuse_others(folder: Path) -> None:
    """Refuse a folder for a new index if it holds anything else."""
    ours = (NAME, *ENGINES, ".")
    others = sorted(entry.name for entry in make_folder(folder).iterdir() if not entry.name.startswith(ours))
    if others:
        raise StoreError(f"{folder} holds {others[0]!r}, which is no part of an index. Choose an empty or new folder.")
