"""Every item is encoded once; what is complete is kept; what cannot be read is set aside."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forked import Program
from lightcrl.data.base import Dataset
from lightcrl.errors import DataError, StorageError, TooManyRejectedError
from lightcrl.features import FeatureStore, extract
from lightcrl.features.store import complete_shards
from worlds import Digits, numbers


def stored(store: FeatureStore) -> dict[str, np.ndarray]:
    table = store.metadata()
    return {
        item: store.item(row) for item, row in zip(table["item"].to_pylist(), table["row"].to_pylist(), strict=True)
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a store; hidden ones are locks, of which a kill may leave some."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def test_the_store_holds_what_the_encoder_says(tmp_path):
    data, encoder = numbers(50), Digits()
    found = stored(extract(encoder, data, "text", tmp_path).store)
    assert len(found) == 50
    for item in data.items["text"]:
        np.testing.assert_array_equal(found[item.key], encoder.tokens(item.raw).astype("float16"))


def test_a_second_run_encodes_nothing(tmp_path):
    extract(Digits(), numbers(50), "text", tmp_path)
    encoder = Digits()
    again = extract(encoder, numbers(50), "text", tmp_path)
    assert (again.encoded, again.copied, again.kept, encoder.calls) == (0, 0, 50, [])


def test_an_item_is_encoded_once_however_many_groups_hold_it(tmp_path):
    data = numbers(3)
    data = replace(data, links={"text": np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 2]])})
    encoder = Digits()
    store = extract(encoder, data, "text", tmp_path).store
    assert len(encoder.calls) == store.rows == 3
    assert store.metadata()["group"].to_pylist() == ["g0", "g1", "g2", "g0", "g2"]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_more_data_encodes_only_what_is_new(tmp_path, dtype):
    extract(Digits(), numbers(50), "text", tmp_path, dtype=dtype)
    encoder = Digits()
    more = extract(encoder, numbers(60), "text", tmp_path, dtype=dtype)
    assert (more.encoded, more.copied, len(encoder.calls)) == (10, 50, 10)
    alone = extract(Digits(), numbers(60), "text", tmp_path / "alone", dtype=dtype)
    assert contents(more.store.folder) == contents(alone.store.folder)


class TwoDigits(Digits):
    """It takes the first two digits of a number."""

    def prepare(self, raw):
        number = super().prepare(raw)
        return (number[:2], len(number) > 2)

    def length(self, prepared):
        return len(prepared[0])

    def cut(self, prepared):
        return prepared[1]

    def encode(self, prepared):
        return super().encode([number for number, _ in prepared])


def cut(store: FeatureStore) -> list[str]:
    """Sources of the items that were cut."""
    table = store.metadata()
    sources = dict(zip(table["row"].to_pylist(), table["source"].to_pylist(), strict=True))
    return [sources[row] for row in store.cut.tolist()]


def long_numbers(data: Dataset) -> list[str]:
    return [item.source for item in data.items["text"] if len(item.raw) > 2 and item.raw.isdigit()]


def test_items_that_are_cut_are_the_same_whoever_made_the_store(tmp_path):
    data = numbers(2500, bad=[7, 1200])
    first = extract(TwoDigits(), data, "text", tmp_path)
    expected = long_numbers(data)
    assert cut(first.store) == expected
    assert len(expected) == len(first.store.cut) > 2300
    assert cut(extract(TwoDigits(), data, "text", tmp_path).store) == expected
    # Resumed: one shard is made again, two are kept.
    (first.store.folder / "manifest.json").unlink()
    (first.store.folder / "shard-00001.json").unlink()
    again = extract(TwoDigits(), data, "text", tmp_path)
    assert (again.kept > 0, again.encoded > 0, cut(again.store)) == (True, True, expected)
    # Copied: a larger data set finds all of these in their store.
    larger = numbers(2600, bad=[7, 1200])
    more = extract(TwoDigits(), larger, "text", tmp_path)
    assert (more.copied, cut(more.store)) == (2498, long_numbers(larger))


def test_a_store_without_cut_items_says_nothing_of_them(tmp_path):
    store = extract(Digits(), numbers(50), "text", tmp_path).store
    assert len(store.cut) == 0
    assert "cut" not in (store.folder / "manifest.json").read_text()


def test_a_changed_encoder_or_dtype_encodes_everything(tmp_path):
    extract(Digits(), numbers(20), "text", tmp_path)
    assert extract(Digits(version=2), numbers(20), "text", tmp_path).encoded == 20
    assert extract(Digits(), numbers(20), "text", tmp_path, dtype="float32").encoded == 20


def test_unreadable_items_are_set_aside_and_counted(tmp_path):
    done = extract(Digits(), numbers(50, bad=[3, 17]), "text", tmp_path)
    assert done.store.rows == 48
    assert [(one.source, one.reason, one.detail) for one in done.rejected] == [
        ("numbers:3", "not a number", "word 3"),
        ("numbers:17", "not a number", "word 17"),
    ]
    assert "g3" not in done.store.metadata()["group"].to_pylist()
    again = extract(Digits(), numbers(50, bad=[3, 17]), "text", tmp_path)
    assert again.rejected == done.rejected


def test_strict_stops_at_the_first(tmp_path):
    with pytest.raises(DataError, match=r"numbers:3: not a number: word 3\. strict = true"):
        extract(Digits(), numbers(50, bad=[3, 17]), "text", tmp_path, strict=True)


def test_too_many_rejected_stop_with_the_reasons_counted(tmp_path):
    with pytest.raises(TooManyRejectedError, match=r"15 of 50 items .* 15 not a number"):
        extract(Digits(), numbers(50, bad=range(15)), "text", tmp_path)
    assert extract(Digits(), numbers(50, bad=range(15)), "text", tmp_path, max_rejected=0.3).store.rows == 35


def test_features_too_large_for_float16_are_set_aside(tmp_path):
    encoder = Digits(version=10**6)
    with pytest.raises(TooManyRejectedError, match="50 not finite"):
        extract(encoder, numbers(50), "text", tmp_path)
    assert extract(encoder, numbers(50), "text", tmp_path, dtype="float32").store.rows == 50


def test_a_full_disk_keeps_complete_shards(tmp_path, monkeypatch):
    data, real, left = numbers(2500), np.save, [3]

    def save(stream, array):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", stream.name)
        real(stream, array)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(StorageError, match="the disk is full"):
        extract(Digits(), data, "text", tmp_path)
    monkeypatch.undo()
    done = extract(Digits(), data, "text", tmp_path)
    assert (done.kept, done.encoded) == (1024, 2500 - 1024)


def test_a_torn_shard_is_made_again(tmp_path):
    whole = extract(Digits(), numbers(2500), "text", tmp_path)
    before = contents(whole.store.folder)
    path = whole.store.folder / "values-00001.npy"
    path.write_bytes(path.read_bytes()[:100])
    (whole.store.folder / "manifest.json").unlink()
    assert set(complete_shards(whole.store.folder, 3, whole.store.fingerprint)) == {0, 2}
    again = extract(Digits(), numbers(2500), "text", tmp_path)
    assert (again.kept, again.encoded) == (1476, 1024)
    assert contents(again.store.folder) == before


def test_killed_at_random_moments_the_store_is_the_same_to_the_byte(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from worlds import Digits, numbers\n"
        "from lightcrl.features import extract\n"
        f"extract(Digits(pause=0.002), numbers(4000, bad=range(0, 4000, 41)), 'text', {str(tmp_path / 'killed')!r})\n"
    )
    whole = extract(Digits(), numbers(4000, bad=range(0, 4000, 41)), "text", tmp_path / "whole")
    folder = tmp_path / "killed" / whole.store.folder.name
    rng = random.Random(7)
    for _ in range(4):
        with Program(script) as process:
            # Counted from the first file on, so that the kill falls into the work and not into the imports.
            while process.poll() is None and not folder.exists():
                time.sleep(0.01)
            time.sleep(rng.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
    with Program(script) as process:
        assert process.wait() == 0
    assert contents(folder) == contents(whole.store.folder)
