from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plain_collect
from lightcrl.data import spool
from lightcrl.data.base import Item, Rejection, Row, draw_split, text_item, write_rejected
from lightcrl.data.groups import collect
from lightcrl.errors import DataError, EmptyDatasetError, TooManyRejectedError

KINDS = {"image": "image", "text": "text"}


def row(key: str, image: str | None = None, *texts: str, split: str | None = None) -> Row:
    cells = {"text": [text_item(text, key) for text in texts]}
    if image is not None:
        cells["image"] = [Item(f"file {image}", image, Path(image))]
    return Row(key, cells, split)


def test_five_rows_of_one_picture_are_one_group() -> None:
    data = collect([row("a", "a.jpg", f"caption {n}") for n in range(5)] + [row("b", "b.jpg", "caption 0")], KINDS)
    assert data.groups == ["a", "b"]
    assert [item.source for item in data.items["image"]] == ["a.jpg", "b.jpg"]
    assert [item.read() for item in data.items["text"]] == [f"caption {n}" for n in range(5)]
    assert data.links["image"].tolist() == [[0, 0], [1, 1]]
    assert data.links["text"].tolist() == [[0, 0], [0, 1], [1, 0], [2, 0], [3, 0], [4, 0]]
    assert data.links["text"].dtype == np.int32


def test_a_modality_may_be_missing_from_some_groups_or_all() -> None:
    data = collect([row("a", "a.jpg"), row("b", None, "words")], {**KINDS, "audio": "audio"})
    assert data.links["image"].tolist() == [[0, 0]]
    assert data.links["text"].tolist() == [[0, 1]]
    assert data.items["audio"] == []
    assert data.links["audio"].shape == (0, 2)


def test_rows_without_items_are_no_groups() -> None:
    assert collect([row("a"), row("b", "b.jpg")], KINDS).groups == ["b"]
    with pytest.raises(EmptyDatasetError, match="no groups"):
        collect([row("a")], KINDS)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1), st.randoms())
def test_order_changes_neither_groups_nor_splits(pairs: list[tuple[int, int, int]], dice: random.Random) -> None:
    rows = [row(f"key {key}", f"{image}.jpg", f"text {text}") for key, image, text in pairs]
    fractions = {"dev": 0.3, "test": 0.2}
    one = collect(rows, KINDS, fractions=fractions)
    dice.shuffle(rows)
    other = collect(rows, KINDS, fractions=fractions)
    assert dict(zip(one.groups, one.splits, strict=True)) == dict(zip(other.groups, other.splits, strict=True))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=1))
def test_groups_that_share_a_picture_are_in_one_split(pairs: list[tuple[int, int]]) -> None:
    data = collect([row(f"key {key}", f"{image}.jpg") for key, image in pairs], KINDS, fractions={"dev": 0.5})
    splits_of: dict[int, set[str]] = {}
    for item, group in data.links["image"]:
        splits_of.setdefault(int(item), set()).add(data.splits[group])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert data.rejected == []
    assert len(data.groups) == len({key for key, _ in pairs})


def test_groups_that_share_only_a_text_are_drawn_alone() -> None:
    data = collect([row(f"key {n}", f"{n}.jpg", "a dog runs") for n in range(200)], KINDS, fractions={"dev": 0.5})
    assert data.splits == [draw_split(f"key {n}", {"dev": 0.5}) for n in range(200)]
    assert len(data.items["text"]) == 1


