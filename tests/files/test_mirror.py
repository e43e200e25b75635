"""A store on an object store is brought here once, and what comes is what was written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightcrl.errors import StorageError, StoreError, TornStoreError
from lightcrl.features import Features, FeatureStore, extract
from lightcrl.files.local import file_digest
from lightcrl.files.remote import RemoteFolder, folder_at
from worlds import Digits, numbers


@pytest.fixture
def uri(tmp_path, monkeypatch):
    """The URI of a store of three shards."""
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path / "cache"))
    root = f"memory://bucket/{tmp_path.name}"
    extract(Digits(), numbers(2500), "text", root)
    (name,) = folder_at(root).folders()
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path / "fresh"))
    return f"{root}/{name}"


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that are brought, as they are."""
    names, fetch = [], RemoteFolder.fetch

    def note(self, name, path):
        names.append(name)
        fetch(self, name, path)

    monkeypatch.setattr(RemoteFolder, "fetch", note)
    return names


def test_it_is_read_like_any_other(uri, tmp_path):
    store, local = FeatureStore(uri), extract(Digits(), numbers(2500), "text", tmp_path / "local").store
    assert store.folder.is_relative_to(tmp_path / "fresh/mirror/memory/bucket")
    assert (store.fingerprint, store.rows) == (local.fingerprint, local.rows)
    rows = np.array([2400, 3, 1030])
    np.testing.assert_array_equal(store.gather(rows).values, local.gather(rows).values)
    assert Features({"text": store}).in_memory(store.nbytes).store("text").memory


def test_who_may_only_read_can_use_what_is_complete(uri, monkeypatch):
    def refuse(self):
        raise StorageError("permission denied")

    monkeypatch.setattr(RemoteFolder, "make", refuse)
    root = uri.rpartition("/")[0]
    assert extract(Digits(), numbers(2500), "text", root).kept == 2500
    with pytest.raises(StorageError, match="permission denied"):
        extract(Digits(), numbers(2501), "text", root)


def test_a_file_is_brought_once(uri, fetched):
    store = FeatureStore(uri)
    assert sorted(fetched) == sorted(path.name for path in store.folder.iterdir() if "-" in path.name)
    assert len(fetched) == 9
    fetched.clear()
    FeatureStore(uri)
    (store.folder / "manifest.json").unlink()  # as if killed before it was done
    (store.folder / "values-00001.npy").write_bytes(b"half")
    FeatureStore(uri).verify()
    assert fetched == ["values-00001.npy"]


def test_a_store_that_was_made_anew_is_brought_anew(uri, fetched):
    before = FeatureStore(uri)
    folder = folder_at(uri)
    manifest = json.loads(folder.read("manifest.json"))
    # Another machine's rounding: the same sizes, other values.
    name = "values-00000.npy"
    with folder.whole(name) as path:
        np.save(path, np.load(before.folder / name) + np.float16(1))
        manifest["shards"][0]["files"][name]["digest"] = file_digest(path)
    with folder.whole("manifest.json") as path:
        path.write_text(json.dumps(manifest))
    expected = before.item(0) + 1
    fetched.clear()
    np.testing.assert_array_equal(FeatureStore(uri).item(0), expected)
    assert fetched == [name]


@pytest.mark.parametrize(("name", "found"), [("values-00001.npy", "has digest"), ("offsets-00002.npy", "is missing")])
def test_what_is_torn_there_is_refused_here(uri, name, found):
    folder = folder_at(uri)
    if found == "is missing":
        folder._open()[0].rm_file(f"{folder._open()[1]}/{name}")
    else:
        with folder.whole(name) as path:
            path.write_bytes(b"other")
    with pytest.raises(TornStoreError, match=rf"{uri}/{name} {found}.* expected digest .* Remove manifest\.json there"):
        FeatureStore(uri)


def test_where_there_is_no_store_it_is_said(uri):
    with pytest.raises(StoreError, match=rf"no feature store in {uri}x: expected manifest\.json"):
        FeatureStore(f"{uri}x")
    with folder_at(uri).whole("manifest.json") as path:
        path.write_text("[]")
    with pytest.raises(TornStoreError, match=r"manifest\.json is no manifest \(TypeError"):
        FeatureStore(uri)
