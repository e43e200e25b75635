"""Folders of atomically written files: on a disk, or below a URI of an object store (`s3://bucket/features`).

The URI must be supported by fsspec; its driver looks for credentials and endpoints (for S3 in the environment and
`~/.aws`).
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightcrl.errors import MissingExtraError, StorageError, first_line
from lightcrl.files.local import cache_folder, clear_errors, file_digest, make_folder, whole_file

# Schemes whose driver is an extra of this package.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class Folder(ABC):
    """A flat folder of atomically written files, with folders below it.

    Attributes:
        uri: local path or URI of the folder.
    """

    uri: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.uri).name

    @abstractmethod
    def below(self, name: str) -> Folder:
        """Return the folder `name` in this folder; it need not exist."""

    @abstractmethod
    def make(self) -> None:
        """Create the folder, and check that it is writable.

        Raises:
            StorageError: the folder is not writable.
        """

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the sizes of the files in bytes, by name; empty if there is no such folder."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Return the names of the folders in it, in order."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def whole(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local path to write to; on success it becomes the file `name` in one step."""

    @abstractmethod
    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path."""

    @abstractmethod
    def digest(self, name: str) -> str | None:
        """Return the `file_digest` of a file; None if that would require a download."""

    def share(self, name: str, other: Folder) -> None:
        """Make a file one with the equal file of another folder, where a disk lets a file have two names."""
        return

    def tidy(self) -> None:
        """Remove the leftovers of killed writers."""
        return


@dataclass(frozen=True, slots=True)
class LocalFolder(Folder):
    """A folder on a local or shared disk."""

    path: Path

    @property
    def uri(self) -> str:  # type: ignore[override]
        """The path."""
        return str(self.path)

    def below(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def make(self) -> None:
        make_folder(self.path)

    def sizes(self) -> dict[str, int]:
        if not self.path.is_dir():
            return {}
        return {entry.name: entry.stat().st_size for entry in self.path.iterdir() if entry.is_file()}

    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_dir()) if self.path.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def whole(self, name: str) -> AbstractContextManager[Path]:
        return whole_file(self.path / name)

    def fetch(self, name: str, path: Path) -> None:
        path.write_bytes(self.read(name))

    def digest(self, name: str) -> str | None:
        return file_digest(self.path / name)

    def share(self, name: str, other: Folder) -> None:
        if isinstance(other, LocalFolder):
            with suppress(OSError):
                (linked := self.path / f"{name}.shared.tmp").hardlink_to(other.path / name)
                linked.replace(self.path / name)

    def tidy(self) -> None:
        for leftover in self.path.glob("*.tmp"):
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RemoteFolder(Folder):
    """Objects whose keys begin with a URI. An object appears only when it is complete."""

    uri: str

    def below(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.uri}/{name}")

    def make(self) -> None:
        # Object stores have no folders; a refusal here is better than after the first hour of encoding.
        files, path = self._open()
        probe = f"{path}/.writable"
        with self._clear("write"):
            files.pipe_file(probe, b"")
            with suppress(PermissionError):  # some stores forbid deletion
                files.rm_file(probe)

    def sizes(self) -> dict[str, int]:
        return {PurePosixPath(entry["name"]).name: entry["size"] for entry in self._list() if entry["type"] == "file"}

    def folders(self) -> list[str]:
        return sorted(PurePosixPath(entry["name"]).name for entry in self._list() if entry["type"] == "directory")

    def read(self, name: str) -> bytes:
        files, path = self._open()
        with self._clear("read", missing=True):
            return bytes(files.cat_file(f"{path}/{name}"))

    @contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        files, path = self._open()
        with tempfile.TemporaryDirectory(prefix="lightcrl-") as scratch:
            temporary = Path(scratch) / name
            with clear_errors(temporary):
                yield temporary
            with self._clear("write"):
                files.put_file(str(temporary), f"{path}/{name}")

    def fetch(self, name: str, path: Path) -> None:
        files, below = self._open()
        with self._clear("read", missing=True), clear_errors(path):
            files.get_file(f"{below}/{name}", str(path))

    def digest(self, name: str) -> str | None:
        return None

    def _list(self) -> list[dict[str, Any]]:
        files, path = self._open()
        with self._clear("read", missing=True), suppress(FileNotFoundError):
            return list(files.ls(path, detail=True))
        return []

    def _open(self) -> tuple[Any, str]:
        """Return the file system (fsspec keeps one of each kind) and this folder's path in it."""
        from fsspec.core import url_to_fs

        try:
            # Listings must not be cached: other machines write here.
            files, path = url_to_fs(self.uri, use_listings_cache=False)
        except Exception as error:  # drivers have no common class of errors
            extra = EXTRAS.get(self.uri.partition(":")[0])
            if extra and isinstance(error, ImportError):
                raise MissingExtraError(self.uri, extra) from None
            raise StorageError(
                f"{self.uri} cannot be used: {first_line(error)} Expected a path, or the URI of a store that fsspec "
                "supports and whose driver is installed, such as s3://bucket/features."
            ) from None
        return files, str(path)

    @contextmanager
    def _clear(self, what: str, *, missing: bool = False) -> Iterator[None]:
        """Convert a driver's errors to `StorageError`; with `missing`, an absent file is not an error."""
        try:
            yield
        except FileNotFoundError:
            if missing:
                raise
            raise StorageError(
                f"cannot {what} {self.uri}: there is no such bucket. Create it, or check the name."
            ) from None
        except PermissionError as error:
            raise StorageError(
                f"cannot {what} {self.uri}: permission denied ({first_line(error)}) Check the credentials that this "
                "machine has, and what they are allowed to do."
            ) from error
        except StorageError:
            raise
        except Exception as error:  # drivers have no common class of errors
            raise StorageError(
                f"cannot {what} {self.uri}: {type(error).__name__}: {first_line(error)} Check the URI, the credentials "
                "and the network."
            ) from error


def is_uri(place: str) -> bool:
    """Return true if a folder's name is a URI and not a path.

    >>> is_uri("s3://bucket/features"), is_uri("features")
    (True, False)
    """
    return "://" in place


def folder_at(place: Folder | Path | str) -> Folder:
    """Return the folder at a path or a URI."""
    if isinstance(place, Folder):
        return place
    text = str(place)
    if isinstance(place, Path) or not is_uri(text):
        return LocalFolder(Path(place))
    if text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    return RemoteFolder(text.rstrip("/"))


def local_place(place: Path | str) -> Path:
    """Return the local folder of `place`: the path itself, or for a URI a folder below the cache.

    >>> local_place("s3://bucket/features").parts[-4:]
    ('mirror', 's3', 'bucket', 'features')
    """
    folder = folder_at(place)
    if isinstance(folder, LocalFolder):
        return folder.path
    scheme, _, rest = folder.uri.partition("://")
    return cache_folder().joinpath("mirror", scheme, *(part for part in rest.split("/") if part.strip(".")))
