"""Batches are a pure function of split, seed and epoch, and show every item in its turn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.features.table import Split
from lightcrl.training.batches import Batch, Window, count_batches, epoch_batches
from samples import make_split


def captions(groups: int, each: int = 5) -> Split:
    """One image and `each` captions a group; caption rows of group g begin at g * each."""
    return make_split(
        {"image": [[g] for g in range(groups)], "text": [list(range(g * each, (g + 1) * each)) for g in range(groups)]}
    )


def rows(batches: list[Batch], modality: str) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows.get(modality, [])]


def as_lists(batches: list[Batch]) -> list[tuple[dict[str, list[int]], dict[str, list[int]]]]:
    return [
        ({m: found.tolist() for m, found in b.rows.items()}, {m: found.tolist() for m, found in b.groups.items()})
        for b in batches
    ]


@given(groups=st.integers(2, 40), each=st.integers(1, 5), batch_size=st.integers(2, 20), seed=st.integers(0, 99))
def test_each_caption_is_shown_once_an_epoch_with_its_own_image(groups, each, batch_size, seed):
    batches = list(epoch_batches(captions(groups, each), batch_size, 1, seed, 0))
    assert sorted(rows(batches, "text")) == list(range(groups * each))
    assert Counter(rows(batches, "image")) == dict.fromkeys(range(groups), each)
    for batch in batches:
        assert np.array_equal(batch.rows["text"] // each, batch.rows["image"])
        assert np.array_equal(batch.groups["text"], batch.groups["image"])
        assert len(set(batch.groups["text"])) == len(batch.groups["text"])


def test_seed_and_epoch_decide_alone():
    def drawn(seed: int, epoch: int) -> list:
        return as_lists(list(epoch_batches(captions(20), 8, 1, seed, epoch)))

    np.random.seed(1)
    one = drawn(3, 4)
    np.random.seed(2)
    assert drawn(3, 4) == one
    assert drawn(3, 5) != one
    assert drawn(4, 4) != one
    assert drawn(4, 3) != one


def test_a_caption_meets_other_images_and_another_turn_in_the_next_epoch():
    first, second = (list(epoch_batches(captions(30), 10, 1, 0, epoch)) for epoch in (0, 1))
    assert rows(first, "text") != rows(second, "text")
    assert {frozenset(b.rows["image"].tolist()) for b in first}.isdisjoint(
        frozenset(b.rows["image"].tolist()) for b in second
    )


@given(groups=st.integers(2, 200), batch_size=st.integers(2, 64))
def test_no_batch_is_tiny_or_far_from_the_size_asked(groups, batch_size):
    sizes = [len(batch.rows["image"]) for batch in epoch_batches(captions(groups, 1), batch_size, 1, 0, 0)]
    assert sum(sizes) == groups
    assert max(sizes) - min(sizes) <= 1
    assert min(groups, max(2, 2 * batch_size / 3 - 1)) <= min(sizes)
    assert max(sizes) <= 1.5 * batch_size + 1


@pytest.mark.parametrize(("items_per_group", "turns"), [(1, 6), (2, 3), (3, 2), (6, 1), (9, 1)])
def test_items_per_group_come_together_as_positives(items_per_group, turns):
    batches = list(epoch_batches(captions(8, 6), 8, items_per_group, 0, 0))
    assert len(batches) == turns
    assert sorted(rows(batches, "text")) == list(range(48))
    for batch in batches:
        assert Counter(batch.groups["text"].tolist()) == {group: min(items_per_group, 6) for group in range(8)}
        assert Counter(batch.groups["image"].tolist()) == dict.fromkeys(range(8), 1)
        assert np.array_equal(batch.rows["text"] // 6, batch.groups["text"])


def test_a_group_with_fewer_items_takes_part_as_long_as_it_has_new_ones():
    split = make_split({"image": [[0], [1], [2]], "text": [[0, 1, 2], [3, 4, 5], [6]]})
    shown = Counter(rows(list(epoch_batches(split, 3, 1, 0, 0)), "image"))
    assert shown == {0: 3, 1: 3, 2: 1}


def test_groups_of_a_single_modality_take_no_part():
    split = make_split({"image": [[0], [1], [2], []], "text": [[0], [1], [], [2]]})
    batches = list(epoch_batches(split, 4, 1, 0, 0))
    assert sorted(rows(batches, "image")) == [0, 1]
    assert sorted(rows(batches, "text")) == [0, 1]


def test_three_modalities_with_missing_ones():
    split = make_split(
        {
            "image": [[0], [1], [], [2], [3]],
            "sound": [[0], [], [1], [2, 3], [4]],
            "text": [[0, 1], [2], [3], [], []],
        }
    )
    batches = list(epoch_batches(split, 5, 1, 0, 0))
    assert [sorted(set(batch.groups["image"]) | set(batch.groups["sound"])) for batch in batches] == [
        [0, 1, 2, 3, 4], [0, 3]
    ]  # fmt: skip
    assert sorted(rows(batches, "text")) == [0, 1, 2, 3]
    assert sorted(rows(batches, "sound")) == [0, 0, 1, 2, 3, 4]
    for batch in batches:
        for modality, found in batch.rows.items():
            members = split.members[modality]
            for row, group in zip(found, batch.groups[modality], strict=True):
                assert row in members.rows[members.starts[group] : members.starts[group + 1]]


def test_a_modality_that_no_group_of_a_batch_has_is_left_out_of_it():
    split = make_split({"image": [[0], [1]], "sound": [[], []], "text": [[0], [1]]})
    (batch,) = epoch_batches(split, 2, 1, 0, 0)
    assert sorted(batch.rows) == sorted(batch.groups) == ["image", "text"]


def test_groups_that_share_an_item_get_one_number_in_every_modality():
    """Caption 0 describes images 0, 1 and 3; image 2 has its own."""
    split = make_split({"image": [[0], [1], [2], [3]], "text": [[0], [0], [5], [0]]})
    for seed in range(5):
        (batch,) = epoch_batches(split, 4, 1, seed, 0)
        number = dict(zip(batch.rows["image"].tolist(), batch.groups["image"].tolist(), strict=True))
        assert number[0] == number[1] == number[3] != number[2]
        assert set(batch.groups["text"][batch.rows["text"] == 0]) == {number[0]}
        assert batch.groups["text"][batch.rows["text"] == 5].tolist() == [number[2]]


def test_sharing_is_passed_on_from_group_to_group_and_across_modalities():
    """0 and 1 share a text, 1 and 2 an image, 3 and 4 a text."""
    split = make_split({"image": [[0], [1], [1], [3], [4]], "text": [[0], [0], [2], [3], [3]]})
    (batch,) = epoch_batches(split, 5, 1, 0, 0)
    of_text = {row: set(batch.groups["text"][batch.rows["text"] == row]) for row in (0, 2, 3)}
    assert of_text[0] == of_text[2] != of_text[3]
    assert all(len(found) == 1 for found in of_text.values())


@given(groups=st.integers(0, 60), batch_size=st.integers(2, 20), items=st.integers(1, 3), seed=st.integers(0, 9))
def test_the_count_is_the_same_for_every_epoch_and_seed(groups, batch_size, items, seed):
    split = captions(groups, 3) if groups else make_split({"image": [], "text": []})
    assert count_batches(split, batch_size, items) == len(list(epoch_batches(split, batch_size, items, seed, seed + 1)))


def test_a_group_alone_in_its_pass_makes_no_batch():
    assert list(epoch_batches(captions(1), 2, 1, 0, 0)) == []
    split = make_split({"image": [[0], [1], [2]], "text": [[0, 1, 2], [3, 4], [5]]})
    assert [len(batch.rows["text"]) for batch in epoch_batches(split, 3, 1, 0, 0)] == [3, 2]


@given(
    groups=st.integers(2, 60),
    each=st.integers(1, 3),
    batch_size=st.integers(2, 9),
    block=st.integers(1, 9),
    batches=st.integers(1, 5),
)
def test_windows_show_what_a_full_shuffle_shows_in_as_many_batches(groups, each, batch_size, block, batches):
    split, window = captions(groups, each), Window(block, batches)
    found = list(epoch_batches(split, batch_size, 1, 0, 0, window))
    assert sorted(rows(found, "text")) == list(range(groups * each))
    assert len(found) == count_batches(split, batch_size, 1)
    full = [len(batch.rows["image"]) for batch in epoch_batches(split, batch_size, 1, 0, 0)]
    assert sorted(len(batch.rows["image"]) for batch in found) == sorted(full)
    for batch in found:
        assert np.array_equal(batch.rows["image"], np.sort(batch.rows["image"]))
    assert as_lists(list(epoch_batches(split, batch_size, 1, 0, 0, window))) == as_lists(found)


def test_a_window_is_filled_from_few_blocks_whose_groups_all_its_batches_share():
    found = list(epoch_batches(captions(4000, 1), 100, 1, 0, 0, Window(50, 10)))
    windows = {batch.window: [] for batch in found}
    for batch in found:
        windows[batch.window].append(batch.rows["image"])
    assert [len(batches) for batches in windows.values()] == [10, 10, 10, 10]
    other = list(epoch_batches(captions(4000, 1), 100, 1, 0, 1, Window(50, 10)))
    assert {frozenset(rows([batch], "image")) for batch in found}.isdisjoint(
        frozenset(rows([batch], "image")) for batch in other
    )
    blocks = [np.unique(np.concatenate(batches) // 50) for batches in windows.values()]
    assert sorted(np.concatenate(blocks)) == list(range(80))
    # The blocks of a window are drawn from all over the split, and its batches from all of its blocks.
    assert all(found.min() < 20 and found.max() > 60 for found in blocks)
    assert all(len(np.unique(batch // 50)) >= 18 for batches in windows.values() for batch in batches)


def test_one_window_around_everything_is_a_full_shuffle():
    met = np.zeros((40, 40), int)
    for epoch in range(200):
        for batch in epoch_batches(captions(40, 1), 20, 1, 0, epoch, Window(4, 2)):
            met[np.ix_(batch.rows["image"], batch.rows["image"])] += 1
    apart = met[~np.eye(40, dtype=bool)]
    # 19 of 39 others in each of 200 epochs: 97.4 on average, with a deviation of 7.
    assert apart.mean() == pytest.approx(200 * 19 / 39)
    assert apart.min() > 60
    assert apart.max() < 135
    neighbours = np.mean([met[group, group + 1] for group in range(39)])
    assert neighbours == pytest.approx(97.4, abs=5)