def test_fractions_are_kept_to_within_chance() -> None:
    counts = Counter(draw_split(f"{n}.jpg", {"dev": 0.1, "test": 0.2}) for n in range(20_000))
    for split, share in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert abs(counts[split] / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_a_larger_dev_split_keeps_the_smaller_one() -> None:
    names = [f"{n}.jpg" for n in range(500)]
    small, large = ({name for name in names if draw_split(name, {"dev": share}) == "dev"} for share in (0.1, 0.3))
    assert small < large


def test_splits_drawn_today_are_those_of_tomorrow() -> None:
    fractions = {"dev": 0.3, "test": 0.3}
    drawn = " ".join(draw_split(f"{n}.jpg", fractions) for n in range(8))
    assert drawn == "test dev test test train dev train train"


@pytest.mark.parametrize(
    "leak",
    [row("same", "1.jpg", split="train"), row("other", "2.jpg", split="train")],
    ids=["same group", "same picture"],
)
def test_what_is_in_two_splits_leaves_train(leak: Row) -> None:
    rows = [*(row(f"{n}", f"{n}.png", split="train") for n in range(8)), leak, row("same", "2.jpg", split="dev")]
    for order in (rows, rows[::-1]):
        data = collect(order, KINDS)
        assert sorted(zip(data.splits, data.groups, strict=True))[:2] == [("dev", "same"), ("train", "0")]
        assert len(data.groups) == 9
        assert [(rejection.source, rejection.reason) for rejection in data.rejected] == [(leak.key, "leak")]


def test_a_text_in_two_splits_is_no_leak() -> None:
    data = collect([row("a", "a.jpg", "a dog", split="train"), row("b", "b.jpg", "a dog", split="test")], KINDS)
    assert data.splits == ["train", "test"]


def test_drawn_splits_do_not_leak_into_given_ones() -> None:
    """A source may give some rows a split and leave others to be drawn."""
    given = [row(f"{n}", f"{n}.jpg", split="train") for n in range(40)]
    drawn = [row(f"{n} again", f"{n}.jpg") for n in range(40)] + [row("alone", "alone.jpg")]
    data = collect(given + drawn, KINDS, fractions={"dev": 0.5}, max_rejected=1)
    splits_of: dict[int, set[str]] = {}
    for item, group in data.links["image"]:
        splits_of.setdefault(int(item), set()).add(data.splits[group])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {rejection.reason for rejection in data.rejected} == {"leak"}


def test_one_name_in_one_split_is_one_group() -> None:
    data = collect([row("a", "a.jpg", split="train"), row("a", None, "drawn")], KINDS, fractions={"dev": 0})
    assert (data.groups, data.splits) == (["a"], ["train"])
    assert data.links["text"].tolist() == [[0, 0]]


BAD = Rejection("t.jsonl:3", "empty text", "", "text")


def test_what_is_set_aside_is_listed() -> None:
    data = collect([row("a", "a.jpg", *"abcd"), BAD], KINDS)
    assert data.rejected == [BAD]
    assert str(BAD) == "t.jsonl:3: empty text"


def test_strict_stops_at_the_first() -> None:
    with pytest.raises(DataError, match=r"^t\.jsonl:3: empty text\. strict = true stops"):
        collect([row("a", "a.jpg"), BAD, Rejection("t.jsonl:4", "missing file")], KINDS, strict=True)


def test_the_limit_is_a_share_of_all_items() -> None:
    rows = [row("a", "a.jpg", *"abcdefg"), BAD, BAD]
    assert len(collect(rows, KINDS, max_rejected=0.2).rejected) == 2
    with pytest.raises(TooManyRejectedError) as caught:
        collect([*rows, Rejection("t.jsonl:9", "missing file", "x.jpg", "image")], KINDS, max_rejected=0.2)
    assert str(caught.value) == (
        "3 of 11 items were set aside (27%; at most 20% are allowed by data.max_rejected): "
        "2 empty text, 1 missing file. First: t.jsonl:3: empty text."
    )


def test_a_list_of_what_was_set_aside_is_json_lines(tmp_path: Path) -> None:
    write_rejected([BAD, Rejection("u:1", "missing file", "half \ud83d")], tmp_path / "rejected.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert lines[0] == {"source": "t.jsonl:3", "modality": "text", "reason": "empty text", "detail": ""}
    assert lines[1]["detail"] == "half \ud83d"


@pytest.mark.parametrize("kind", ["image", "vectors", "text"])
@pytest.mark.parametrize("fractions", [{}, {"dev": 0.4, "test": 0.2}])
@pytest.mark.parametrize("names", [4, 30])
def test_groups_on_disk_are_those_of_dictionaries(names: int, fractions: dict[str, float], kind: str) -> None:
    """Names that repeat, with and without splits of their own, leaks and shared pictures, over parts of 3 lines."""
    for seed in range(25):
        dice = random.Random(seed)
        rows = [random_row(dice, number, names) for number in range(dice.randrange(40))]
        assert_as_by_dictionaries([BAD, *rows], {"text": "text", "image": kind}, fractions)


def random_row(dice: random.Random, number: int, names: int) -> Row:
    """A group may be called like a picture, and items of one key may have different sources."""
    picture, key = dice.randrange(names + 1), dice.randrange(names)
    cells = {"text": [Item(f"t{n}", f"row {number}", f"text {n}") for n in dice.choices(range(names), k=2)]}
    if picture < names:
        raw = Path(f"{picture}.jpg") if picture % 2 else b"%d" % picture
        cells["image"] = [Item(f"file {picture}.jpg", f"row {number}", raw)]
    name = f"file {key}.jpg" if key == 3 else f"key {key}"
    return Row(name, cells, dice.choice([None, None, "train", "train", "dev"]))


def assert_as_by_dictionaries(
    rows: Sequence[Row | Rejection], kinds: dict[str, str], fractions: dict[str, float]
) -> None:
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "PART", 3)
        patch.setattr(spool, "HELD", 2000)
        for read in (collect, plain_collect.collect):
            try:
                data = read(rows, kinds, fractions=fractions, max_rejected=1)
            except EmptyDatasetError as error:
                results.append(str(error))
                continue
            links = {name: pairs.tolist() for name, pairs in data.links.items()}
            items = {name: list(each) for name, each in data.items.items()}
            results.append((list(data.groups), data.splits, items, links, data.rejected))
    assert results[0] == results[1]


def test_a_large_table_lies_in_a_file_that_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path))
    monkeypatch.setattr(spool, "HELD", 10_000)
    odd = "caf\udce9.jpg"  # a file name that is not UTF-8
    rows = [row(f"key {n}", f"{n}.jpg", f"text {n}") for n in range(9000)]
    rows[7] = Row(odd, {"image": [Item(odd, odd, Path(odd))], "text": [text_item("odd", odd)]})
    data = collect(rows, KINDS)
    assert (data.groups[7], data.items["image"][7].raw, data.items["text"][7].source) == (odd, Path(odd), odd)
    assert data.items["image"][-1] == Item("file 8999.jpg", "8999.jpg", Path("8999.jpg"))
    assert data.items["text"][4090:4100] == [text_item(f"text {n}", f"key {n}") for n in range(4090, 4100)]
    assert data.items["text"][::4000] == [data.items["text"][n] for n in (0, 4000, 8000)]
    assert data.links["text"].tolist() == [[n, n] for n in range(9000)]
    assert list((tmp_path / "items").iterdir()) == []  # it has no name
