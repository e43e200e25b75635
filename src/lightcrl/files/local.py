"""Atomic files: everything is written beside its final place and moved into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightcrl.errors import StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full. Free space, or choose another folder; what is complete is kept and used again",
    errno.EDQUOT: "your disk quota is used up. Free space, or choose another folder; what is complete is kept",
    errno.EACCES: "there is no permission to write here. Choose a folder that you own",
    errno.EPERM: "there is no permission to write here. Choose a folder that you own",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.ENOTDIR: "a file stands where a folder is expected",
    errno.EEXIST: "a file stands where a folder is expected",
}


def cache_folder() -> Path:
    """Return `$LIGHTCRL_CACHE`, or `~/.cache/lightcrl`."""
    return Path(os.environ.get("LIGHTCRL_CACHE") or "~/.cache/lightcrl").expanduser()


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Convert the operating system's write errors to `StorageError`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"cannot write {error.filename or path}: {reason}.") from error


def make_folder(path: Path) -> Path:
    """Create `path` and the folders above it, and return it."""
    with clear_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path` in one step, otherwise it is removed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with clear_errors(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it takes the place of `path`.

    This takes two moves; if the process dies between them, `recover_folder` does the second.
    """
    fresh = path.with_name(f"{path.name}.new.tmp")
    with clear_errors(path):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            yield fresh
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        ready, old = path.with_name(f"{path.name}.ready.tmp"), path.with_name(f"{path.name}.old.tmp")
        shutil.rmtree(ready, ignore_errors=True)
        fresh.replace(ready)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.replace(old)
        ready.replace(path)
        shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Finish a `whole_folder` that a killed process left between its two moves."""
    ready, old = path.with_name(f"{path.name}.ready.tmp"), path.with_name(f"{path.name}.old.tmp")
    with clear_errors(path):
        if not path.exists() and ready.exists():
            ready.replace(path)
        elif not path.exists() and old.exists():
            old.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically; see `json_text`."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Format a JSON value for people too: each top-level entry has its own line, in the given order."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def file_digest(path: Path) -> str:
    """Return the 32 hex digits of a file's digest."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
