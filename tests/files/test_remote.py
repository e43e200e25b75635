"""Folders on a disk, in memory and on an object store are one to those who use them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from buckets import object_store
from lightcrl.errors import MissingExtraError, StorageError
from lightcrl.files.local import file_digest
from lightcrl.files.remote import Folder, LocalFolder, RemoteFolder, folder_at, is_uri, local_place


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store("bucket") as endpoint:
        yield endpoint


@pytest.fixture(params=["disk", "file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    name = f"{tmp_path.name}/features"
    if request.param == "s3":
        request.getfixturevalue("store")
    roots = {"disk": tmp_path / "features", "file": f"file://{tmp_path}/features"}
    return folder_at(roots.get(request.param, f"{request.param}://bucket/{name}"))


def put(folder: Folder, name: str, data: bytes) -> None:
    with folder.whole(name) as temporary:
        temporary.write_bytes(data)


def test_a_file_is_there_when_it_is_whole(folder, tmp_path):
    assert (folder.sizes(), folder.folders(), folder.name) == ({}, [], "features")
    folder.make()
    with suppress(KeyboardInterrupt), folder.whole("a") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert folder.sizes() == {}
    with folder.whole("a") as temporary:
        temporary.write_bytes(b"whole")
        assert "a" not in folder.sizes()
    assert folder.sizes() == {"a": 5}
    assert folder.read("a") == b"whole"
    put(folder, "a", b"other one")
    assert (folder.sizes(), folder.read("a")) == ({"a": 9}, b"other one")
    folder.fetch("a", tmp_path / "copy")
    assert folder.digest("a") in (None, file_digest(tmp_path / "copy"))


def test_folders_below_are_listed_by_name_and_not_as_files(folder):
    folder.make()
    for name in ("two", "one"):
        folder.below(name).make()
        put(folder.below(name), "x", b"1")
    put(folder, "file", b"")
    assert (folder.folders(), folder.sizes()) == (["one", "two"], {"file": 0})
    assert folder.below("one").name == "one"
    assert folder_at(folder.below("one").uri).sizes() == {"x": 1}


def test_what_is_not_there_cannot_be_read(folder, tmp_path):
    folder.make()
    with pytest.raises(FileNotFoundError):
        folder.read("absent")
    with pytest.raises(FileNotFoundError):
        folder.fetch("absent", tmp_path / "copy")


def test_what_a_killed_writer_left_is_removed(tmp_path):
    folder = folder_at(tmp_path)
    put(folder, "kept", b"1")
    (tmp_path / "values.npy.77.tmp").write_bytes(b"half")
    folder.tidy()
    assert list(folder.sizes()) == ["kept"]


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_done(store):
    with pytest.raises(StorageError, match=r"cannot write s3://absent/features: there is no such bucket\. Create it"):
        folder_at("s3://absent/features").make()


class Refusing:
    """A driver that fails, whatever it is asked for."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Callable[..., None]:
        def refuse(*arguments: object, **options: object) -> None:
            raise self.error

        return refuse


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Access Denied"), r"permission denied \(Access Denied\.\) Check the credentials"),
        (RuntimeError("no route\nto host"), r"RuntimeError: no route\. Check the URI, the credentials and the network"),
    ],
)
def test_a_store_that_refuses_is_told_from_one_that_is_empty(error, message, monkeypatch, tmp_path):
    monkeypatch.setattr(RemoteFolder, "_open", lambda self: (Refusing(error), "b/a"))
    folder = folder_at("s3://b/a")
    for call in (folder.sizes, folder.folders, lambda: folder.read("x"), lambda: folder.fetch("x", tmp_path / "x")):
        with pytest.raises(StorageError, match=rf"cannot read s3://b/a: {message}"):
            call()
    for call in (folder.make, lambda: put(folder, "x", b"1")):
        with pytest.raises(StorageError, match=rf"cannot write s3://b/a: {message}"):
            call()


@pytest.mark.parametrize(("uri", "driver", "extra"), [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gcs")])
def test_a_driver_that_is_not_installed_comes_with_its_pip_line(uri, driver, extra, monkeypatch):
    loaded = import_module("fsspec.registry")._registry
    monkeypatch.delitem(loaded, uri.partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(MissingExtraError, match=rf"{uri} needs .* pip install 'lightcrl\[{extra}\]'"):
        folder_at(uri).make()


def test_a_uri_that_nobody_knows_is_refused():
    with pytest.raises(StorageError, match=r"foo://x cannot be used: Protocol not known: foo\. Expected a path, or"):
        folder_at("foo://x").sizes()


def test_paths_are_local_and_uris_have_a_local_place(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path))
    assert [is_uri(place) for place in ("features", "/a/b", "C:/a", "s3://b")] == [False, False, False, True]
    assert folder_at("a/b") == LocalFolder(Path("a/b"))
    assert local_place("a/b") == local_place("file://a/b") == Path("a/b")
    assert local_place("s3://bucket/a/../../b/") == tmp_path / "mirror/s3/bucket/a/b"
