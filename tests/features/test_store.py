"""The store gives back what was put in, and refuses what is not whole."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightcrl.errors import StaleStoreError, StoreError, TornStoreError
from lightcrl.features import reading
from lightcrl.features.packing import pack
from lightcrl.features.store import FeatureStore, write_manifest, write_shard

HEADER = {"modality": "text", "kind": "text", "encoder": {"fingerprint": "e"}, "dim": 3, "slots": 1, "dtype": "float16"}


def write(folder: Path, sequences: list[np.ndarray], shard_size: int, dtype: str = "float16") -> FeatureStore:
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(sequences), shard_size)):
        part = sequences[first : first + shard_size]
        metadata = {
            "row": list(range(len(part))),
            "item": [f"k{first + place}" for place in range(len(part))],
            "group": [f"g{(first + place) // 2}" for place in range(len(part))],
            "split": ["train"] * len(part),
            "source": ["somewhere"] * len(part),
        }
        shards.append(write_shard(folder, number, "f1", part, metadata, [], 3, dtype))
    write_manifest(folder, "f1", {**HEADER, "dtype": dtype}, shards)
    return FeatureStore(folder)


def sequences(count: int, seed: int = 0, longest: int = 5) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(generator.integers(1, longest + 1), 3)).astype("float16") for _ in range(count)]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), shard_size=st.integers(1, 12), memory=st.booleans(), data=st.data())
def test_gather_gives_items_in_the_order_asked(tmp_path_factory, count, shard_size, memory, data):
    wanted = sequences(count)
    folder = tmp_path_factory.mktemp("store")
    write(folder, wanted, shard_size)
    store = FeatureStore(folder, "f1", memory=memory)
    rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20))
    batch = store.gather(np.array(rows))
    assert batch.values.dtype == torch.float16
    for row, found in zip(rows, batch.ragged(), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted[row])


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    longest=st.integers(1, 5),
    gap=st.sampled_from([0, 6, 30, 10**6]),
    run=st.sampled_from([6, 24, 10**6]),
    slots=st.booleans(),
    data=st.data(),
)
def test_an_excerpt_holds_its_items_however_they_are_read(tmp_path_factory, count, longest, gap, run, slots, data):
    wanted = sequences(count, longest=longest)
    folder = tmp_path_factory.mktemp("store")
    store = write(folder, wanted, 12)
    store.sequence = True
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=30)), dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "GAP", gap)
        patch.setattr(reading, "RUN", run)
        excerpt = store.read(rows, sequence=not slots)
    assert excerpt.rows.tolist() == sorted(set(rows.tolist()))
    assert len(excerpt.values) == sum(1 if slots else len(wanted[row]) for row in set(rows.tolist()))
    for row, found in zip(rows, excerpt.gather(rows).ragged(), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted[row][: 1 if slots else None])


def test_neighbours_are_read_in_one_go(tmp_path, monkeypatch):
    store = write(tmp_path, sequences(1000, longest=1), 400)
    calls, real = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(given[2]) or real(*given))
    store.read(np.arange(100, 600))
    assert len(calls) == 2
    calls.clear()
    monkeypatch.setattr(reading, "GAP", 60)
    store.read(np.array([0, 5, 300, 301]))
    assert len(calls) == 2


def test_a_file_cut_after_opening_is_said_to_be_torn(tmp_path):
    store = write(tmp_path, sequences(8), 4)
    path = tmp_path / "values-00001.npy"
    path.write_bytes(path.read_bytes()[:-3])
    store.gather(np.array([0, 3]))
    with pytest.raises(TornStoreError, match=r"values-00001\.npy ends at byte \d+, \d+ bytes short"):
        store.gather(np.array([0, 7]))


def test_values_are_ragged_on_disk_without_padding(tmp_path):
    wanted = sequences(10)
    write(tmp_path, wanted, 4)
    values = np.concatenate([np.load(tmp_path / f"values-{n:05d}.npy") for n in range(3)])
    np.testing.assert_array_equal(values, np.concatenate(wanted))


def test_metadata_numbers_rows_through_all_shards(tmp_path):
    table = write(tmp_path, sequences(10), 4).metadata()
    assert table.column_names == ["row", "item", "group", "split", "source"]
    assert table["row"].to_pylist() == list(range(10))
    assert table["item"].to_pylist() == [f"k{n}" for n in range(10)]


def test_a_stale_store_is_refused_with_both_fingerprints(tmp_path):
    write(tmp_path, sequences(3), 4)
    with pytest.raises(StaleStoreError, match=r"f1, expected f2"):
        FeatureStore(tmp_path, "f2")


def test_a_store_without_manifest_is_refused(tmp_path):
    write(tmp_path, sequences(3), 4)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"expected manifest\.json"):
        FeatureStore(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    write(tmp_path, sequences(3), 4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StoreError, match="format 99, this version reads up to 2"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("name", ["values-00001.npy", "offsets-00000.npy", "items-00001.parquet"])
def test_a_short_or_missing_file_is_refused_with_both_digests(tmp_path, name):
    store = write(tmp_path, sequences(8), 4)
    expected = {**store.manifest["shards"][0]["files"], **store.manifest["shards"][1]["files"]}[name]["digest"]
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(TornStoreError, match=rf"{name} has \d+ bytes \(digest \w+\), expected .*{expected}"):
        FeatureStore(tmp_path)
    path.unlink()
    with pytest.raises(TornStoreError, match=f"{name} is missing"):
        FeatureStore(tmp_path)


def test_a_changed_byte_is_found_when_everything_is_read(tmp_path):
    write(tmp_path, sequences(8), 4)
    path = tmp_path / "values-00001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    FeatureStore(tmp_path)
    with pytest.raises(TornStoreError, match=r"values-00001\.npy has digest \w+, expected \w+"):
        FeatureStore(tmp_path, memory=True)


def test_opening_takes_no_memory_to_speak_of(tmp_path):
    """200 MiB of values in a sparse file: opened and read from in little time and memory."""
    write(tmp_path, [np.ones((2, 3), "float16")], 4)
    tokens = 200 * 2**20 // 6
    values = np.lib.format.open_memmap(tmp_path / "values-00000.npy", "w+", "float16", (tokens, 3))
    del values
    np.save(tmp_path / "offsets-00000.npy", np.array([0, tokens - 2, tokens], dtype=np.int64))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    shard = manifest["shards"][0]
    shard.update(rows=2, tokens=tokens, longest=tokens)
    for name in ("values-00000.npy", "offsets-00000.npy"):
        shard["files"][name]["bytes"] = (tmp_path / name).stat().st_size
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    store = FeatureStore(tmp_path)
    assert time.perf_counter() - start < 0.5
    assert store.gather(np.array([1])).values.shape == (1, 2, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_int8_halves_the_bytes_and_errs_by_half_a_step_of_each_token(tmp_path):
    generator = np.random.default_rng(0)
    wanted = [generator.normal(size=(1 + n % 4, 96)).astype("f4") * 10.0 ** (n % 9 - 4) for n in range(40)]
    wanted[7][0] = 0
    header = {**HEADER, "dim": 96, "dtype": "int8"}
    metadata = {"row": list(range(40)), **{name: ["g"] * 40 for name in ("item", "group", "split", "source")}}
    shard = write_shard(tmp_path, 0, "f1", [pack(each, "int8") for each in wanted], metadata, [], 96, "int8")
    write_manifest(tmp_path, "f1", header, [shard])
    store, rows = FeatureStore(tmp_path), np.array([39, 7, 3, 3])
    assert store.nbytes == np.load(tmp_path / "values-00000.npy").nbytes == 100 * store.tokens
    for batch in (store.gather(rows), store.in_memory().gather(rows), store.read(np.arange(40)).gather(rows)):
        assert batch.values.dtype == torch.float32
        for row, tokens in zip(rows, batch.ragged(), strict=True):
            step = np.abs(wanted[row]).max(1, keepdims=True) / 127
            assert (np.abs(tokens.numpy() - wanted[row]) <= 0.5001 * step).all()
    np.testing.assert_array_equal(store.item(39), batch.ragged()[0].numpy())
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 2, "others would misread the rows"
