"""Equal files are encoded once: after a fresh checkout, under other names, in a tar file, as views."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lightcrl.data.base import Dataset, file_item
from lightcrl.data.webdataset import Shards
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ItemError
from lightcrl.features import FeatureStore, extract
from lightcrl.features.copies import content, repeated
from lightcrl.tokens import TokenBatch

COUNT = 1500
"""More than a shard."""


class Lengths(Encoder):
    """A file -> one token: its length, and a sum of its bytes."""

    kind = "image"
    dim = 2

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def describe(self) -> Mapping[str, Any]:
        return {"class": "Lengths"}

    def prepare(self, raw: Any) -> bytes:
        data = raw if isinstance(raw, bytes) else Path(raw).read_bytes()
        if data.startswith(b"broken"):
            raise ItemError("broken", "")
        return data

    def encode(self, prepared: Sequence[bytes]) -> TokenBatch:
        self.calls += prepared
        return TokenBatch.full(
            torch.tensor([[[len(data), sum(data) % 1999]] for data in prepared], dtype=torch.float32)
        )


def bytes_of(number: int) -> bytes:
    """Half of the contents have the same length."""
    return f"{number:04d}".encode() if number % 2 else b"x" * number


def write_files(folder: Path, numbers: Sequence[int]) -> Path:
    folder.mkdir(parents=True)
    for name, number in enumerate(numbers):
        (folder / f"{name}.jpg").write_bytes(bytes_of(number))
    return folder


def files(folder: Path) -> Dataset:
    items = [file_item(path, folder) for path in sorted(folder.glob("*.jpg"), key=lambda path: int(path.stem))]
    names = [f"g{number}" for number in range(len(items))]
    links = np.stack([np.arange(len(items))] * 2, 1)
    return Dataset(names, ["train"] * len(items), {"image": items}, {"image": links})


def tokens(store: FeatureStore) -> list[list[float]]:
    return store.read(np.arange(store.rows)).values.tolist()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files and the features of them."""
    root = tmp_path_factory.mktemp("checkout")
    done = extract(Lengths(), files(write_files(root / "files", range(COUNT))), "image", root / "features")
    assert (done.encoded, done.copied) == (COUNT, 0)
    return root


def test_a_fresh_checkout_is_not_encoded_again(checkout, tmp_path):
    shutil.copytree(checkout / "features", tmp_path / "features")
    shutil.copytree(checkout / "files", tmp_path / "files", copy_function=shutil.copy)  # new times
    (tmp_path / "files" / "7.jpg").write_bytes(b"9999")  # as long as before, and another content
    encoder = Lengths()
    data = files(tmp_path / "files")
    old, new = ({item.key for item in each.items["image"]} for each in (files(checkout / "files"), data))
    assert not old & new
    done = extract(encoder, data, "image", tmp_path / "features")
    assert (done.encoded, done.copied, encoder.calls) == (1, COUNT - 1, [b"9999"])
    expected = [bytes_of(number) if number != 7 else b"9999" for number in range(COUNT)]
    assert tokens(done.store) == [[len(data), sum(data) % 1999] for data in expected]
    assert done.store.fingerprint == done.store.manifest["fingerprint"]  # one file has changed
    # What was copied is known by its content again, and the same times need no look at the files.
    for path in (tmp_path / "files").iterdir():
        os.utime(path, ns=(1, 1))
    again = extract(Lengths(), files(tmp_path / "files"), "image", tmp_path / "features")
    assert (again.encoded, again.copied) == (0, COUNT)
    last = extract(Lengths(), files(tmp_path / "files"), "image", tmp_path / "features")
    assert last.kept == COUNT
    # What was trained on the one store is found again on the other.
    for store in (again.store, last.store, last.store.in_memory()):
        assert store.manifest["fingerprint"] != done.store.fingerprint == store.fingerprint
    # Both have one copy of the features on disk, and lose nothing with the other.
    features = sorted(path.name for path in done.store.folder.glob("*.npy"))
    assert len(features) == 4
    for name in features:
        assert (done.store.folder / name).samefile(again.store.folder / name)
    expected = tokens(again.store)
    shutil.rmtree(done.store.folder)
    assert tokens(FeatureStore(again.store.folder, memory=True)) == expected
    assert not list(again.store.folder.glob("*.tmp"))


