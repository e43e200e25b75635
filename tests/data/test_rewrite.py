"""Data written anew with items left out, merged and replaced, and read again."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightcrl.data import load_dataset
from lightcrl.data.rewrite import Edits, rewrite
from lightcrl.data.spec import DataSpec

KINDS = {"image": "image", "text": "text"}
ROWS = [
    {"image": "a.png", "text": "a cat", "url": "u1"},
    {"image": "a.png", "text": "a lorry", "url": "u2"},
    {"image": "b.png", "text": "the same cat, asleep", "url": "u3"},
    {"image": "c.png", "text": "a dog", "url": "u4"},
]


def write(folder, suffix):
    for name in "abc":
        (folder / f"{name}.png").write_bytes(name.encode() * 4)
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def edited(spec):
    """Edits that drop "a lorry", merge b into a, and replace "a dog"."""
    dataset = load_dataset(spec, KINDS)
    items = {str(item.raw).rpartition("/")[2]: item for kind in KINDS for item in dataset.items[kind]}
    a, b = items["a.png"], items["b.png"]
    return Edits(
        dict.fromkeys(dataset.groups, "train"),
        frozenset({("a.png", "text", items["a lorry"].key)}),
        {("c.png", "text", items["a dog"].key): "a brown dog"},
        {"b.png": "a.png"},
        {("image", b.key): a},
    )


def groups(spec):
    """The texts of each group, by name."""
    dataset = load_dataset(spec, KINDS)
    texts = {name: set() for name in dataset.groups}
    for item, group in dataset.links["text"].tolist():
        texts[dataset.groups[group]].add(str(dataset.items["text"][item].raw))
    return texts


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".tsv"])
def test_a_table_is_written_back_in_its_own_format_with_all_columns(tmp_path, suffix):
    if suffix == ".tsv":
        path = write(tmp_path, ".csv").rename(tmp_path / "rows.tsv")
        path.write_text(path.read_text().replace('"the same cat, asleep"', "the same cat").replace(",", "\t"))
        return_text = "the same cat"
    else:
        path, return_text = write(tmp_path, suffix), "the same cat, asleep"
    spec = DataSpec(train=str(path))
    new = rewrite(spec, KINDS, edited(spec), tmp_path)
    assert new.train == str(tmp_path / f"cleaned-train{suffix}")
    assert groups(new) == {"a.png": {"a cat", return_text}, "c.png": {"a brown dog"}}
    marked = load_dataset(new, {"image": "image", "recaptioned": "text"})  # new texts are marked as such
    assert [str(item.raw) for item in marked.items["recaptioned"]] == ["a brown dog"]
    kept = load_dataset(new, {**KINDS, "url": "text"})
    assert {str(item.raw) for item in kept.items["url"]} == {"u1", "u3", "u4"}
    # The kept items are the same items: nothing would be encoded again.
    before = {item.key for item in load_dataset(spec, KINDS).items["image"]}
    assert {item.key for item in kept.items["image"]} < before


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_item_moves_into_another_group_with_the_columns_of_that_group(tmp_path, suffix):
    """Also into one that loses all its own texts, and into one that is merged."""
    spec = DataSpec(train=str(write(tmp_path, suffix)))
    items = {str(item.raw): item for item in load_dataset(spec, KINDS).items["text"]}
    moved = {("a.png", "text", items["a lorry"].key): "c.png", ("c.png", "text", items["a dog"].key): "b.png"}
    names = dict.fromkeys(["a.png", "b.png", "c.png"], "train")
    new = rewrite(spec, KINDS, Edits(names, moved=moved), tmp_path)
    assert groups(new) == {"a.png": {"a cat"}, "b.png": {"the same cat, asleep", "a dog"}, "c.png": {"a lorry"}}
    urls = load_dataset(new, {"image": "image", "url": "text"})
    found = {(urls.groups[group], str(urls.items["url"][item].raw)) for item, group in urls.links["url"].tolist()}
    assert found == {("a.png", "u1"), ("b.png", "u3"), ("c.png", "u4")}
    both = Edits(names, moved=moved, merged={"b.png": "a.png"}, copies=edited(spec).copies)
    merged = rewrite(spec, KINDS, both, tmp_path, "merged")
    assert groups(merged)["a.png"] == {"a cat", "the same cat, asleep", "a dog"}


def test_an_item_moves_between_lists(tmp_path):
    write(tmp_path, ".jsonl")
    rows = [{"image": "a.png", "text": ["a cat", "a dog"]}, {"image": "b.png", "text": ["a lorry", "a bus"]}]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(train=str(path))
    item = next(item for item in load_dataset(spec, KINDS).items["text"] if str(item.raw) == "a dog")
    edits = Edits({"a.png": "train", "b.png": "train"}, moved={("a.png", "text", item.key): "b.png"})
    assert groups(rewrite(spec, KINDS, edits, tmp_path)) == {"a.png": {"a cat"}, "b.png": {"a lorry", "a bus", "a dog"}}


def test_drawn_splits_are_written_down_in_lines_of_groups(tmp_path):
    spec = DataSpec(path=str(write(tmp_path, ".jsonl")))
    edits = edited(spec)
    edits.splits["c.png"] = "dev"
    new = rewrite(spec, KINDS, edits, tmp_path / ".")
    assert (new.key, new.split_column) == ("group", "split")
    lines = [json.loads(line) for line in (tmp_path / "cleaned.jsonl").read_text().splitlines()]
    assert {line["group"]: line["split"] for line in lines} == {"a.png": "train", "c.png": "dev"}
    assert {line["group"]: line["recaptioned"] for line in lines} == {"a.png": [], "c.png": ["a brown dog"]}
    assert groups(new) == {"a.png": {"a cat", "the same cat, asleep"}, "c.png": {"a brown dog"}}


def test_pictures_that_are_no_files_become_files(tmp_path):
    spec = DataSpec(source="synthetic", options={"groups": 4, "captions": 2})
    dataset = load_dataset(spec, KINDS)
    splits = dict(zip(dataset.groups, dataset.splits, strict=True))
    left_out = dataset.groups[1]
    edits = Edits({name: split for name, split in splits.items() if name != left_out})
    new = rewrite(spec, KINDS, edits, tmp_path)
    again = load_dataset(new, KINDS)
    assert again.groups == [name for name in dataset.groups if name != left_out]
    assert len(again.items["text"]) == 6
    assert all(item.raw.read_bytes().startswith(b"\x89PNG") for item in again.items["image"])
