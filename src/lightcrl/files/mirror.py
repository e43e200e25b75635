"""Local copies of stores on an object store: training reads files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightcrl.errors import StoreError, TornStoreError
from lightcrl.files.local import file_digest, make_folder, whole_file
from lightcrl.files.remote import Folder, LocalFolder, folder_at, local_place

# Number of files that are fetched in parallel.
STREAMS = 8


def local_copy(folder: Path | str) -> Path:
    """Return the local folder of a store: the folder itself, or for a URI its copy below `$LIGHTCRL_CACHE/mirror`.

    Files that are already there are not fetched again; the copy's manifest is written last. A copy may be removed any
    time.

    Raises:
        StoreError: there is no complete store at the URI.
        TornStoreError: a file is missing there, or its content differs from the manifest.
        StorageError: the object store or the disk refuses.
    """
    source, here = folder_at(folder), local_place(folder)
    if isinstance(source, LocalFolder):
        return here
    try:
        text = source.read("manifest.json")
    except FileNotFoundError:
        raise StoreError(
            f"no feature store in {folder}: expected manifest.json, which is written when all shards are complete. "
            "Run the recipe again; complete shards are kept."
        ) from None
    own = here / "manifest.json"
    if own.is_file() and own.read_bytes() == text:
        return here
    try:
        shards = json.loads(text)["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise TornStoreError(f"{folder}/manifest.json is no manifest ({error!r}). Remove it and run again.") from None
    make_folder(here)
    files = {name: stamp for shard in shards for name, stamp in shard["files"].items()}
    pool = ThreadPoolExecutor(STREAMS)
    try:
        list(pool.map(lambda name: _bring(source, name, files[name], here), files))
    finally:
        pool.shutdown(cancel_futures=True)
    with whole_file(own) as temporary:
        temporary.write_bytes(text)
    return here


def _bring(source: Folder, name: str, stamp: dict[str, Any], here: Path) -> None:
    path = here / name
    if path.is_file() and path.stat().st_size == stamp["bytes"] and file_digest(path) == stamp["digest"]:
        return
    with whole_file(path) as temporary:
        try:
            source.fetch(name, temporary)
            state = f"has digest {file_digest(temporary)}"
        except FileNotFoundError:
            state = "is missing"
        if state != f"has digest {stamp['digest']}":
            raise TornStoreError(
                f"{source.uri}/{name} {state}, expected digest {stamp['digest']}. Remove manifest.json there, and the "
                "file, and run the recipe again: only that shard is made again."
            )