def test_other_groups_or_splits_make_another_store(checkout, tmp_path):
    shutil.copytree(checkout / "features", tmp_path / "features")
    data = files(checkout / "files")
    first = FeatureStore(next((tmp_path / "features").iterdir()))
    for groups, splits in (
        (data.groups, ["dev", *data.splits[1:]]),
        ([f"h{number}" for number in range(COUNT)], data.splits),
    ):
        done = extract(Lengths(), Dataset(groups, splits, data.items, data.links), "image", tmp_path / "features")
        assert (done.encoded, done.copied) == (0, COUNT)
        assert tokens(done.store) == tokens(first)
        assert done.store.fingerprint != first.fingerprint


def without_first(data: Dataset) -> Dataset:
    """The same files but one, so that another store is made."""
    items, links = data.items["image"][1:], data.links["image"][:-1]
    return Dataset(data.groups[1:], data.splits[1:], {"image": items}, {"image": links})


def test_files_of_known_size_and_time_are_not_read(checkout, tmp_path, monkeypatch):
    shutil.copytree(checkout / "features", tmp_path / "features")
    monkeypatch.setattr("lightcrl.features.siblings.content", lambda item: pytest.fail(f"{item.source} is read"))
    monkeypatch.setattr("lightcrl.features.shards.content", lambda item: pytest.fail(f"{item.source} is read"))
    assert (
        extract(Lengths(), without_first(files(checkout / "files")), "image", tmp_path / "features").copied == COUNT - 1
    )


def test_a_store_of_earlier_versions_is_copied_by_key_and_its_files_are_known_from_then_on(checkout, tmp_path):
    shutil.copytree(checkout / "features", tmp_path / "features")
    (manifest,) = (tmp_path / "features").rglob("manifest.json")
    stored = json.loads(manifest.read_text())
    for shard in stored["shards"]:
        (name,) = (name for name in shard["files"] if name.startswith("items"))
        pq.write_table(pq.read_table(manifest.with_name(name)).drop_columns("content"), manifest.with_name(name))
        shard["files"][name] = {"bytes": manifest.with_name(name).stat().st_size, "digest": ""}
    manifest.write_text(json.dumps(stored))
    first = extract(Lengths(), without_first(files(checkout / "files")), "image", tmp_path / "features")
    assert (first.encoded, first.copied) == (0, COUNT - 1)
    fresh = shutil.copytree(checkout / "files", tmp_path / "files", copy_function=shutil.copy)
    done = extract(Lengths(), files(fresh), "image", tmp_path / "features")
    assert (done.encoded, done.copied) == (1, COUNT - 1)


def test_copies_under_other_names_are_encoded_once_in_whatever_shard_they_are(tmp_path):
    numbers = [*range(COUNT), 3, 4, 4, 1400]
    folder = write_files(tmp_path / "files", numbers)
    (folder / f"{len(numbers)}.jpg").write_bytes(b"broken")
    (folder / f"{len(numbers) + 1}.jpg").write_bytes(b"broken")
    encoder = Lengths()
    done = extract(encoder, files(folder), "image", tmp_path / "features")
    assert sorted(encoder.calls) == sorted(bytes_of(number) for number in range(COUNT))
    assert (done.encoded, done.copied, len(done.rejected)) == (COUNT, 4, 2)
    assert tokens(done.store) == [[len(bytes_of(n)), sum(bytes_of(n)) % 1999] for n in numbers]
    names = done.store.metadata()["source"].to_pylist()
    assert names == [f"{number}.jpg" for number in range(len(numbers))]


def test_a_file_in_a_tar_file_is_the_same_file(checkout, tmp_path):
    shutil.copytree(checkout / "features", tmp_path / "features")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number in range(20):
            tar.add(checkout / "files" / f"{number}.jpg", f"{number}.jpg")
    rows = list(Shards({"image": "image"}, tmp_path / "shard.tar").rows())
    items = [row.cells["image"][0] for row in rows]
    links = np.stack([np.arange(20)] * 2, 1)
    data = Dataset([row.key for row in rows], ["train"] * 20, {"image": items}, {"image": links})
    done = extract(Lengths(), data, "image", tmp_path / "features")
    assert (done.encoded, done.copied) == (0, 20)
    assert content(items[3]) == content(files(checkout / "files").items["image"][3])


def test_only_files_of_equal_content_are_repeated(tmp_path):
    folder = write_files(tmp_path / "files", [1, 3, 1, 2, 4, 4, 3, 5])
    items = files(folder).items["image"]
    assert sorted(item.source for item in repeated(items)) == ["0.jpg", "1.jpg", "4.jpg"]
    (folder / "0.jpg").unlink()
    assert content(items[0]) is None
    assert sorted(item.source for item in repeated(items)) == ["1.jpg", "4.jpg"]
