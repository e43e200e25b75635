"""What stands in two splits is found, what does not is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightcrl.data.base import Dataset, Item, bytes_item, file_item, text_item
from lightcrl.studies.check.leaks import exact_twins, near_twins, shared_texts
from samples import randn


def dataset(items: list[Item], splits: list[str], links: list[tuple[int, int]] | None = None) -> Dataset:
    groups = [f"g{n}" for n in range(len(splits))]
    pairs = np.array(links or [(n, n) for n in range(len(items))], dtype=np.int64)
    return Dataset(groups, splits, {"m": items}, {"m": pairs})


def test_the_same_file_under_another_name_is_a_leak(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"three")):
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "c", (1, 1))
    items = [file_item(tmp_path / name, tmp_path) for name in "abcd"]
    twins, compared = exact_twins(dataset(items, ["train", "train", "test", "dev"]), "m")
    assert [(twin.train, twin.other, twin.split) for twin in twins] == [("a", "c", "test")]
    assert compared == 4


def test_texts_and_bytes_are_compared_and_what_must_be_fetched_is_counted_out():
    fetched = Item("k", "far", lambda: b"one")
    items = [text_item("a dog", "1"), bytes_item(b"x", "2"), fetched, bytes_item(b"x", "4")]
    data = dataset(items[:3], ["train", "train", "train", "dev"], [(0, 0), (0, 3), (1, 1), (2, 2)])
    twins, compared = exact_twins(data, "m")
    assert [(twin.other, twin.split) for twin in twins] == [("1", "dev")]
    assert compared == 2


def sources(count: int, name: str) -> list[Item]:
    return [Item(f"{name}{n}", f"{name}{n}", Path(f"{name}{n}")) for n in range(count)]


def test_planted_near_duplicates_are_found_and_nothing_else():
    train, dev = randn(400, 64, seed=1), randn(150, 64, seed=2)
    dev[[7, 90]] = train[[30, 200]] + 0.1 * randn(2, 64, seed=3)
    twins, threshold, typical, within = near_twins(
        (train, torch.arange(400), sources(400, "t")), (dev, sources(150, "d"))
    )
    assert {(twin.train, twin.other) for twin in twins} == {("t30", "d7"), ("t200", "d90")}
    assert typical < 0.6 < 0.95 <= threshold
    assert within == 0
    assert [twin.cosine for twin in twins] == sorted((twin.cosine for twin in twins), reverse=True)
    assert twins[0].cosine == pytest.approx(0.995, abs=0.004)


def test_where_all_items_lie_close_only_the_closest_count():
    """Two items a hundredth apart are no near-duplicates where all neighbours are."""
    base = randn(60, 2, seed=1).repeat_interleave(8, 0)
    values = base + 0.02 * randn(480, 2, seed=2)
    twins, threshold, typical, _ = near_twins(
        (values[:400], torch.arange(400), sources(400, "t")), (values[400:], sources(80, "d"))
    )
    assert typical > 0.99
    assert threshold > typical
    assert len(twins) < 8


def test_shared_texts_come_with_their_groups():
    items = [text_item(text, text) for text in ("a dog", "a cat", "a red bird")]
    data = dataset(items, ["train"] * 4, [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (2, 3)])
    assert shared_texts(data, "m") == [("a dog", 3), ("a cat", 2)]
