"""Who belongs to whom, as the stores' metadata say it."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.features.table import Features, make_members
from samples import make_features, randn

OWNERS = {
    "image": ["train:b", "dev:x", "train:a", "train:a", "dev:y"],
    "text": ["train:c", "train:a", "dev:y", "train:b", "train:a", "dev:x", "test:z"],
}


def made(folder) -> Features:
    return make_features(folder, {name: [randn(1, 3)] * len(found) for name, found in OWNERS.items()}, OWNERS)


def test_groups_are_numbered_by_first_appearance_in_the_first_store_that_has_them(tmp_path):
    features = made(tmp_path)
    assert {name: len(split) for name, split in features.splits.items()} == {"train": 3, "dev": 2, "test": 1}
    assert {name: features.names(name) for name in features.splits} == {
        "train": ["b", "a", "c"],
        "dev": ["x", "y"],
        "test": ["z"],
    }
    train = features.split("train").members
    assert (train["image"].rows.tolist(), train["image"].groups.tolist()) == ([0, 2, 3], [0, 1, 1])
    assert (train["text"].rows.tolist(), train["text"].groups.tolist()) == ([3, 1, 4, 0], [0, 1, 1, 2])
    assert train["text"].starts.tolist() == [0, 1, 3, 4]
    assert train["image"].counts.tolist() == [1, 2, 0]
    assert features.split("dev").members["text"].rows.tolist() == [5, 2]
    assert features.split("train").usable.tolist() == [0, 1]


def test_members_are_sorted_by_group_and_row():
    generator = np.random.default_rng(0)
    rows, groups = generator.permutation(50), generator.integers(0, 12, 50)
    members = make_members(rows, groups, 14)
    assert list(zip(members.groups.tolist(), members.rows.tolist(), strict=True)) == sorted(
        zip(groups.tolist(), rows.tolist(), strict=True)
    )
    for group in range(14):
        found = members.rows[members.starts[group] : members.starts[group + 1]]
        assert sorted(rows[groups == group]) == found.tolist()


def test_stores_are_held_if_all_of_them_together_fit(tmp_path):
    features = made(tmp_path)
    size = sum(store.nbytes for store in features.stores.values())
    assert size == 12 * 3 * 4
    assert not any(store.memory for store in features.in_memory(size - 1).stores.values())
    held = features.in_memory(size)
    assert all(store.memory for store in held.stores.values())
    assert held.in_memory(size).stores == held.stores
    for name, store in held.stores.items():
        rows = np.array([4, 0, 2])
        assert store.gather(rows).values.numpy() == pytest.approx(features.store(name).gather(rows).values.numpy())
